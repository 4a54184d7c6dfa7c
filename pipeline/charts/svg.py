"""How a chart becomes SVG text inside an HTML page: in the page's fonts and its light or dark colours, without script.

Drawn by matplotlib, which MLflow needs anyway and whose vectors take a few KB: an interactive library would put
megabytes of script into every page, or load them over the network.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.text import format_number

INK, ACCENT, FAINT, PAPER = "#010203", "#010204", "#010205", "#010206"
"""Placeholders for the page's own colours: matplotlib knows no CSS variables."""
_PAGE_COLOURS = {INK: "var(--ink)", ACCENT: "var(--accent)", FAINT: "var(--faint)", PAPER: "var(--paper)"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "funnelcast",
    "font.size": 10,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
}
STEPS = [1, 2, 5, 10]
PERCENT = FuncFormatter(lambda share, _: f"{format_number(100 * share, 4)}%")
NUMBER = FuncFormatter(lambda value, _: format_number(value, 4))
_WITHOUT_ORIGIN = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""No metadata: the same figures give the same text, whenever and by whichever version of matplotlib they are drawn."""


class Drawing:
    """A chart being drawn: `svg` holds what was drawn into `axes` once `draw_chart` ends."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def draw_chart(name: str, *, height: float = 2.2) -> Iterator[Drawing]:
    """A chart to draw into; its `svg` is set afterwards.

    Args:
        name: unique in the page.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, height), layout="constrained")
        chart = Drawing(figure.subplots())
        chart.axes.grid(axis="y")
        chart.axes.tick_params(length=0)
        chart.axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
        yield chart
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_WITHOUT_ORIGIN)
    chart.svg = _embed(buffer.getvalue(), name)


def draw_days(axes: Axes, days: Sequence[date], values: Sequence[float | None]) -> None:
    """Plot values over days; a day without a value is a gap."""
    shown = np.array([np.nan if value is None else value for value in values])
    axes.plot(np.array(days, dtype="datetime64[D]"), shown, color=ACCENT, linewidth=1.6, marker="o", ms=2.5)
    # All the days, including days without a value at either end.
    axes.set_xlim(date2num(days[0]), date2num(days[-1]))
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=5))
    axes.xaxis.set_major_formatter(DateFormatter("%d %b"))


def _embed(svg: str, name: str) -> str:
    """The bare `<svg>` element, with the page's colours and ids of its own."""
    svg = svg[svg.index("<svg") :]
    for stand_in, colour in _PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
