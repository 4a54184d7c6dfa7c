"""Charts of a night's scores and of the funnel by day."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.charts.svg import ACCENT, INK, NUMBER, PERCENT, STEPS, draw_chart, draw_days


def draw_rates_by_day(name: str, days: Sequence[date], rates: Sequence[float | None], label: str) -> str:
    """A line over days; a day without a rate is a gap.

    Args:
        name: unique in the page.
        label: of the rates.
    """
    with draw_chart(name) as chart:
        draw_days(chart.axes, days, rates)
        chart.axes.set(ylim=(0, None), ylabel=label)
        chart.axes.yaxis.set_major_formatter(NUMBER)
    return chart.svg


def draw_distribution(name: str, scores: np.ndarray, earlier: np.ndarray | None) -> str:
    """Users by score, as bars; an earlier night's as an outline over the same bins. The top half per cent is one bin.

    Args:
        name: unique in the page.
    """
    edges = np.linspace(0, max(float(np.quantile(scores, 0.995)), 1e-9), 31)
    with draw_chart(name) as chart:
        chart.axes.stairs(_counts(scores, edges), edges, fill=True, color=ACCENT)
        if earlier is not None:
            chart.axes.stairs(_counts(earlier, edges), edges, color=INK, linewidth=1)
        chart.axes.xaxis.set_major_formatter(PERCENT)
        chart.axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        chart.axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS, integer=True))
        chart.axes.yaxis.set_major_formatter("{x:,.0f}")
        chart.axes.set(xlabel="score", ylabel="users")
    return chart.svg


def draw_means_by_band(name: str, means: Mapping[int, float], overall: float) -> str:
    """A bar per band, and a line at the mean of all users.

    Args:
        name: unique in the page.
    """
    with draw_chart(name) as chart:
        chart.axes.bar(list(means), list(means.values()), color=ACCENT, width=0.75)
        chart.axes.axhline(overall, color=INK, linewidth=1, linestyle="--")
        chart.axes.set(xticks=range(1, 11), xlabel="band", ylabel="mean score")
        chart.axes.yaxis.set_major_formatter(PERCENT)
    return chart.svg


def _counts(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.histogram(np.minimum(scores, edges[-1]), edges)[0]
