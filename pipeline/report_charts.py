"""Small charts as SVG text that stands inside an HTML page: its fonts, its colours by light and dark, no script.

matplotlib, since it is in the environment already (MLflow needs it) and draws vectors of a few KB: an interactive
library would put megabytes of script into every night's page, or load them from the network.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

INK, ACCENT, FAINT = "#010203", "#010204", "#010205"
"""Stand-ins, which the page's own colours replace: matplotlib knows no CSS variables."""
_PAGE_COLOURS = {INK: "var(--ink)", ACCENT: "var(--accent)", FAINT: "var(--faint)"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "funnelcast",
    "font.size": 9,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
}
_STEPS = [1, 2, 5, 10]
_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}%")
_WITHOUT_ORIGIN = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""No metadata: the same figures are the same text, whenever and by whatever version of matplotlib drawn."""


class Drawing:
    """A chart in the making: what is drawn into `axes` is in `svg` in the end."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = ""


def rates_by_day(name: str, days: Sequence[date], rates: Sequence[float | None]) -> str:
    """A line over days; a day without a rate is a gap.

    Args:
        name: unique in the page.
    """
    with _drawing(name) as drawing:
        values = np.array([np.nan if rate is None else rate for rate in rates])
        drawing.axes.plot(
            np.array(days, dtype="datetime64[D]"), values, color=ACCENT, linewidth=1.6, marker="o", ms=2.5
        )
        drawing.axes.set_ylim(bottom=0)
        # All of the days, those at the ends without a rate, too.
        drawing.axes.set_xlim(date2num(days[0]), date2num(days[-1]))
        drawing.axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=5))
        drawing.axes.xaxis.set_major_formatter(DateFormatter("%d %b"))
        drawing.axes.yaxis.set_major_formatter(_PERCENT)
    return drawing.svg


def distribution(name: str, scores: np.ndarray, earlier: np.ndarray | None) -> str:
    """Users by score, as bars; an earlier night's as a line on the same bins. The topmost half per cent is one bin.

    Args:
        name: unique in the page.
    """
    edges = np.linspace(0, max(float(np.quantile(scores, 0.995)), 1e-9), 31)
    with _drawing(name) as drawing:
        drawing.axes.stairs(_counts(scores, edges), edges, fill=True, color=ACCENT)
        if earlier is not None:
            drawing.axes.stairs(_counts(earlier, edges), edges, color=INK, linewidth=1)
        drawing.axes.xaxis.set_major_formatter(_PERCENT)
        drawing.axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        drawing.axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS, integer=True))
        drawing.axes.yaxis.set_major_formatter("{x:,.0f}")
    return drawing.svg


def means_by_band(name: str, means: Mapping[int, float], overall: float) -> str:
    """A bar a band, and a line at the mean of all.

    Args:
        name: unique in the page.
    """
    with _drawing(name) as drawing:
        drawing.axes.bar(list(means), list(means.values()), color=ACCENT, width=0.75)
        drawing.axes.axhline(overall, color=INK, linewidth=1, linestyle="--")
        drawing.axes.set_xticks(range(1, 11))
        drawing.axes.yaxis.set_major_formatter(_PERCENT)
    return drawing.svg


def _counts(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(np.minimum(scores, edges[-1]), edges)[0]


@contextmanager
def _drawing(name: str) -> Iterator[Drawing]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.2), layout="constrained")
        drawing = Drawing(figure.subplots())
        drawing.axes.grid(axis="y")
        drawing.axes.tick_params(length=0)
        drawing.axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
        yield drawing
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_WITHOUT_ORIGIN)
    drawing.svg = _for_page(buffer.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """The bare `<svg>` element, its colours the page's and its ids its own."""
    svg = svg[svg.index("<svg") :]
    for stand_in, colour in _PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
