"""Training examples: every exposure known as of a date, with its features, labels and label masks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from functools import partial

from pyspark.sql import DataFrame

from pipeline.audits.audit import audit
from pipeline.audits.expectations import example_expectations
from pipeline.audits.findings import Finding
from pipeline.config.features import context_names, declared_features
from pipeline.dates import DateRange, end_of_day, epoch_micros
from pipeline.engines.spark import cached, run_sql
from pipeline.features.eligible import select_eligible
from pipeline.features.features import activity_reach, compute_features
from pipeline.features.known_users import publish_known_users_if_due, read_known_users
from pipeline.features.precision import Midnights, describe_precision, knows_only_dates
from pipeline.features.samples import sample_features
from pipeline.features.static import check_static_attributes
from pipeline.runs.context import Context
from pipeline.runs.landed_with import require_known_stages, require_landed_alike
from pipeline.runs.publish import stage_audit_publish
from pipeline.runs.record import Counts, StageRun, recorded


def build_examples(context: Context, as_of: date) -> None:
    """Publish the partition `as_of` of `examples`, and the number of implied labels to `metrics`.

    The features of a sample of the users eligible on `as_of` become the partition of `feature_samples`, from which a
    model of these examples gets its baseline. `known_users` gets a new state if one is due.

    Raises:
        AuditError: a critical expectation failed, or a static attribute changes; `examples` is unchanged.
        FunnelError: days landed with another time zone, or without a stage's events.
    """
    settings, dates = context.settings, DateRange(as_of, as_of)
    with recorded(context, "examples", dates) as run:
        require_landed_alike(context)
        require_known_stages(context, DateRange(as_of - timedelta(days=settings.training.history_days), as_of))
        check_static_attributes(run, as_of)
        with cached_exposures(run, as_of) as exposed:
            # Features are those of the evening before, which the night that planned the message would have known.
            spine = exposed.selectExpr("user_id", "feature_as_of AS as_of").distinct()
            first = as_of - timedelta(days=settings.training.history_days)
            known = compute_features(run, spine, first=first, last=as_of)
            rows = exposed.join(known.withColumnRenamed("as_of", "feature_as_of"), ["user_id", "feature_as_of"])
            check = partial(_audit, context)
            stage_audit_publish(run, "examples", rows, check)
            count = _record_implied(context, exposed, as_of)
        state = publish_known_users_if_due(run, as_of)
        known_users = read_known_users(run, state, as_of)
        sample_features(run, select_eligible(context, known_users, as_of), as_of)
        run.by_day = {as_of: Counts(rows_in=count, rows_out=count)}


@contextmanager
def cached_exposures(run: StageRun, as_of: date) -> Iterator[DataFrame]:
    """Label the exposures up to `as_of`: observed stages, maturity, nested labels, by `sql/spark/exposures.sql`.

    The rows are cached until the block ends.
    """
    context = run.context
    settings = context.settings
    first = as_of - timedelta(days=settings.training.history_days) - activity_reach(settings)
    events = run.read("events", first=first, last=as_of)
    end_of_as_of = epoch_micros(end_of_day(as_of, settings.zone))
    seen = {"as_of": as_of, "end_of_as_of": end_of_as_of}
    midnights = _count_midnights(context, events, seen)
    run.warnings += describe_precision(settings, midnights)
    with cached(run_sql(context.spark, "landed_again", {"events": events}, **seen)) as landed_again:
        # Once cached and counted, Spark knows its size, and broadcasts it while it is small: nothing need be sorted.
        landed_again.count()
        exposures = run_sql(
            context.spark,
            "exposures",
            {"events": events, "landed_again": landed_again},
            **seen,
            history_days=settings.training.history_days,
            attribution=settings.funnel.attribution,
            by_day=knows_only_dates(settings, midnights),
            stages=settings.funnel.stages,
            context=context_names(declared_features(settings)),
            declared_context=settings.source.events.context,
        )
        with cached(exposures) as rows:
            yield rows


def _count_midnights(context: Context, events: DataFrame, seen: Mapping[str, object]) -> list[Midnights]:
    """How much of the log lies at midnight; nothing, where the configuration says what its times know."""
    if context.settings.source.events.time_precision != "auto":
        return []
    rows = run_sql(context.spark, "time_precision", {"events": events}, **seen).collect()
    return [Midnights(**row.asDict()) for row in rows]


def _audit(context: Context, written: DataFrame) -> list[Finding]:
    table = context.warehouse.tables["examples"]
    return audit(
        written, example_expectations(table, context.settings), what="examples", keys=("exposure_id", "user_id")
    )


def _record_implied(context: Context, exposed: DataFrame, as_of: date) -> int:
    """Write the number of implied labels of each stage to `metrics`; returns the number of exposures."""
    stages = context.settings.funnel.stage_names
    sums = [f"sum(label_{stage} - observed_{stage}) AS implied_{stage}" for stage in stages]
    *implied, count = exposed.selectExpr(*sums, "count(*)").collect()[0]
    rows = [
        {"ds": as_of, "name": "implied_labels", "stage": stage, "value": float(number or 0)}
        for stage, number in zip(stages, implied, strict=True)
    ]
    context.warehouse.append("metrics", [row | {"run_id": context.run_id} for row in rows])
    return int(count)
