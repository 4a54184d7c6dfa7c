"""Ids that stand for many people: those with more events on a day than a person can have, and words for none."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.config.funnel import EventSource
from pipeline.runs.record import StageWarning

TOO_MANY = "too many events of one user"
"""The reason, in `sql/spark/classify.sql`, for which their rows are left out."""

NO_IDS = ("null", "(null)", "<null>", "\\n", "none", "nil", "nan", "na", "n/a", "#n/a", "undefined", "unknown", "-")
"""What tools write where there is no id, in lower case."""


def is_no_id(user_id: Column) -> Column:
    return F.lower(user_id).isin(*NO_IDS)


def describe_no_ids(rows: DataFrame, user_id: Column, table: str) -> list[StageWarning]:
    """A warning of the rows whose user is one of `NO_IDS`, if there are any."""
    found = rows.where(is_no_id(user_id) & F.col("reason").isNull()).agg(F.count("*"), F.min(user_id)).collect()
    number, example = found[0]
    if not number:
        return []
    line = (
        f"{table}: {number:,} rows have a user_id that reads like none, such as {example!r}: each such id is kept as "
        f"one user; an expression makes it missing, such as user_id = \"nullif(uid, '{example}')\""
    )
    return [StageWarning("users without an id", line)]


def describe_busy_users(rows: DataFrame, source: EventSource) -> list[StageWarning]:
    """A warning of the users with more than `max_events_per_user_day` rows on a landing day, if there are any.

    Args:
        rows: `user_id`, `landed_on`; rows without a user are nobody's.
    """
    most = source.max_events_per_user_day
    counts = rows.where("trim(user_id) <> ''").groupBy("user_id", "landed_on").count()
    busy = counts.where(F.col("count") > most).orderBy(F.desc("count"), "landed_on", "user_id").collect()
    if not busy:
        return []
    user, day, number = busy[0]
    users = len({row["user_id"] for row in busy})
    more = f" ({users:,} users on {len(busy):,} user days in all)" if len(busy) > 1 else ""
    became = (
        "left out, to quarantine"
        if source.busy_users == "leave_out"
        else 'kept; if it stands for many people, source.events.busy_users = "leave_out" leaves it out'
    )
    line = (
        f"user {user!r} has {number:,} events on {day}, more than source.events.max_events_per_user_day = "
        f"{most:,}{more}: {became}"
    )
    return [StageWarning("busy users", line)]
