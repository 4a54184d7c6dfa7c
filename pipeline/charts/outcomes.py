"""Charts that compare scores with the outcomes that are now known."""

from collections.abc import Sequence
from datetime import date

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator

from pipeline.charts.svg import ACCENT, FAINT, INK, PAPER, PERCENT, STEPS, draw_chart, draw_days
from pipeline.measures.curves import Rates


def draw_figure_by_day(name: str, days: Sequence[date], values: Sequence[float | None], reference: float) -> str:
    """A line over days, and a dashed reference; a day without a value is a gap.

    Args:
        name: unique in the page.
    """
    with draw_chart(name) as chart:
        draw_days(chart.axes, days, values)
        chart.axes.axhline(reference, color=INK, linewidth=1, linestyle="--")
        there = [value for value in values if value is not None]
        chart.axes.set_ylim(min(reference, *there) - 0.02, max(0.8, *there) + 0.02)
    return chart.svg


def draw_gains_curve(name: str, shares: np.ndarray, found: np.ndarray) -> str:
    """The share of outcomes found over the share of messages sent, best scores first, and the diagonal of any order.

    Args:
        name: unique in the page.
    """
    # A drawing shows a few hundred corners, not one per message.
    at = np.linspace(0, 1, 201)
    with draw_chart(name) as chart:
        chart.axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
        chart.axes.plot(at, np.interp(at, shares, found), color=ACCENT, linewidth=1.6)
        chart.axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="best-scored share", ylabel="share of outcomes")
        chart.axes.xaxis.set_major_formatter(PERCENT)
        chart.axes.yaxis.set_major_formatter(PERCENT)
    return chart.svg


def draw_rates_by_band(name: str, bands: Rates, overall: float) -> str:
    """A bar per band, from band 1, with its interval; a diamond at the expected rate; and a line at the rate of all.

    Args:
        name: unique in the page.
    """
    numbers = np.arange(1, len(bands.rows) + 1)
    with draw_chart(name) as chart:
        chart.axes.bar(numbers, np.nan_to_num(bands.observed), color=ACCENT, width=0.75)
        _draw_intervals(chart.axes, numbers, bands)
        chart.axes.plot(numbers, bands.expected, "D", color=PAPER, markeredgecolor=INK, ms=4)
        chart.axes.axhline(overall, color=INK, linewidth=1, linestyle="--")
        chart.axes.set(xticks=numbers, ylim=(0, None), xlabel="band", ylabel="observed rate")
        chart.axes.yaxis.set_major_formatter(PERCENT)
    return chart.svg


def draw_reliability_curve(name: str, groups: Rates, scores: np.ndarray) -> str:
    """Observed over expected rates of groups with their intervals, the diagonal, and a histogram of the scores below.

    Args:
        name: unique in the page.
    """
    top = 1.1 * float(np.nanmax(np.concatenate([groups.expected, groups.observed])))
    with draw_chart(name, height=2.6) as chart:
        axes = chart.axes
        axes.plot([0, top], [0, top], color=INK, linewidth=1, linestyle="--")
        _draw_intervals(axes, groups.expected, groups)
        axes.plot(groups.expected, groups.observed, "o", color=ACCENT, ms=4)
        counts, edges = np.histogram(scores[scores <= top], bins=40, range=(0, top))
        # In the lowest eighth, below the rates.
        axes.stairs(counts / counts.max() * top / 8 - top / 7, edges, baseline=-top / 7, fill=True, color=FAINT)
        axes.set(xlim=(0, top), ylim=(-top / 7, 1.15 * top), xlabel="expected rate", ylabel="observed rate")
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        for axis in (axes.xaxis, axes.yaxis):
            # The axes reach a little below and beyond the rates.
            axis.set_major_locator(FixedLocator([tick for tick in axis.get_majorticklocs() if 0 <= tick <= 1]))
        axes.xaxis.set_major_formatter(PERCENT)
        axes.yaxis.set_major_formatter(PERCENT)
    return chart.svg


def _draw_intervals(axes: Axes, at: np.ndarray, rates: Rates) -> None:
    there = rates.rows > 0
    axes.vlines(at[there], rates.low[there], rates.high[there], color=INK, linewidth=1)
