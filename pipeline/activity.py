"""Tiles: a landing day's events as counts and last times by user, event and date."""

from pipeline.context import Context
from pipeline.dates import DateRange
from pipeline.publish import stage_audit_publish
from pipeline.runs import Counts, recorded
from pipeline.spark import read, run_sql


def activity(context: Context, dates: DateRange) -> None:
    """Rebuild the `activity` partitions of a range of landing days from `events`, in one job and one commit."""
    with recorded(context, "activity", dates) as run:
        events = run.read(context.warehouse.pin("events", first=dates.first, last=dates.last))
        tiles = run_sql(context.spark, "activity", {"events": read(context.spark, events)})
        published = stage_audit_publish(context, run, "activity", tiles)
        counted = read(context.spark, published).groupBy("landed_on").agg({"n": "sum", "*": "count"}).collect()
        run.by_day = {row["landed_on"]: Counts(rows_in=row["sum(n)"], rows_out=row["count(1)"]) for row in counted}
