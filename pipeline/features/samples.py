"""The features of a sample of a night's users, kept so that later nights can show how users have changed."""

from datetime import date

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.dates import DateRange
from pipeline.engines.spark import cached, stage_one_partition
from pipeline.features.features import compute_features
from pipeline.runs.publish import publish
from pipeline.runs.record import StageRun

PARTS = 1_000_000
"""A sample's share of the users is a multiple of one part in a million, rounded up."""


def is_sampled(users: int, wanted: int) -> Column:
    """Whether `user_id` is in a sample of about `wanted` of the users, by its hash: the same ones every night."""
    parts = PARTS if users <= wanted else -(-PARTS * wanted // users)
    return F.expr(f"pmod(xxhash64(user_id), {PARTS}) < {parts}")


def sample_features(run: StageRun, eligible: DataFrame, as_of: date) -> None:
    """Publish the partition `as_of` of `feature_samples`, for a sample of the users eligible on that date."""
    with cached(eligible.withColumn("as_of", F.lit(as_of))) as everyone:
        if not (users := everyone.count()):
            return
        sampled = everyone.where(is_sampled(users, run.context.settings.monitoring.sample_users))
        publish_sample(run, compute_features(run, sampled, first=as_of, last=as_of), as_of)


def publish_sample(run: StageRun, rows: DataFrame, ds: date) -> None:
    """Publish rows of `user_id` and features as the partition `ds` of `feature_samples`."""
    staged = stage_one_partition(
        rows.withColumn("ds", F.lit(ds)), run.context.warehouse, "feature_samples", ds, files=1
    )
    publish(run, staged, DateRange(ds, ds))
