"""Tiles: a landing day's events as counts and last times by user, event and date."""

from pipeline.context import Context
from pipeline.dates import DateRange
from pipeline.publish import stage_audit_publish
from pipeline.runs import Counts, recorded
from pipeline.spark import read, run_sql

TABLES = ("events", "activity")


def activity(context: Context, dates: DateRange) -> None:
    """Rebuild the `activity` partitions of a range of landing days from `events`, in one job and one commit."""
    with recorded(context, "activity", dates) as run:
        events = run.read(context.warehouse.pin("events", first=dates.first, last=dates.last))
        tiles = run_sql(context.spark, "activity", {"events": read(context.spark, events)})
        stage_audit_publish(context, run, "activity", tiles)
        # From the tables' metadata: every event is in one tile.
        days = {name: context.warehouse.row_counts(name, first=dates.first, last=dates.last) for name in TABLES}
        run.by_day = {
            day: Counts(rows_in=rows, rows_out=days["activity"].get(day, 0)) for day, rows in days["events"].items()
        }
