"""Did earlier scores come true: figures, lift, gains and reliability of the messages whose outcomes are known."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
from markupsafe import Markup

from pipeline.charts.outcomes import (
    draw_figure_by_day,
    draw_gains_curve,
    draw_rates_by_band,
    draw_reliability_curve,
)
from pipeline.config.figures import FIGURES
from pipeline.dates import DateRange
from pipeline.measures.curves import equal_groups, gains, rates
from pipeline.monitoring.backtest import MaturedExposures, read_matured
from pipeline.report.formats import format_figure, format_percent
from pipeline.report.night import Night
from pipeline.report.parts import Cell, Chart, Charts, Note, Part, Section, Table, measured_cell

SHOWN = ("matured_auc", "matured_lift", "matured_calibration_error")
"""The figures in the table."""
SERIES_DAYS = 30
BEST_SHARE = 0.2
"""The share of messages in the captions of the gains."""
BANDS = 10
GROUPS = 10
"""Groups of equal size in which scores are compared with outcomes."""


def build(night: Night) -> Section | None:
    if not night.before:
        return None
    found = read_matured(night.connection, night.settings, night.ds)
    known = {stage: each for stage, each in found.items() if len(each)}
    windows = {stage.name: stage.window_days for stage in night.settings.funnel.stages}
    waiting = [Note(_explain_wait(night, stage, windows[stage])) for stage in night.stages if stage not in known]
    lead = (
        f"{_title(night)} old enough that their outcomes are known, each compared with the score its user had the "
        f"night before: the latest {night.settings.monitoring.backtest_nights} nights whose windows have passed."
    )
    with_outcomes = {stage: each for stage, each in known.items() if each.outcomes.any()}
    parts: list[Part] = [_tabulate_figures(night, known)] if known else []
    if with_outcomes:
        parts += [
            *_chart_ranking(night),
            Charts(
                "Gains",
                [_chart_gains(night, stage, each) for stage, each in with_outcomes.items()],
                f"The share of the outcomes that followed the best-scored share of these {night.exposures}. The "
                "further the line lies above the diagonal (any order), the better the ranking.",
            ),
            Charts(
                "Lift by band",
                [_chart_lift(stage, each) for stage, each in with_outcomes.items()],
                f"The observed rate of each band, with its 95% interval, and that of all {night.exposures} (dashed). "
                "A diamond marks the rate expected from the scores.",
            ),
            Charts(
                "Reliability",
                [_chart_reliability(stage, each) for stage, each in with_outcomes.items()],
                f"{_title(night)} in ten groups by score: the rate expected from the scores and the observed rate, "
                "with its 95% interval. On the diagonal the two agree; above it more came than expected, below less. "
                "The bars show how the scores are distributed.",
            ),
        ]
    return Section("backtest", "Did earlier scores come true?", lead, [*parts, *waiting])


def _title(night: Night) -> str:
    return night.exposures[0].upper() + night.exposures[1:]


def _explain_wait(night: Night, stage: str, window_days: int) -> str:
    return (
        f"{stage}: no scored night is old enough yet. An outcome counts once the {window_days} days after the day of "
        f"the {night.exposure} have passed."
    )


def _tabulate_figures(night: Night, known: Mapping[str, MaturedExposures]) -> Table:
    measured = {
        (name, stage, model): (value, past)
        for name, stage, model, value, past in night.query(
            "SELECT name, stage, model_version, value, past FROM metrics WHERE ds = $ds AND name LIKE 'matured_%'",
            ds=night.ds,
        )
    }
    rows: list[Sequence[Cell | str]] = []
    for stage, each in known.items():
        rows.append([Cell(stage)])
        for model in sorted(set(each.models), reverse=True):
            own = each.scored_by(model)
            _, gap_past = measured.get(("matured_calibration_gap", stage, model), (None, None))
            rows.append(
                [
                    model,
                    f"{len(own):,}",
                    measured_cell(f"{own.outcomes.sum():,}", gap_past),
                    f"{own.scores.sum():,.0f}",
                    *(_make_cell(name, *measured.get((name, stage, model), (None, None))) for name in SHOWN),
                ]
            )
    return Table(
        f"{_title(night)} with known outcomes, by stage and model",
        ["Model", _title(night), "Observed", "Expected", *(FIGURES[name].title for name in SHOWN)],
        rows,
    )


def _make_cell(name: str, value: float | None, past: str | None) -> Cell:
    return measured_cell(format_figure(value, FIGURES[name].kind), past)


def _chart_ranking(night: Night) -> list[Charts]:
    """The ranking as each night measured it; no chart until two nights have."""
    days = DateRange(night.ds - timedelta(days=SERIES_DAYS - 1), night.ds)
    found = {
        (stage, day): value
        for stage, day, value in night.query(
            "SELECT stage, ds, arg_max(value, model_version) FROM metrics "
            "WHERE name = 'matured_auc' AND ds BETWEEN $first AND $last GROUP BY ALL",
            first=days.first,
            last=days.last,
        )
    }
    charts = []
    for stage in night.stages:
        values = [found.get((stage, day)) for day in days]
        known = [value for value in values if value is not None]
        if len(known) > 1:
            caption = f"{known[-1]:.3f} as of the latest night, {min(known):.3f} to {max(known):.3f} over these days."
            charts.append(Chart(stage, Markup(draw_figure_by_day(f"auc-{stage}", list(days), values, 0.5)), caption))
    lead = "As measured each night for its newest model: 0.5 (dashed) is a coin toss, 1 is perfect."
    return [Charts(f"Ranking (AUC), last {SERIES_DAYS} nights", charts, lead)] if charts else []


def _chart_gains(night: Night, stage: str, each: MaturedExposures) -> Chart:
    shares, found = gains(each.scores, each.outcomes)
    best = float(np.interp(BEST_SHARE, shares, found))
    sent, brought = format_percent(BEST_SHARE), format_percent(best)
    caption = f"The best {sent} of {len(each):,} {night.exposures} brought {brought} of the outcomes."
    return Chart(stage, Markup(draw_gains_curve(f"gains-{stage}", shares, found)), caption)


def _chart_lift(stage: str, each: MaturedExposures) -> Chart:
    by_band = rates(each.bands - 1, BANDS, each.scores, each.outcomes)
    overall = float(each.outcomes.mean())
    best = int(each.bands.max())
    rate = float(by_band.observed[best - 1])
    caption = (
        f"Band {best}: {format_percent(rate)} reached the stage, compared with {format_percent(overall)} of all: "
        f"{rate / overall:.1f} times the average."
    )
    return Chart(stage, Markup(draw_rates_by_band(f"lift-{stage}", by_band, overall)), caption)


def _chart_reliability(stage: str, each: MaturedExposures) -> Chart:
    groups = rates(equal_groups(each.scores, GROUPS), GROUPS, each.scores, each.outcomes)
    inside = int(np.sum((groups.low <= groups.expected) & (groups.expected <= groups.high)))
    filled = int(np.sum(groups.rows > 0))
    caption = (
        f"Expected {each.scores.sum():,.0f}, observed {each.outcomes.sum():,}. In {inside} of {filled} groups the "
        "expected rate lies within the interval."
    )
    return Chart(stage, Markup(draw_reliability_curve(f"reliability-{stage}", groups, each.scores)), caption)
