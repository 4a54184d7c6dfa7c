"""Charts of campaigns' results, for the report's page or as files."""

from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.charts.svg import ACCENT, FAINT, INK, STEPS, draw_chart
from pipeline.measures.uplift import Qini

_OF_A_FILE = "--ink: #24292f; --accent: #0b6bcb; --faint: #c9d1d9; background: #ffffff"
"""The page's colours, for a chart that stands alone."""


def draw_qini_curve(name: str, curve: Qini) -> str:
    """Outcomes caused by messages to the best ranks: as ranked, in random order, and the range of chance.

    Args:
        name: unique in the page.
    """
    with draw_chart(name) as chart:
        axes = chart.axes
        low, high = curve.chance_low, curve.chance_high
        axes.fill_between(curve.shares, low, high, color=FAINT, alpha=0.6, linewidth=0, label="chance (95%)")
        axes.plot(curve.shares, curve.at_random, color=INK, linewidth=1, linestyle="--", label="any order")
        axes.plot(curve.shares, curve.gains, color=ACCENT, linewidth=1.6, label="by rank")
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("best ranks of the list", color=INK)
        axes.set_ylabel("outcomes caused", color=INK)
        # Above the axes: anywhere inside, a curve could run through it.
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, reverse=True)
    return chart.svg


def make_standalone(svg: str) -> str:
    """Turn a page's chart into an SVG file of its own."""
    return svg.replace('<svg aria-hidden="true" ', f'<svg style="{_OF_A_FILE}" ', 1)
