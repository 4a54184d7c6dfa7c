"""A night's figures into `metrics`: volumes, freshness, drift of scores and features, and what became of old scores.

A rerun replaces the night's figures in one commit, so that a reader finds each of them once. A figure past its
threshold warns, or fails the night (`pipeline.monitoring.thresholds`). DuckDB and numpy do the work: no JVM.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from statistics import median

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.analyst.connection import connect
from pipeline.config.figures import FIGURES
from pipeline.dates import DateRange, end_of_day
from pipeline.errors import FunnelError
from pipeline.measures.drift import DECILES, ERRORS, drift, index_by_chance, psi
from pipeline.monitoring.backtest import Matured, matured, quality
from pipeline.monitoring.baseline import Baseline, read_baseline, steady_features
from pipeline.monitoring.thresholds import Measured, judge
from pipeline.runs.context import Context
from pipeline.runs.record import Counts, recorded

PUBLISHING = ("score", "publish")
"""The stages that bring scores to their readers; the last of them to end says when."""
USUAL_NIGHTS = 7
"""A night's volumes are held against the median of this many nights before it."""
FEWEST_NIGHTS = 3
"""Fewer nights than this have no usual volume."""
BACKFILL_HOURS = 48
"""Scores that come this late are a backfill's, which nobody waited for."""
KEPT = ("name", "value", "stage", "feature", "model_version")
"""What of a figure goes into `metrics`."""


def monitor(context: Context, ds: date) -> None:
    """Measure a night and put its figures into `metrics` in place of those of an earlier run.

    Figures past a threshold are warnings of the run; past one that stops, the night fails, with its figures kept.

    Raises:
        FunnelError: the night has no scores (names the newest that has), or a figure is past a threshold that stops.
    """
    nights = require_scores(context, ds)
    with recorded(context, "monitor", DateRange(ds, ds)) as run:
        before = max((night for night in nights if night < ds), default=None)
        run.pin("user_scores", first=before or ds, last=ds)
        figures = _measure(context, ds, before, nights)
        names = ", ".join(f"'{name}'" for name in FIGURES)
        context.warehouse.replace(
            "metrics",
            [{key: getattr(figure, key) for key in KEPT} | {"ds": ds, "run_id": context.run_id} for figure in figures],
            where=f"ds = '{ds}' AND name IN ({names})",
        )
        run.by_day = {ds: Counts(rows_in=nights[ds], rows_out=len(figures))}
        judged = judge(figures, context.settings)
        run.warnings += judged.warnings
        if judged.stops:
            raise FunnelError(f"{'; '.join(judged.stops)}: past a stop of [monitoring.thresholds]")


def require_scores(context: Context, ds: date) -> dict[date, int]:
    """Users scored by night, of every night that has scores.

    Raises:
        FunnelError: the night `ds` has none; names the newest that has.
    """
    nights = context.warehouse.row_counts("user_scores", first=date.min, last=date.max)
    if ds not in nights:
        newest = f"the newest night is {max(nights)}" if nights else "no night has any yet"
        raise FunnelError(f"no scores of {ds}, {newest}: run `funnel nightly --ds {ds}` first")
    return nights


def _measure(context: Context, ds: date, before: date | None, nights: Mapping[date, int]) -> list[Measured]:
    settings = context.settings
    connection = connect(settings, "user_scores, runs, events, baselines")
    ((model,),) = connection.execute("SELECT max(model_version) FROM user_scores WHERE ds = ?", [ds]).fetchall()
    baseline = read_baseline(connection, model) if model else None
    figures = [
        *_volumes(connection, ds, nights),
        *_freshness(connection, ds, end_of_day(ds, settings.zone)),
        *_scores(connection, ds, before, settings.funnel.stage_names, model, baseline),
    ]
    if baseline:
        sample = context.warehouse.arrow("feature_samples", first=ds, last=ds)
        figures += feature_figures(sample, baseline, steady_features(settings))
    for stage, found in matured(connection, settings, ds).items():
        figures += outcome_figures(stage, found)
    return figures


def _volumes(connection: duckdb.DuckDBPyConnection, ds: date, nights: Mapping[date, int]) -> Iterator[Measured]:
    landed = {
        day: (rows_in, rows_out, quarantined)
        for day, rows_in, rows_out, quarantined in connection.execute(
            "SELECT ds, rows_in, rows_out, quarantined FROM runs WHERE stage = 'ingest' AND status = 'ok' "
            "AND ds BETWEEN ? AND ? QUALIFY row_number() OVER (PARTITION BY ds ORDER BY started_at DESC) = 1",
            [ds - timedelta(days=USUAL_NIGHTS), ds],
        ).fetchall()
    }
    if ds in landed:
        rows_in, rows_out, quarantined = landed[ds]
        yield Measured("rows_landed", rows_out)
        yield from _beside_usual("rows_landed_ratio", {day: rows for day, (_, rows, _) in landed.items()}, ds)
        yield Measured("quarantined_share", quarantined / rows_in if rows_in else 0.0)
    yield Measured("users_scored", nights[ds])
    yield from _beside_usual("users_scored_ratio", nights, ds)


def _beside_usual(name: str, counts: Mapping[date, int], ds: date) -> Iterator[Measured]:
    """A night's count to the median of those of the week before; by chance a count n differs by sqrt(n), Poisson's."""
    week = [count for day, count in counts.items() if ds - timedelta(days=USUAL_NIGHTS) <= day < ds]
    usual = median(week) if len(week) >= FEWEST_NIGHTS else 0
    if usual:
        ratio = counts[ds] / usual
        error = float(np.sqrt(1 / max(counts[ds], 1) + 1 / usual))
        yield Measured(name, ratio, chance=ERRORS * error * max(ratio, 1 / ratio if ratio else 0.0))


def _freshness(connection: duckdb.DuckDBPyConnection, ds: date, midnight: datetime) -> Iterator[Measured]:
    """Hours from the end of the night's day, in the funnel's time zone, to the end of the run that wrote its scores."""
    published = connection.execute(
        "SELECT max(epoch(started_at) + seconds) FROM runs WHERE ds = $ds AND status = 'ok' "
        "AND run_id IN (SELECT run_id FROM user_scores WHERE ds = $ds) AND stage IN (SELECT unnest($stages))",
        {"ds": ds, "stages": list(PUBLISHING)},
    ).fetchone()
    if published and published[0] is not None:
        hours = (published[0] - midnight.timestamp()) / 3600
        yield Measured("hours_to_scores", hours, is_judged=hours < BACKFILL_HOURS)


def _scores(
    connection: duckdb.DuckDBPyConnection,
    ds: date,
    before: date | None,
    stages: tuple[str, ...],
    model: str | None,
    baseline: Baseline | None,
) -> Iterator[Measured]:
    columns = ", ".join(f'"p_{stage}"' for stage in stages)
    of_night = f"SELECT {columns} FROM user_scores WHERE ds = ?"
    tonight = connection.execute(of_night, [ds]).fetchnumpy()
    earlier = connection.execute(of_night, [before]).fetchnumpy() if before else None
    users = len(tonight[f"p_{stages[0]}"])
    if before:
        ((common,),) = connection.execute(
            "SELECT count(*) FROM user_scores WHERE ds = ? "
            "AND user_id IN (SELECT user_id FROM user_scores WHERE ds = ?)",
            [ds, before],
        ).fetchall()
        yield Measured("users_in_common", common / users)
    for stage in stages:
        scores = tonight[f"p_{stage}"]
        yield Measured("mean_score", float(scores.mean()), stage, model_version=model)
        if earlier:
            shift = psi(earlier[f"p_{stage}"], scores)
            chance = index_by_chance(len(DECILES) + 1, len(earlier[f"p_{stage}"]), users)
            against = f"against the night of {before}"
            yield Measured("score_psi", shift, stage, model_version=model, chance=chance, against=against)
        if baseline:
            yield from score_figures(stage, scores, baseline)


def score_figures(stage: str, scores: np.ndarray, baseline: Baseline) -> Iterator[Measured]:
    """Tonight's scores (n,) of a stage against those of the model's beginnings; nothing of a stage it did not know."""
    if stage in baseline.scores:
        moved = drift(baseline.scores[stage], pa.chunked_array([scores]))
        yield Measured(
            "score_psi_training",
            moved.psi,
            stage,
            model_version=baseline.model_version,
            chance=moved.psi_chance,
            against=f"against {baseline}",
        )


def feature_figures(sample: pa.Table, baseline: Baseline, steady: set[str]) -> Iterator[Measured]:
    """Each feature of tonight's users against the model's baseline; nothing of a night without a sample."""
    for feature, began in baseline.features.items():
        if not sample.num_rows or feature not in sample.column_names:
            continue
        moved = drift(began, sample.column(feature))
        found = {
            "feature_psi": (moved.psi, moved.psi_chance),
            "feature_missing_share": (moved.missing_share, 0.0),
            "feature_missing_change": (moved.missing_change, moved.missing_chance),
            "feature_unseen_share": (moved.unseen_share, moved.unseen_chance),
        }
        for name, (value, chance) in found.items():
            if value is not None:
                yield Measured(
                    name,
                    value,
                    feature=feature,
                    model_version=baseline.model_version,
                    chance=chance,
                    is_judged=feature in steady,
                    against=f"against {baseline}",
                )


def outcome_figures(stage: str, found: Matured) -> Iterator[Measured]:
    """What came of each model's scores; the one that gave the latest of them is judged."""
    for model in sorted(set(found.models)):
        of_model = quality(found.of_model(model))
        figures = {
            "matured_exposures": (of_model.exposures, 0.0),
            "matured_positives": (of_model.positives, 0.0),
            "matured_auc": (of_model.auc, of_model.auc_chance),
            "matured_calibration_error": (of_model.calibration_error, 0.0),
            "matured_calibration_gap": (of_model.calibration_gap, 0.0),
            "matured_lift": (of_model.lift, of_model.lift_chance),
        }
        for name, (value, chance) in figures.items():
            if value is not None:
                yield Measured(
                    name,
                    value,
                    stage,
                    model_version=model,
                    chance=chance,
                    is_judged=model == found.models[-1],
                    against=f"{of_model.positives:,} positives of {of_model.exposures:,}, model {model}",
                )
