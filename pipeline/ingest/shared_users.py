"""Counts the users with events who have a profile, before either is published."""

from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.audits.shared_users import SharedUsers
from pipeline.engines.spark import read_as_written
from pipeline.runs.record import StageRun
from pipeline.warehouse.warehouse import Pinned


def count_shared_users(run: StageRun, events: DataFrame, staged_users: Pinned | None, min_share: float) -> SharedUsers:
    """Count the users of these events, and those with a profile staged now or landed before.

    Earlier profiles are read only if those staged now leave too few users with one.
    """
    if staged_users is not None and staged_users.files:
        tonight = read_as_written(run.context.spark, staged_users).select("user_id")
        found = _count(events, tonight)
        return found if not found.is_low(min_share) else _count(events, tonight.unionByName(_read_earlier(run)))
    return _count(events, _read_earlier(run))


def _read_earlier(run: StageRun) -> DataFrame:
    """The users with a profile that landed before the run's dates: as last scored, and what landed since."""
    before = run.dates.first - timedelta(days=1)
    states = run.context.warehouse.row_counts("known_users", first=date.min, last=before)
    if not states:
        return run.read("users", last=before).select("user_id")
    newest = max(states)
    known = run.read("known_users", first=newest, last=newest).where("profile_on IS NOT NULL")
    since = run.read("users", first=newest + timedelta(days=1), last=before)
    return known.select("user_id").unionByName(since.select("user_id"))


def _count(events: DataFrame, profiles: DataFrame) -> SharedUsers:
    # One shuffle for both.
    marked = [
        users.select("user_id", F.lit(has_events).alias("has_events"), F.lit(not has_events).alias("is_known"))
        for users, has_events in ((events, True), (profiles, False))
    ]
    users = marked[0].unionByName(marked[1]).groupBy("user_id")
    flagged = users.agg(F.max("has_events").alias("has_events"), F.max("is_known").alias("is_known"))
    counted = flagged.agg(
        F.count_if("has_events"),
        F.count_if(F.col("has_events") & F.col("is_known")),
        F.count_if("is_known"),
        F.min(F.when(F.col("has_events"), F.col("user_id"))),
        F.min(F.when(F.col("is_known"), F.col("user_id"))),
    )
    return SharedUsers(*counted.collect()[0])
