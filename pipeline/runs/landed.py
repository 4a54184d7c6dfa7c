"""Which days have landed, and which of them have no activity yet."""

from datetime import date, datetime, timedelta

from pipeline.dates import DateRange
from pipeline.runs.context import Context

LANDING_TABLES = ("events", "users", "quarantine")


def find_first_landed(context: Context) -> date | None:
    """The first day of which any row landed; None before the first landing."""
    days = [min(days) for name in LANDING_TABLES if (days := _count_days(context, name, date.min, date.max))]
    return min(days, default=None)


def find_not_landed(context: Context, dates: DateRange) -> list[date]:
    """The days of a range that never landed, in order. A day that landed without a row did."""
    landed = {day for name in LANDING_TABLES for day in _count_days(context, name, dates.first, dates.last)}
    absent = [day for day in dates if day not in landed]
    if not absent:
        return []
    # Of a day without a row there is only its run. One that kept rows and has none now was rolled back.
    runs = context.warehouse.arrow("runs", first=absent[0], last=absent[-1])
    columns = runs.select(["ds", "stage", "status", "rows_out"]).to_pylist()
    empty = {run["ds"] for run in columns if run["stage"] == "ingest" and run["status"] == "ok" and not run["rows_out"]}
    return [day for day in absent if day not in empty]


def find_without_activity(context: Context, dates: DateRange) -> list[date]:
    """The days of a range whose events have landed and whose activity is not that of these events, in order.

    It was never built, or not since the day landed again.
    """
    events, activity = (_count_days(context, name, dates.first, dates.last) for name in ("events", "activity"))
    return sorted((set(events) - set(activity)) | (set(events) & _find_landed_since(context, dates)))


def _find_landed_since(context: Context, dates: DateRange) -> set[date]:
    """The days whose last landing, as `runs` tells, is later than their last activity."""
    runs = context.warehouse.arrow("runs", first=dates.first, last=dates.last)
    last: dict[tuple[date, str], datetime] = {}
    for run in runs.select(["ds", "stage", "status", "started_at"]).to_pylist():
        if run["status"] == "ok" and run["stage"] in ("ingest", "activity"):
            key = (run["ds"], run["stage"])
            last[key] = max(run["started_at"], last.get(key, run["started_at"]))
    return {
        day
        for (day, stage), at in last.items()
        if stage == "ingest" and (day, "activity") in last and at > last[day, "activity"]
    }


def join_days(days: list[date]) -> list[DateRange]:
    """Days in order as ranges of days that follow each other.

    >>> [str(each) for each in join_days([date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 3)])]
    ['2026-02-27 to 2026-02-28', '2026-03-03']
    """
    ranges: list[DateRange] = []
    for day in days:
        if ranges and ranges[-1].last == day - timedelta(days=1):
            ranges[-1] = DateRange(ranges[-1].first, day)
        else:
            ranges.append(DateRange(day, day))
    return ranges


def describe_days(days: list[date]) -> str:
    """Days in order, as the first and last of them and how many they are.

    >>> describe_days([date(2026, 2, 28)]), describe_days([date(2026, 2, 28), date(2026, 3, 3)])
    ('2026-02-28', '2 days from 2026-02-28 to 2026-03-03')
    """
    return str(days[0]) if len(days) == 1 else f"{len(days):,} days from {days[0]} to {days[-1]}"


def _count_days(context: Context, name: str, first: date, last: date) -> dict[date, int]:
    return context.warehouse.row_counts(name, first=first, last=last)
