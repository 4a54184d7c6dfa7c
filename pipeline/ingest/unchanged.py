"""A users source without dates has everybody on every night: what has landed before, as it is now, does not land again.

Such a source is a state and no log. Landed whole each night, `users` would grow by all users a night, and say nothing
that it has not said before.
"""

from datetime import timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.engines.templates import quote
from pipeline.ingest.parts import has_landing_days
from pipeline.runs.record import StageRun


def mark_unchanged(run: StageRun, users: DataFrame) -> DataFrame:
    """Add `is_unchanged`: whether a profile is, in every column, the one that landed last before the run's dates.

    It is false for every row of a source that names landing days.

    Args:
        users: `profile`, a struct with `user_id`, and `consent_at`, as they would land; the latter lands only where the
            source says when profiles change.
    """
    source = run.context.settings.source.users
    if source is None or has_landing_days(source):
        return users.withColumn("is_unchanged", F.lit(False))
    names = [name for name in users.select("profile.*").columns if name != "user_id"]
    before = run.read("users", last=run.dates.first - timedelta(days=1))
    times = [name for name in before.columns if name == "consent_at"]
    landed = F.struct(*(F.col(quote(name)) for name in names), *times)
    latest = before.groupBy(F.col("user_id").alias("landed_user")).agg(F.max_by(landed, "landed_on").alias("landed"))
    now = F.struct(*(F.col(f"profile.{quote(name)}").alias(name) for name in names), *times)
    joined = users.join(latest, F.col("profile.user_id") == F.col("landed_user"), "left")
    is_unchanged = F.col("landed_user").isNotNull() & now.eqNullSafe(F.col("landed"))
    return joined.withColumn("is_unchanged", is_unchanged).drop("landed_user", "landed")


def read_lost_withdrawals(run: StageRun, users: DataFrame) -> DataFrame | None:
    """The withdrawals that landed on the run's dates and would be lost with them: the source has no word of them now.

    A repeated night replaces its rows by what the source has now, and later nights have landed only what changed. None
    if the source names landing days, or nothing has landed on these dates.

    Args:
        users: `fate`, and `profile`, a struct with `user_id` and `consent`, of all rows of the source.
    """
    source, dates, warehouse = run.context.settings.source.users, run.dates, run.context.warehouse
    if source is None or has_landing_days(source):
        return None
    if not warehouse.row_counts("users", first=dates.first, last=dates.last):
        return None
    withdrawn = run.read("users", first=dates.first, last=dates.last).where("NOT consent")
    heard = users.where("fate <> 'quarantined' AND profile.consent IS NOT NULL")
    here = heard.select(F.col("profile.user_id").alias("user_id")).distinct()
    return withdrawn.join(here, "user_id", "left_anti")
