"""Text and numbers as people are shown them: all of a text but its secrets, and nothing in it acts on what shows it."""

import re
from collections.abc import Iterable
from decimal import Decimal

from pipeline.secrets import mask

_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters, marks that turn the direction of text, and characters without width or meaning of their own."""
FORMULA = "[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""How text begins that a spreadsheet takes for a formula; for `re` and Arrow alike."""
SIGNED_NUMBER = r"^[+-][0-9 ]*[0-9]([.,][0-9]+)?([eE][+-]?[0-9]+)?$"
"""A number with its sign, such as a telephone number's +44…, which begins like a formula and is none."""


def show(text: str, *, keep: str = "") -> str:
    """Mask secrets, and escape what a reader would not see or what would act on a terminal or on the text around it.

    Args:
        keep: characters to leave, such as a newline of our own.

    >>> print(show("\\x1b[31mred\\x1b[0m [bold]\\nnext"), show("a\\u202eb"), show("one\\ntwo\\t", keep="\\n"))
    \\x1b[31mred\\x1b[0m [bold]\\nnext a\\u202eb one
    two\\t
    """
    return _HIDDEN.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), mask(text))


def find_unsafe(values: Iterable[str]) -> list[str]:
    """The values that a spreadsheet would take for formulas, or that hold characters nobody sees.

    >>> find_unsafe(["a,b", "007", "+447700900123", "-1", "=1+1", "@x", "-1+2", "a\\tb"])
    ['=1+1', '@x', '-1+2', 'a\\tb']
    """
    return [each for each in values if _HIDDEN.search(each) or is_formula(each)]


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would take a cell for a formula."""
    return bool(re.match(FORMULA, text)) and not re.fullmatch(SIGNED_NUMBER, text)


def format_number(value: float, digits: int = 3) -> str:
    """A number rounded to significant digits, never with an exponent.

    >>> format_number(12412.0), format_number(0.08333), format_number(2.5e-7), format_number(100.0)
    ('12,400', '0.0833', '0.00000025', '100')
    """
    return f"{Decimal(f'{value:.{digits}g}'):,f}"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
