"""Whether a day's rows are as many as usual: plain counts by day in, plain values out."""

from collections.abc import Mapping
from datetime import date, timedelta
from statistics import median

USUAL_DAYS = 7
"""A day is compared with this many days before it."""
WEEKS = 4
"""How many weeks before a day its weekday is looked at; afterwards, too, where later days are known."""
FEWEST_EMPTY = 2
"""How many empty days of one weekday show that it is a day without work."""


def usual_rows(rows: Mapping[date, int], day: date) -> float | None:
    """The median of the rows of the last 7 days; None if they had none.

    A day without rows does not count: it may never have landed.

    >>> usual_rows({date(2026, 3, 1): 10, date(2026, 3, 2): 30, date(2026, 3, 3): 0}, date(2026, 3, 4))
    20.0
    """
    week = [n for earlier in _days(day, -USUAL_DAYS, -1) if (n := rows.get(earlier, 0))]
    return float(median(week)) if week else None


def is_unexpectedly_empty(rows: Mapping[date, int], day: date) -> bool:
    """Whether a day has no rows although the last 7 days had some, and its weekday is not known to go without.

    A weekday goes without if it was empty at least twice in the weeks around and never had rows. Only weeks count with
    rows both before and after that day: before the first rows, or in an outage, every day is empty.

    Args:
        rows: by day; in a backfill, days without rows are there with 0.

    >>> rows = {date(2026, 3, 2) + timedelta(days=n): 9 * (n % 7 < 6) for n in range(21)}
    >>> [is_unexpectedly_empty(rows, date(2026, 3, sunday)) for sunday in (8, 22)]
    [False, False]
    >>> is_unexpectedly_empty({day: n for day, n in rows.items() if day < date(2026, 3, 8)}, date(2026, 3, 8))
    True
    """
    if rows.get(day, 0) or usual_rows(rows, day) is None:
        return False
    alike = [day + timedelta(weeks=n) for n in range(-WEEKS, WEEKS + 1) if n]
    newest = max(rows)
    known = [
        each
        for each in alike
        if each <= newest and _has_rows(rows, each, -6, -1) and (each == newest or _has_rows(rows, each, 1, 6))
    ]
    return len(known) < FEWEST_EMPTY or any(rows.get(each, 0) for each in alike)


def _has_rows(rows: Mapping[date, int], day: date, first: int, last: int) -> bool:
    return any(rows.get(each, 0) for each in _days(day, first, last))


def _days(day: date, first: int, last: int) -> list[date]:
    return [day + timedelta(days=n) for n in range(first, last + 1)]
