"""A night's scores: one row for every user who may still be texted, from the champion as of that night."""

from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from model import Bundle, BundleError
from pipeline.audit import audit
from pipeline.config import Settings
from pipeline.context import Context, code_version
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.expectations import BASELINE_NIGHTS, of_scores
from pipeline.features import features
from pipeline.predict import predictor
from pipeline.publish import stage_audit_publish
from pipeline.registry import Registry
from pipeline.runs import Counts, StageRun, recorded
from pipeline.spark import read, run_sql

BANDS = 10


def score(context: Context, ds: date, *, model: str | None = None) -> None:
    """Publish the partition `ds` of `user_scores`.

    Args:
        model: a version to use instead of the champion as of `ds`.

    Raises:
        FunnelError: no model was trained by `ds`, no user is eligible, or the bundle does not fit the funnel.
        AuditError: a critical expectation failed; the table is as it was.
    """
    settings = context.settings
    with recorded(context, "score", DateRange(ds, ds)) as run:
        run.model_version = model or _champion(settings, ds)
        path = Registry(settings).bundle_path(run.model_version)
        _require_same_stages(path, settings)
        spine = eligible(context, run, ds).withColumn("as_of", F.lit(ds)).persist()
        try:
            count = spine.count()
            if not count:
                raise FunnelError(f"no user is eligible on {ds}: no known user may still be texted by then")
            scored = _scored(context, features(context, run, spine, first=ds, last=ds), path).persist()
            rows = with_bands(scored, settings.funnel.stage_names).select(
                "*",
                F.lit(ds).alias("ds"),
                F.lit(ds).alias("feature_as_of"),
                F.lit(run.model_version).alias("model_version"),
                F.lit(context.run_id).alias("run_id"),
                F.lit(code_version()).alias("code_version"),
                F.lit(datetime.now(UTC)).alias("scored_at"),
            )
            stage_audit_publish(context, run, "user_scores", rows, partial(_audit, context, ds, count))
            run.by_day = {ds: Counts(rows_in=count, rows_out=count)}
        finally:
            context.spark.catalog.clearCache()


def _scored(context: Context, inputs: DataFrame, bundle: Path) -> DataFrame:
    """`user_id`, `raw_<stage>` and `p_<stage>` of each row of features, in the planned campaign's context."""
    settings = context.settings
    planned = {f"context_{name}": settings.scoring.context.get(name) for name in settings.features.context}
    known = inputs.withColumns({name: F.lit(value).cast("string") for name, value in planned.items()})
    # A fixed order makes equal batches, so that a rerun repeats every score to the last bit.
    ordered = known.repartition("user_id").sortWithinPartitions("user_id").drop("as_of")
    context.spark.sparkContext.addFile(str(bundle), recursive=True)
    return ordered.mapInArrow(predictor(bundle.name), _score_schema(settings))


def eligible(context: Context, run: StageRun, ds: date) -> DataFrame:
    """`user_id` of everyone known by `ds`, not completed, consent not withdrawn."""
    settings, warehouse = context.settings, context.warehouse
    views = {"activity": read(context.spark, run.read(warehouse.pin("activity", last=ds)))}
    if settings.source.users:
        views["users"] = read(context.spark, run.read(warehouse.pin("users", last=ds)))
    return run_sql(
        context.spark,
        "eligible",
        views,
        ds=ds,
        has_users="users" in views,
        last_stage=settings.funnel.stage_names[-1],
    )


def with_bands(scored: DataFrame, stages: tuple[str, ...]) -> DataFrame:
    """Add `band_<stage>`, 1 to 10 by the rank of `raw_<stage>` among the night's users, 10 the best.

    Ranks are taken over scores rounded to a thousandth of log-odds: few enough to rank on the driver whatever the
    number of users. Equal scores share a band, by their middle rank.
    """
    log_odds = {stage: f"round(ln(raw_{stage} / (1 - raw_{stage})), 3)" for stage in stages}
    pairs = ", ".join(f"'{stage}', {expression}" for stage, expression in log_odds.items())
    counted = (
        scored.selectExpr(f"stack({len(stages)}, {pairs}) AS (stage, rounded)").groupBy("stage", "rounded").count()
    )
    counts = pd.DataFrame(counted.toPandas()).sort_values(["stage", "rounded"])
    by_stage = counts.groupby("stage")["count"]
    middle = by_stage.cumsum() - counts["count"] / 2
    counts["band"] = (1 + BANDS * middle // by_stage.transform("sum")).astype("int32")
    banded = scored
    for stage, expression in log_odds.items():
        bands = counts.loc[counts["stage"] == stage, ["rounded", "band"]]
        bands = scored.sparkSession.createDataFrame(bands.set_axis([f"_{stage}", f"band_{stage}"], axis=1))
        banded = banded.join(F.broadcast(bands), F.expr(expression) == F.col(f"_{stage}"), "left").drop(f"_{stage}")
    return banded


def _champion(settings: Settings, ds: date) -> str:
    champion = Registry(settings).champion(ds)
    if champion is None:
        raise FunnelError(
            f"no model was trained on data up to {ds}: run `funnel train --as-of` with a date up to it, "
            "or name a version with --model"
        )
    return champion


def _require_same_stages(bundle: Path, settings: Settings) -> None:
    try:
        tasks = Bundle.load(bundle).task_names
    except BundleError as error:
        raise FunnelError(str(error)) from error
    if tasks != settings.funnel.stage_names:
        raise FunnelError(
            f"model {bundle.name} knows the stages {', '.join(tasks)}, funnel.stages has "
            f"{', '.join(settings.funnel.stage_names)}: train a model for these first"
        )


def _score_schema(settings: Settings) -> str:
    stages = settings.funnel.stage_names
    return ", ".join(["user_id string", *(f"{kind}_{stage} double" for stage in stages for kind in ("raw", "p"))])


def _audit(context: Context, ds: date, eligible_users: int, written: DataFrame) -> list[str]:
    warehouse = context.warehouse
    last = ds - timedelta(days=1)
    nights = warehouse.row_counts("user_scores", first=ds - timedelta(days=BASELINE_NIGHTS), last=last)
    usual = median(nights.values()) if nights else None
    suite = of_scores(warehouse.tables["user_scores"], context.settings, eligible=eligible_users, usual=usual)
    return audit(written, suite, what="user_scores", keys=("user_id",))
