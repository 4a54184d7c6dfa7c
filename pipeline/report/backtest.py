"""The report's part on whether earlier scores came true: figures, lift, gains and reliability of matured messages."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import numpy as np
from markupsafe import Markup

from pipeline.charts.svg import figure_by_day, gains_curve, rates_by_band, reliability_curve
from pipeline.config.figures import FIGURES
from pipeline.dates import DateRange
from pipeline.measures.curves import equal_groups, gains, rates
from pipeline.monitoring.backtest import MaturedExposures, read_matured
from pipeline.report.night import Night
from pipeline.report.parts import Cell, Chart, Charts, Note, Part, Section, Table, figure, measured_cell, percent

SERIES_DAYS = 30
BEST = 0.2
"""The share of messages that the captions of gains speak of."""
BANDS = 10
GROUPS = 10
"""Of equal size, in which scores are held against outcomes."""


def backtest(night: Night) -> Section | None:
    """The latest messages whose outcomes are known, against the scores of the night before each."""
    if not night.before:
        return None
    found = read_matured(night.connection, night.settings, night.ds)
    known = {stage: each for stage, each in found.items() if len(each)}
    windows = {stage.name: stage.window_days for stage in night.settings.funnel.stages}
    waiting = [Note(_waits(stage, windows[stage])) for stage in night.stages if stage not in known]
    lead = (
        "Messages sent long enough ago that we know what came of them, each held against the score its user had the "
        f"night before: the latest {night.settings.monitoring.backtest_nights} nights whose windows have passed."
    )
    with_outcomes = {stage: each for stage, each in known.items() if each.outcomes.any()}
    parts: list[Part] = [_figures(night, known)] if known else []
    if with_outcomes:
        parts += [
            *_series(night),
            Charts(
                "Gains",
                [_gains(stage, each) for stage, each in with_outcomes.items()],
                "Had only the best-scored share of these messages gone out, what share of the outcomes had come? "
                "The further the line lies above the diagonal (any order), the better the ranking.",
            ),
            Charts(
                "Lift by band",
                [_lift(stage, each) for stage, each in with_outcomes.items()],
                "The rate that came in each band, with its 95% interval, and the rate of all messages (dashed). "
                "A rhombus is what the scores promised.",
            ),
            Charts(
                "Reliability",
                [_reliability(stage, each) for stage, each in with_outcomes.items()],
                "Messages in ten groups by score: what the scores promised and what came, with 95% intervals. On the "
                "diagonal a promise holds; above it more came, below it less. The bars show where the scores lie.",
            ),
        ]
    return Section("backtest", "Did earlier scores come true?", lead, [*parts, *waiting])


def _waits(stage: str, window_days: int) -> str:
    return (
        f"{stage}: no scored night is old enough yet. An outcome counts once the {window_days} days after the day of "
        "the message have passed."
    )


def _figures(night: Night, known: Mapping[str, MaturedExposures]) -> Table:
    shown = {name: meaning for name, meaning in FIGURES.items() if meaning.per == "model"}
    shown = {
        name: shown[name] for name in ("matured_auc", "matured_lift", "matured_calibration_error") if name in shown
    }
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
                    *(_measured(name, *measured.get((name, stage, model), (None, None))) for name in shown),
                ]
            )
    return Table(
        "Messages whose outcome is known, by stage and model",
        ["Model", "Messages", "Got there", "Promised", *(meaning.title for meaning in shown.values())],
        rows,
    )


def _measured(name: str, value: float | None, past: str | None) -> Cell:
    return measured_cell(figure(value, FIGURES[name].kind), past)


def _series(night: Night) -> list[Charts]:
    """The ranking as each night measured it; nothing until two nights have."""
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
        there = [value for value in values if value is not None]
        if len(there) > 1:
            caption = f"{there[-1]:.3f} as of the latest night, {min(there):.3f} to {max(there):.3f} over these days."
            charts.append(Chart(stage, Markup(figure_by_day(f"auc-{stage}", list(days), values, 0.5)), caption))
    lead = "As each night measured it, of its newest model: 0.5 (dashed) is a coin's ranking, 1 a perfect one."
    return [Charts(f"Ranking (AUC), last {SERIES_DAYS} nights", charts, lead)] if charts else []


def _gains(stage: str, each: MaturedExposures) -> Chart:
    shares, found = gains(each.scores, each.outcomes)
    best = float(np.interp(BEST, shares, found))
    caption = f"The best {percent(BEST)} of {len(each):,} messages brought {percent(best)} of the outcomes."
    return Chart(stage, Markup(gains_curve(f"gains-{stage}", shares, found)), caption)


def _lift(stage: str, each: MaturedExposures) -> Chart:
    by_band = rates(each.bands - 1, BANDS, each.scores, each.outcomes)
    overall = float(each.outcomes.mean())
    best = int(each.bands.max())
    rate = float(by_band.observed[best - 1])
    caption = (
        f"Band {best}: {percent(rate)} got there, of all {percent(overall)}: {rate / overall:.1f} times the average."
    )
    return Chart(stage, Markup(rates_by_band(f"lift-{stage}", by_band, overall)), caption)


def _reliability(stage: str, each: MaturedExposures) -> Chart:
    groups = rates(equal_groups(each.scores, GROUPS), GROUPS, each.scores, each.outcomes)
    inside = int(np.sum((groups.low <= groups.expected) & (groups.expected <= groups.high)))
    of = int(np.sum(groups.rows > 0))
    caption = (
        f"Promised {each.scores.sum():,.0f}, came {each.outcomes.sum():,}. In {inside} of {of} groups the promise lies "
        "within the interval."
    )
    return Chart(stage, Markup(reliability_curve(f"reliability-{stage}", groups, each.scores)), caption)
