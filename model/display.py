"""Results as plain text and, if matplotlib is installed, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from model.labels import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def name_score(task: Task) -> str:
    """Name the score by which a task's models are compared."""
    return "AUC" if task.kind == "binary" else "R²"


def format_number(value: float, form: str) -> str:
    """Format a number for a table cell; a dash for NaN.

    >>> format_number(0.25, "+.1f"), format_number(math.nan, "+.1f")
    ('+0.2', '-')
    """
    return "-" if math.isnan(value) else format(value, form)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows of cells: the first column to the left, the others to the right. No trailing newline.

    >>> print(format_table([["task", "AUC"], ["click", "0.75"]]))
    task    AUC
    click  0.75
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def create_figure(width: float, height: float) -> Figure:
    """Create a figure of this size in inches, unknown to pyplot, so that no notebook displays it by itself.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("a plot needs matplotlib: pip install matplotlib") from error

    return Figure(figsize=(width, height), dpi=150, layout="constrained")
