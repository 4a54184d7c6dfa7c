"""A night's scores: one row for every user who may still be texted, by the champion as of that night."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from pipeline.audits.audit import audit
from pipeline.audits.expectations import BASELINE_NIGHTS, score_expectations
from pipeline.audits.findings import Finding
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.executors import send_code, send_folder
from pipeline.engines.spark import cached, stage_one_partition
from pipeline.errors import FunnelError
from pipeline.features.eligible import select_eligible
from pipeline.features.features import activity_reach, compute_features, planned_context
from pipeline.features.known_users import publish_known_users_if_due, read_known_users
from pipeline.features.samples import is_sampled, publish_sample
from pipeline.runs.context import Context, code_version
from pipeline.runs.landed import describe_days, find_without_activity
from pipeline.runs.landed_with import require_landed_alike
from pipeline.runs.publish import audit_staged, publish
from pipeline.runs.record import Counts, StageRun, recorded
from pipeline.scoring.choice import choose_model
from pipeline.scoring.fit import warn_of_unknown_context
from pipeline.scoring.predict import SAMPLED, predictor
from pipeline.warehouse.tables import feature_columns
from pipeline.warehouse.warehouse import Pinned

BANDS = 10
PARTITION_USERS = 65_536
"""Rows per scoring partition: enough to outweigh the cost of a task, few enough for its memory."""


def score(context: Context, ds: date, *, model: str | None = None) -> None:
    """Score a night and publish the partition `ds` of `user_scores`."""
    publish_scores(context, ds, stage_scores(context, ds, model=model))


def stage_scores(context: Context, ds: date, *, model: str | None = None) -> tuple[str, ...]:
    """Score every user eligible on `ds` into files that readers do not see yet, and audit them.

    The features of a sample of the users become the partition `ds` of `feature_samples`. `known_users` gets a new
    state if one is due.

    Args:
        model: a version to use instead of the champion as of `ds`.

    Returns: the files, all that `publish_scores` needs.

    Raises:
        FunnelError: no promoted model was trained on data up to `ds`, no user is eligible, the model does not fit the
            configuration, a day has landed without its activity, or days landed with another time zone.
        AuditError: a critical expectation failed; the files are removed.
    """
    settings = context.settings
    with recorded(context, "score", DateRange(ds, ds)) as run:
        require_landed_alike(context)
        path, bundle = choose_model(run, ds, model)
        _require_activity(context, ds)
        run.warnings += warn_of_unknown_context(bundle, path.name, settings)
        state = publish_known_users_if_due(run, ds)
        known = read_known_users(run, state, ds)
        eligible = select_eligible(context, known, ds)
        with cached(eligible.withColumn("as_of", F.lit(ds))) as spine:
            count = spine.count()
            if not count:
                raise FunnelError(explain_nobody(known, ds))
            inputs = compute_features(run, spine, first=ds, last=ds)
            staged = stage_predictions(run, inputs, path, users=count)
            run.by_day = {ds: Counts(rows_in=count, rows_out=count)}
    return staged.files


def explain_nobody(known: DataFrame, ds: date) -> str:
    """Why none of the known users as of a date may be scored."""
    users, withdrawn, completed = known.agg(
        F.count("*"), F.count(F.when(~F.col("consent"), 1)), F.count(F.when(F.col("completed_on") <= F.lit(ds), 1))
    ).collect()[0]
    return (
        f"no user is eligible on {ds}: of {users:,} known users, {withdrawn:,} have withdrawn consent and "
        f"{completed:,} have completed; a consent that cannot be read counts as withdrawn, see `unreadable` in "
        "the runs of ingest"
    )


def publish_scores(context: Context, ds: date, files: Sequence[str]) -> None:
    """Commit audited files as the partition `ds` of `user_scores`, without Spark; repeated, it changes nothing.

    Raises:
        FunnelError: the files are gone, or the warehouse cannot be written.
    """
    night = DateRange(ds, ds)
    with recorded(context, "publish", night) as run:
        staged = Pinned("user_scores", None, tuple(files), context.warehouse.tables["user_scores"].schema)
        run.output_snapshot = publish(run, staged, night)
        rows = context.warehouse.row_counts("user_scores", first=ds, last=ds).get(ds, 0)
        run.by_day = {ds: Counts(rows_in=rows, rows_out=rows)}


def stage_predictions(run: StageRun, inputs: DataFrame, bundle: Path, *, users: int) -> Pinned:
    """Score rows of features into audited files of the run's one date, and publish a sample of the features.

    Args:
        inputs: distinct `user_id`, and the columns of `tables.feature_columns`.
        bundle: the folder of the model `run.model_version`.
        users: the number of rows, which the audit checks.

    Raises:
        AuditError: a critical expectation failed; the files are removed.
    """
    context = run.context
    ds = run.dates.first
    partitions = -(-users // PARTITION_USERS)
    chosen = inputs.withColumn(SAMPLED, is_sampled(users, context.settings.monitoring.sample_users))
    with cached(_score_rows(context, chosen, bundle, partitions)) as scored:
        rows = with_bands(scored.drop("sample"), context.settings.funnel.stage_names).select(
            "*",
            F.lit(ds).alias("ds"),
            F.lit(ds).alias("feature_as_of"),
            F.lit(run.model_version).alias("model_version"),
            F.lit(context.run_id).alias("run_id"),
            F.lit(code_version()).alias("code_version"),
            F.lit(datetime.now(UTC)).alias("scored_at"),
        )
        # One file a core, and more once a file would hold over half a million users.
        cores = context.spark.sparkContext.defaultParallelism
        files = max(min(partitions, cores), -(-partitions // 8))
        staged = stage_one_partition(rows, context.warehouse, "user_scores", ds, files=files)
        audit_staged(run, staged, partial(_audit, context, ds, users))
        publish_sample(run, scored.where("sample IS NOT NULL").select("user_id", "sample.*"), ds)
        return staged


def _score_rows(context: Context, inputs: DataFrame, bundle: Path, partitions: int) -> DataFrame:
    """Apply `predict.predictor` to each row of features, in the planned campaign's context.

    Which users share a partition depends only on their ids and number, so that a rerun repeats every score to the
    last bit on any number of cores.
    """
    settings = context.settings
    send_code(context.spark.sparkContext)
    sent = send_folder(context.spark.sparkContext, bundle)
    score_batches = predictor(sent, planned_context(settings), list(feature_columns(settings)))
    spread = inputs.drop("as_of").repartition(partitions, "user_id")
    return spread.mapInArrow(score_batches, _score_schema(settings))


def with_bands(scored: DataFrame, stages: tuple[str, ...]) -> DataFrame:
    """Replace `log_odds_<stage>` by `band_<stage>`, from 1 to 10, the best, by rank among the night's users.

    Distinct thousandths of log-odds are few enough to be ranked on the driver for any number of users. Equal ones
    share a band, by their middle rank.
    """
    pairs = ", ".join(f"{position}, log_odds_{stage}" for position, stage in enumerate(stages))
    counted = scored.selectExpr(f"stack({len(stages)}, {pairs}) AS (stage, log_odds)").groupBy("stage", "log_odds")
    counts = pd.DataFrame(counted.count().toPandas()).sort_values(["stage", "log_odds"])
    by_stage = counts.groupby("stage")["count"]
    middle = by_stage.cumsum() - counts["count"] / 2
    counts["band"] = 1 + (BANDS * middle // by_stage.transform("sum")).astype(int)
    lowest = counts.groupby(["stage", "band"])["log_odds"].min()
    bands = {
        f"band_{stage}": F.expr(_band_sql(f"log_odds_{stage}", lowest[position].to_dict()))
        for position, stage in enumerate(stages)
    }
    return scored.withColumns(bands).drop(*(f"log_odds_{stage}" for stage in stages))


def _band_sql(column: str, lowest: Mapping[int, int]) -> str:
    """SQL for the band of a column's value, from the lowest value in each band that has any."""
    cases = (f"WHEN {column} >= {lowest[band]} THEN {band}" for band in sorted(lowest, reverse=True))
    return f"CASE {' '.join(cases)} END"


def _require_activity(context: Context, ds: date) -> None:
    """Refuse features that would lack a day's events, which landed but whose tiles were never built."""
    days = find_without_activity(context, DateRange(ds - activity_reach(context.settings), ds))
    if days:
        raise FunnelError(
            f"{describe_days(days)} landed, but the activity was never built: funnel activity --ds {days[0]}"
            + (", and so on for each of them" if len(days) > 1 else "")
        )


def _score_schema(settings: Settings) -> StructType:
    columns = [("user_id", pa.string())]
    for stage in settings.funnel.stage_names:
        columns += [(f"raw_{stage}", pa.float64()), (f"p_{stage}", pa.float64()), (f"log_odds_{stage}", pa.int32())]
    columns.append(("sample", pa.struct(feature_columns(settings).items())))
    return from_arrow_schema(pa.schema(columns))


def _audit(context: Context, ds: date, eligible_users: int, written: DataFrame) -> list[Finding]:
    warehouse = context.warehouse
    last = ds - timedelta(days=1)
    nights = warehouse.row_counts("user_scores", first=ds - timedelta(days=BASELINE_NIGHTS), last=last)
    usual = median(nights.values()) if nights else None
    suite = score_expectations(warehouse.tables["user_scores"], context.settings, eligible=eligible_users, usual=usual)
    return audit(written, suite, what="user_scores", keys=("user_id",))
