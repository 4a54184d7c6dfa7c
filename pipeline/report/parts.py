"""What a report is made of: sections of tables, charts, notes and commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

Mark = Literal["", "good", "warn", "bad"]


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, a smaller line below it, and a sign and colour that mark it.

    `share` (0 to 1) is drawn as a bar, or as a shade if the table is a heat map.
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

    `folded`: the label to click to unfold it; empty if it is shown at once. `lead`: what to know before reading it.
    """

    kind: ClassVar = "table"
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    folded: str = ""
    lead: str = ""
    is_heat_map: bool = False
    is_text: bool = False
    """Whether its cells are text rather than numbers."""


@dataclass(frozen=True)
class Chart:
    """A drawing with its title and, for readers who cannot see it, what it shows in words."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Charts:
    """Charts of one kind side by side, with how to read them."""

    kind: ClassVar = "charts"
    title: str
    charts: Sequence[Chart]
    lead: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence; `mark` if it asks for attention."""

    kind: ClassVar = "note"
    text: str
    mark: Mark = ""
    heading: str = ""


@dataclass(frozen=True)
class Command:
    """A shell command that shows more."""

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
