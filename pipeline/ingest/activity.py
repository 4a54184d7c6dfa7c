"""Tiles: a landing day's events, counted by user, event and date, with the last time of each."""

from pipeline.dates import DateRange
from pipeline.engines.spark import run_sql
from pipeline.runs.context import Context
from pipeline.runs.publish import stage_audit_publish
from pipeline.runs.record import Counts, recorded

TABLES = ("events", "activity")


def build_activity(context: Context, dates: DateRange) -> None:
    """Rebuild `activity` for a range of landing days from `events`, in one job and one commit."""
    with recorded(context, "activity", dates) as run:
        events = run.read("events", first=dates.first, last=dates.last)
        tiles = run_sql(context.spark, "activity", {"events": events})
        stage_audit_publish(run, "activity", tiles)
        # Counted from the tables' metadata; every event is in one tile.
        days = {name: context.warehouse.row_counts(name, first=dates.first, last=dates.last) for name in TABLES}
        run.by_day = {
            day: Counts(rows_in=rows, rows_out=days["activity"].get(day, 0)) for day, rows in days["events"].items()
        }
