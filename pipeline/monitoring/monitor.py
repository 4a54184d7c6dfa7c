"""Measure a night: volumes, freshness, drift of scores and features, and the outcomes of earlier scores.

The figures go to `metrics`; a rerun replaces the night's figures in one commit, so that a reader finds each once. A
figure past its threshold warns, or fails the night. DuckDB and numpy do the work: no JVM.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.analyst.connection import connect_pinned
from pipeline.audits.unreadable import ColumnRead
from pipeline.config.figures import FIGURES
from pipeline.dates import DateRange, end_of_day
from pipeline.errors import FunnelError
from pipeline.measures.drift import DECILES, ERRORS, drift, index_by_chance, psi
from pipeline.measures.volumes import USUAL_DAYS, usual_rows
from pipeline.monitoring.backtest import MaturedExposures, measure_quality, read_matured
from pipeline.monitoring.baseline import Baseline, read_baseline, steady_features
from pipeline.monitoring.readability import sum_columns_read
from pipeline.monitoring.thresholds import Measurement, find_breach, resolve_thresholds
from pipeline.runs.context import Context
from pipeline.runs.record import Counts, StageRun, StageWarning, recorded

PUBLISHING = ("score", "publish")
"""The stages that make scores visible to readers; scores are ready when the last of them ends."""
FEWEST_NIGHTS = 3
"""The fewest earlier nights that make a median."""
BACKFILL_HOURS = 48
"""Scores this late come from a backfill, and are not checked for lateness."""
STORED = ("name", "value", "stage", "feature", "model_version")
"""The fields of a measurement that are columns of `metrics`."""


def monitor(context: Context, ds: date) -> None:
    """Measure a night and write its figures to `metrics`, replacing those of an earlier run.

    The run warns of each figure past `warn`; a figure past `stop` fails the night, after all figures are written.

    Raises:
        FunnelError: the night has no scores (names the newest that has), or a figure is past `stop`.
    """
    nights = require_scores(context, ds)
    with recorded(context, "monitor", DateRange(ds, ds)) as run:
        before = max((night for night in nights if night < ds), default=None)
        measured = _measure_night(context, run, ds, before, nights)
        thresholds = resolve_thresholds(context.settings)
        breaches = [find_breach(each, thresholds) for each in measured]
        names = ", ".join(f"'{name}'" for name in FIGURES)
        context.warehouse.replace(
            "metrics",
            [
                {name: getattr(each, name) for name in STORED}
                | {"past": breach.severity if breach else None, "ds": ds, "run_id": context.run_id}
                for each, breach in zip(measured, breaches, strict=True)
            ],
            where=f"ds = '{ds}' AND name IN ({names})",
        )
        run.by_day = {ds: Counts(rows_in=nights[ds], rows_out=len(measured))}
        run.warnings += [
            StageWarning(breach.topic, str(breach)) for breach in breaches if breach and breach.severity == "warn"
        ]
        if stops := [str(breach) for breach in breaches if breach and breach.severity == "stop"]:
            raise FunnelError(f"{'; '.join(stops)}: past a stop of [monitoring.thresholds]")


def require_scores(context: Context, ds: date) -> dict[date, int]:
    """The number of users scored on each night that has scores.

    Raises:
        FunnelError: the night `ds` has none; names the newest that has.
    """
    nights = context.warehouse.row_counts("user_scores", first=date.min, last=date.max)
    if ds not in nights:
        newest = f"the newest night is {max(nights)}" if nights else "no night has any yet"
        raise FunnelError(f"no scores of {ds}, {newest}: run `funnel nightly --ds {ds}` first")
    return nights


def _measure_night(
    context: Context, run: StageRun, ds: date, before: date | None, nights: Mapping[date, int]
) -> list[Measurement]:
    settings = context.settings
    events = context.warehouse.row_counts("events", first=ds - timedelta(days=USUAL_DAYS), last=ds)
    connection, pins = connect_pinned(settings, "user_scores, runs, events, baselines, metrics", None)
    with connection:
        for pinned in pins:
            if pinned.table == "user_scores":
                run.record_input(pinned)
        ((model,),) = connection.execute("SELECT max(model_version) FROM user_scores WHERE ds = ?", [ds]).fetchall()
        baseline = read_baseline(connection, model) if model else None
        measured = [
            *_measure_volumes(connection, ds, nights, events),
            *measure_columns(sum_columns_read(context.warehouse.arrow("runs", first=ds, last=ds))),
            *_measure_freshness(connection, ds, end_of_day(ds, settings.zone)),
            *_measure_scores(connection, ds, before, settings.funnel.stage_names, model, baseline),
        ]
        if baseline:
            sample = context.warehouse.arrow("feature_samples", first=ds, last=ds)
            measured += measure_feature_drift(sample, baseline, steady_features(settings))
        for stage, matured in read_matured(connection, settings, ds).items():
            measured += measure_outcomes(stage, matured)
    return measured


def _measure_volumes(
    connection: duckdb.DuckDBPyConnection, ds: date, nights: Mapping[date, int], events: Mapping[date, int]
) -> Iterator[Measurement]:
    landed = connection.execute(
        "SELECT rows_in, rows_out, quarantined FROM runs WHERE stage = 'ingest' AND status = 'ok' AND ds = ? "
        "ORDER BY started_at DESC LIMIT 1",
        [ds],
    ).fetchone()
    if landed:
        rows_in, rows_out, quarantined = landed
        yield Measurement("rows_landed", rows_out)
        # A day without events is the audit's to tell.
        if ds in events:
            yield from _compare_with_usual("rows_landed_ratio", events, ds)
        yield Measurement("quarantined_share", quarantined / rows_in if rows_in else 0.0)
    yield Measurement("users_scored", nights[ds])
    yield from _compare_with_usual("users_scored_ratio", nights, ds)


def measure_columns(read: Mapping[str, ColumnRead]) -> Iterator[Measurement]:
    """The share of each source column's values that could not be read; yields nothing for a column without values."""
    for name, column in read.items():
        if column.values:
            basis = f"{column.unreadable:,} of {column.values:,}"
            basis += f", such as {column.example!r}" if column.example is not None else ""
            yield Measurement("unreadable_share", column.unreadable / column.values, feature=name, basis=basis)


def _compare_with_usual(name: str, counts: Mapping[date, int], ds: date) -> Iterator[Measurement]:
    """A night's count relative to the median of the week before; by chance a count n varies by sqrt(n) (Poisson)."""
    week = [day for day in counts if ds - timedelta(days=USUAL_DAYS) <= day < ds]
    usual = usual_rows(counts, ds)
    if usual and len(week) >= FEWEST_NIGHTS:
        ratio = counts[ds] / usual
        error = float(np.sqrt(1 / max(counts[ds], 1) + 1 / usual))
        yield Measurement(name, ratio, chance=ERRORS * error * max(ratio, 1 / ratio if ratio else 0.0))


def _measure_freshness(connection: duckdb.DuckDBPyConnection, ds: date, midnight: datetime) -> Iterator[Measurement]:
    """Hours from the end of the night's day, in the funnel's time zone, to the end of the run that wrote its scores."""
    published = connection.execute(
        "SELECT max(epoch(started_at) + seconds) FROM runs WHERE ds = $ds AND status = 'ok' "
        "AND run_id IN (SELECT run_id FROM user_scores WHERE ds = $ds) AND stage IN (SELECT unnest($stages))",
        {"ds": ds, "stages": list(PUBLISHING)},
    ).fetchone()
    if published and published[0] is not None:
        hours = (published[0] - midnight.timestamp()) / 3600
        yield Measurement("hours_to_scores", hours, is_checked=hours < BACKFILL_HOURS)


def _measure_scores(
    connection: duckdb.DuckDBPyConnection,
    ds: date,
    before: date | None,
    stages: tuple[str, ...],
    model: str | None,
    baseline: Baseline | None,
) -> Iterator[Measurement]:
    columns = ", ".join(f'"p_{stage}"' for stage in stages)
    scores_query = f"SELECT {columns} FROM user_scores WHERE ds = ?"
    tonight = connection.execute(scores_query, [ds]).fetchnumpy()
    earlier = connection.execute(scores_query, [before]).fetchnumpy() if before else None
    users = len(tonight[f"p_{stages[0]}"])
    if before:
        ((common,),) = connection.execute(
            "SELECT count(*) FROM user_scores WHERE ds = ? "
            "AND user_id IN (SELECT user_id FROM user_scores WHERE ds = ?)",
            [ds, before],
        ).fetchall()
        yield Measurement("users_in_common", common / users)
    for stage in stages:
        scores = tonight[f"p_{stage}"]
        yield Measurement("mean_score", float(scores.mean()), stage, model_version=model)
        # A stage that is new to the funnel has none.
        if earlier and not np.ma.is_masked(earlier[f"p_{stage}"]):
            shift = psi(earlier[f"p_{stage}"], scores)
            chance = index_by_chance(len(DECILES) + 1, len(earlier[f"p_{stage}"]), users)
            basis = f"against the night of {before}"
            yield Measurement("score_psi", shift, stage, model_version=model, chance=chance, basis=basis)
        if baseline:
            yield from measure_score_drift(stage, scores, baseline)


def measure_score_drift(stage: str, scores: np.ndarray, baseline: Baseline) -> Iterator[Measurement]:
    """Compare tonight's scores (n,) of a stage with the model's baseline; yields nothing for a stage new to it."""
    if stage in baseline.scores:
        moved = drift(baseline.scores[stage], pa.chunked_array([scores]))
        yield Measurement(
            "score_psi_training",
            moved.psi,
            stage,
            model_version=baseline.model_version,
            chance=moved.psi_chance,
            basis=f"against {baseline}",
        )


def measure_feature_drift(sample: pa.Table, baseline: Baseline, steady: set[str]) -> Iterator[Measurement]:
    """Compare each feature of tonight's users with the model's baseline; yields nothing without a sample.

    Thresholds apply to the features in `steady`.
    """
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
        if feature in baseline.missing_in_examples:
            share = baseline.missing_in_examples[feature]
            chance = ERRORS * float(np.sqrt(share * (1 - share) / sample.num_rows))
            found["feature_missing_untaught"] = (moved.missing_share - share, chance)
        for name, (value, chance) in found.items():
            if value is not None:
                yield Measurement(
                    name,
                    value,
                    feature=feature,
                    model_version=baseline.model_version,
                    chance=chance,
                    is_checked=feature in steady,
                    basis=f"against {baseline}",
                )


def measure_outcomes(stage: str, matured: MaturedExposures) -> Iterator[Measurement]:
    """How good each model's scores proved; thresholds apply to the model of the latest scores."""
    for model in sorted(set(matured.models)):
        quality = measure_quality(matured.scored_by(model))
        figures = {
            "matured_exposures": (quality.exposures, 0.0),
            "matured_positives": (quality.positives, 0.0),
            "matured_auc": (quality.auc, quality.auc_chance),
            "matured_calibration_error": (quality.calibration_error, 0.0),
            "matured_calibration_gap": (quality.calibration_gap, 0.0),
            "matured_lift": (quality.lift, quality.lift_chance),
        }
        for name, (value, chance) in figures.items():
            if value is not None:
                yield Measurement(
                    name,
                    value,
                    stage,
                    model_version=model,
                    chance=chance,
                    is_checked=model == matured.models[-1],
                    basis=f"{quality.positives:,} positives of {quality.exposures:,}, model {model}",
                )
