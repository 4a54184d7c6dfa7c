"""Numbers as a person reads them."""

from pipeline.text import format_number


def format_percent(value: float | None) -> str:
    """A share as a percentage of three digits; a dash for None.

    >>> format_percent(0.0974271), format_percent(0.00861), format_percent(0.0000004), format_percent(None)
    ('9.74%', '0.861%', '0.00004%', '–')
    """
    return "–" if value is None else f"{format_number(100 * value)}%"


def format_expected(count: float) -> str:
    """An expected number of users.

    >>> format_expected(1234.5), format_expected(0.4725)
    ('1,234', '0.5')
    """
    return f"{count:,.0f}" if count >= 10 else f"{count:.1f}"


def format_signed(count: float) -> str:
    """A change in a number of users.

    >>> format_signed(1234.4), format_signed(-21.7), format_signed(0.2)
    ('+1,234', '−22', '±0')
    """
    return f"{_sign(round(count))}{abs(round(count)):,}"


def format_points(difference: float) -> str:
    """A difference of shares in percentage points.

    >>> format_points(0.00412), format_points(-0.1), format_points(0.00004)
    ('+0.41 points', '−10.00 points', '±0 points')
    """
    rounded = round(100 * difference, 2)
    return f"{_sign(rounded)}{abs(rounded):.2f} points" if rounded else "±0 points"


def format_change(before: float | None, now: float, kind: str) -> str:
    """How a figure moved, in its own unit; empty without an earlier value.

    >>> format_change(2704, 2710, "count"), format_change(0.02, 0.024, "share")
    ('+6', '+0.40 points')
    >>> format_change(5.25, 5.0, "hours"), format_change(None, 1, "count")
    ('−0.2 h', '')
    >>> format_change(1.002, 1.001, "ratio")
    '±0.00 ×'
    """
    if before is None:
        return ""
    match kind:
        case "share" | "probability":
            return format_points(now - before)
        case "count":
            return f"{_sign(now - before)}{abs(now - before):,.0f}"
    unit, digits = {"hours": (" h", 1), "index": ("", 3), "ratio": (" ×", 2)}[kind]
    rounded = round(now - before, digits)
    return f"{_sign(rounded)}{abs(rounded):.{digits}f}{unit}"


def format_figure(value: float | None, kind: str) -> str:
    """A figure of `metrics` in its unit; a dash for None.

    >>> format_figure(2704.0, "count"), format_figure(5.25, "hours"), format_figure(6212.2, "hours")
    ('2,704', '5.2 h', '259 days')
    >>> format_figure(0.0032, "index"), format_figure(0.0833, "ratio")
    ('0.0032', '0.0833 ×')
    >>> format_figure(1.04, "ratio"), format_figure(None, "count")
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
            return format_number(value)
        case "ratio":
            return f"{format_number(value)} ×"
    return format_percent(value)


def pluralise(count: int, noun: str) -> str:
    """A count with its noun.

    >>> pluralise(1, "warning"), pluralise(1200, "user")
    ('1 warning', '1,200 users')
    """
    return f"{count:,} {noun if count == 1 else pluralise_noun(noun)}"


def pluralise_noun(noun: str) -> str:
    """The plural of an English noun, by the usual endings.

    >>> [pluralise_noun(noun) for noun in ("message", "push", "query", "display")]
    ['messages', 'pushes', 'queries', 'displays']
    """
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def _sign(difference: float) -> str:
    return "+" if difference > 0 else "−" if difference < 0 else "±"
