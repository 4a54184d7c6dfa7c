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
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from pipeline.measures.curves import Rates

INK, ACCENT, FAINT, PAPER = "#010203", "#010204", "#010205", "#010206"
"""Stand-ins, which the page's own colours replace: matplotlib knows no CSS variables."""
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
    with drawing(name) as chart:
        _draw_days(chart.axes, days, rates)
        chart.axes.set(ylim=(0, None), ylabel="events per message")
        chart.axes.yaxis.set_major_formatter(_PERCENT)
    return chart.svg


def distribution(name: str, scores: np.ndarray, earlier: np.ndarray | None) -> str:
    """Users by score, as bars; an earlier night's as a line on the same bins. The topmost half per cent is one bin.

    Args:
        name: unique in the page.
    """
    edges = np.linspace(0, max(float(np.quantile(scores, 0.995)), 1e-9), 31)
    with drawing(name) as chart:
        chart.axes.stairs(_counts(scores, edges), edges, fill=True, color=ACCENT)
        if earlier is not None:
            chart.axes.stairs(_counts(earlier, edges), edges, color=INK, linewidth=1)
        chart.axes.xaxis.set_major_formatter(_PERCENT)
        chart.axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        chart.axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS, integer=True))
        chart.axes.yaxis.set_major_formatter("{x:,.0f}")
        chart.axes.set(xlabel="score", ylabel="users")
    return chart.svg


def means_by_band(name: str, means: Mapping[int, float], overall: float) -> str:
    """A bar a band, and a line at the mean of all.

    Args:
        name: unique in the page.
    """
    with drawing(name) as chart:
        chart.axes.bar(list(means), list(means.values()), color=ACCENT, width=0.75)
        chart.axes.axhline(overall, color=INK, linewidth=1, linestyle="--")
        chart.axes.set(xticks=range(1, 11), xlabel="band", ylabel="mean score")
        chart.axes.yaxis.set_major_formatter(_PERCENT)
    return chart.svg


def figure_by_day(name: str, days: Sequence[date], values: Sequence[float | None], reference: float) -> str:
    """A line over days, from a reference (dashed) up; a day without a value is a gap.

    Args:
        name: unique in the page.
    """
    with drawing(name) as chart:
        _draw_days(chart.axes, days, values)
        chart.axes.axhline(reference, color=INK, linewidth=1, linestyle="--")
        there = [value for value in values if value is not None]
        chart.axes.set_ylim(min(reference, *there) - 0.02, max(0.8, *there) + 0.02)
    return chart.svg


def gains_curve(name: str, shares: np.ndarray, found: np.ndarray) -> str:
    """The share of outcomes found over the share of messages sent, best scores first, and the diagonal of any order.

    Args:
        name: unique in the page.
    """
    # Thousands of messages are thousands of corners, where a drawing shows some hundreds.
    at = np.linspace(0, 1, 201)
    with drawing(name) as chart:
        chart.axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
        chart.axes.plot(at, np.interp(at, shares, found), color=ACCENT, linewidth=1.6)
        chart.axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of messages, best first", ylabel="share of outcomes")
        chart.axes.xaxis.set_major_formatter(_PERCENT)
        chart.axes.yaxis.set_major_formatter(_PERCENT)
    return chart.svg


def rates_by_band(name: str, bands: Rates, overall: float) -> str:
    """A bar a band, from band 1 on, with its interval; what was promised as a rhombus; and a line at the rate of all.

    Args:
        name: unique in the page.
    """
    numbers = np.arange(1, len(bands.rows) + 1)
    with drawing(name) as chart:
        chart.axes.bar(numbers, np.nan_to_num(bands.observed), color=ACCENT, width=0.75)
        _draw_intervals(chart.axes, numbers, bands)
        chart.axes.plot(numbers, bands.expected, "D", color=PAPER, markeredgecolor=INK, ms=4)
        chart.axes.axhline(overall, color=INK, linewidth=1, linestyle="--")
        chart.axes.set(xticks=numbers, ylim=(0, None), xlabel="band", ylabel="got there")
        chart.axes.yaxis.set_major_formatter(_PERCENT)
    return chart.svg


def reliability_curve(name: str, groups: Rates, scores: np.ndarray) -> str:
    """Observed over promised rates of groups with their intervals, the diagonal, and a histogram of the scores below.

    Args:
        name: unique in the page.
    """
    top = 1.1 * float(np.nanmax(np.concatenate([groups.expected, groups.observed])))
    with drawing(name, height=2.6) as chart:
        axes = chart.axes
        axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle="--")
        _draw_intervals(axes, groups.expected, groups)
        axes.plot(groups.expected, groups.observed, "o", color=ACCENT, ms=4)
        counts, edges = np.histogram(scores[scores <= top], bins=40, range=(0, top))
        # In the lowest eighth, below the axis of rates.
        axes.stairs(counts / counts.max() * top / 8 - top / 7, edges, baseline=-top / 7, fill=True, color=FAINT)
        axes.set(xlim=(0, top), ylim=(-top / 7, 1.15 * top), xlabel="promised", ylabel="came")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in axes.get_yticks() if tick >= 0]))
        axes.xaxis.set_major_formatter(_PERCENT)
        axes.yaxis.set_major_formatter(_PERCENT)
    return chart.svg


@contextmanager
def drawing(name: str, *, height: float = 2.2) -> Iterator[Drawing]:
    """A chart to draw into; its `svg` is there afterwards.

    Args:
        name: unique in the page.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, height), layout="constrained")
        chart = Drawing(figure.subplots())
        chart.axes.grid(axis="y")
        chart.axes.tick_params(length=0)
        chart.axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
        yield chart
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_WITHOUT_ORIGIN)
    chart.svg = _for_page(buffer.getvalue(), name)


def _draw_days(axes: Axes, days: Sequence[date], values: Sequence[float | None]) -> None:
    shown = np.array([np.nan if value is None else value for value in values])
    axes.plot(np.array(days, dtype="datetime64[D]"), shown, color=ACCENT, linewidth=1.6, marker="o", ms=2.5)
    # All of the days, those at the ends without a value, too.
    axes.set_xlim(date2num(days[0]), date2num(days[-1]))
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=5))
    axes.xaxis.set_major_formatter(DateFormatter("%d %b"))


def _draw_intervals(axes: Axes, at: np.ndarray, rates: Rates) -> None:
    there = rates.rows > 0
    axes.vlines(at[there], rates.low[there], rates.high[there], color=INK, linewidth=1)


def _counts(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(np.minimum(scores, edges[-1]), edges)[0]


def _for_page(svg: str, name: str) -> str:
    """The bare `<svg>` element, its colours the page's and its ids its own."""
    svg = svg[svg.index("<svg") :]
    for stand_in, colour in _PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)
