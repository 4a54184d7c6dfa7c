"""What a report is made of: sections of tables, charts and notes, and numbers as a person reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

Mark = Literal["", "good", "warn", "bad"]


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, a smaller line below it, and what it says besides by sign and colour.

    `share` (0 to 1) is drawn as a bar, or as a shade where the table is a heat map.
    """

    text: str
    small: str = ""
    mark: Mark = ""
    share: float | None = None


def measured_cell(text: str, past: str | None, *, share: float | None = None) -> Cell:
    """A figure's cell, marked if it is past a threshold (the column `past` of `metrics`)."""
    return Cell(text, "past its threshold" if past else "", "warn" if past else "", share)


@dataclass(frozen=True)
class Table:
    """Rows under column titles; the first column names the row, a row of one cell opens a group.

    `folded`: what to click on to see it; empty where it stands open. `lead`: what to know before reading it.
    """

    kind: ClassVar = "table"
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    folded: str = ""
    lead: str = ""
    is_heat_map: bool = False
    is_text: bool = False
    """Whether its cells hold words more than numbers."""


@dataclass(frozen=True)
class Chart:
    """A drawing, what it is called, and what it shows in words for those who cannot see it."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Charts:
    """Drawings of one kind side by side, with how to read them."""

    kind: ClassVar = "charts"
    title: str
    charts: Sequence[Chart]
    lead: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence; `mark` where it asks for attention."""

    kind: ClassVar = "note"
    text: str
    mark: Mark = ""
    heading: str = ""


@dataclass(frozen=True)
class Command:
    """What to type to see more."""

    kind: ClassVar = "command"
    text: str
    shell: str


Part = Table | Charts | Note | Command


@dataclass(frozen=True)
class Section:
    """A part of the report with a title, an anchor of its own, and a sentence or two on how to read it."""

    anchor: str
    title: str
    lead: str
    parts: Sequence[Part]


def percent(value: float | None) -> str:
    """A share as a percentage of three digits; a dash where there is none.

    >>> percent(0.0974271), percent(0.00861), percent(None)
    ('9.74%', '0.861%', '–')
    """
    return "–" if value is None else f"{100 * value:.3g}%"


def about(count: float) -> str:
    """An expected number of users.

    >>> about(1234.5), about(0.4725)
    ('1,234', '0.5')
    """
    return f"{count:,.0f}" if count >= 10 else f"{count:.1f}"


def signed(count: float) -> str:
    """A number of users more or fewer.

    >>> signed(1234.4), signed(-21.7), signed(0.2)
    ('+1,234', '−22', '±0')
    """
    return f"{_sign(round(count))}{abs(round(count)):,}"


def points(difference: float) -> str:
    """A difference of shares in percentage points.

    >>> points(0.00412), points(-0.1), points(0.00004)
    ('+0.41 points', '−10.00 points', '±0 points')
    """
    rounded = round(100 * difference, 2)
    return f"{_sign(rounded)}{abs(rounded):.2f} points" if rounded else "±0 points"


def change(before: float | None, now: float, kind: str) -> str:
    """How a figure moved, in its own unit; nothing where there is no earlier one.

    >>> change(2704, 2710, "count"), change(0.02, 0.024, "share"), change(5.25, 5.0, "hours"), change(None, 1, "count")
    ('+6', '+0.40 points', '−0.2 h', '')
    >>> change(1.002, 1.001, "ratio")
    '±0.00 ×'
    """
    if before is None:
        return ""
    match kind:
        case "share" | "probability":
            return points(now - before)
        case "count":
            return f"{_sign(now - before)}{abs(now - before):,.0f}"
    difference = figure(abs(now - before), kind)
    return f"±{difference}" if difference == figure(0.0, kind) else f"{_sign(now - before)}{difference}"


def figure(value: float | None, kind: str) -> str:
    """A figure of `monitor` as a person reads it.

    >>> figure(2704.0, "count"), figure(5.25, "hours"), figure(6212.2, "hours"), figure(0.0032, "index")
    ('2,704', '5.2 h', '259 days', '0.003')
    >>> figure(1.04, "ratio"), figure(None, "count")
    ('1.04 ×', '–')
    """
    match kind:
        case _ if value is None:
            return "–"
        case "count":
            return f"{value:,.0f}"
        case "hours":
            return f"{value:.1f} h" if abs(value) < 48 else f"{value / 24:,.0f} days"
        case "index":
            return f"{value:.3f}"
        case "ratio":
            return f"{value:.2f} ×"
    return percent(value)


def plural(count: int, noun: str) -> str:
    """A number and what there are so many of.

    >>> plural(1, "warning"), plural(1200, "user")
    ('1 warning', '1,200 users')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _sign(difference: float) -> str:
    return "+" if difference > 0 else "−" if difference < 0 else "±"
