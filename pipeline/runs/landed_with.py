"""What the configuration said when the newest events landed, and what must not change between one day and the next.

Each publish of `events` keeps it with its snapshot. Landed days keep the names and the dates that they were given.
"""

import json
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.runs.context import Context
from pipeline.runs.landed import describe_days
from pipeline.runs.record import StageRun, StageWarning

KEY = "funnel.landed_with"
"""The snapshot's property."""


def describe_landing(settings: Settings) -> dict[str, str]:
    """What a landing keeps, as a snapshot's properties: the time zones, and the source's name of each event."""
    kept = {
        "timezone": settings.funnel.timezone,
        "time_zone": settings.source.events.time_zone,
        "events": {ours: theirs for theirs, ours in settings.funnel.event_names.items()},
    }
    return {KEY: json.dumps(kept)}


def check_landed_alike(run: StageRun) -> None:
    """Refuse to land days under names or dates that those before and after them do not have; warn of lesser changes.

    Days that the run lands again do not matter, so a whole history can change at once.

    Raises:
        FunnelError: a stage whose events have landed is gone, or `funnel.timezone` is another one.
    """
    settings, others = run.context.settings, _find_others(run)
    if not others:
        return
    before = _read_kept(run.context)
    again = f"funnel backfill --start {others[0]} --end {max(others[-1], run.dates.last)} lands all days again"
    kinds = settings.funnel.event_kinds
    # Before the first landing that kept its names, and after a change, the events themselves say which there are.
    if not before or set(before["events"]) - set(kinds):
        gone = sorted(_find_kinds(run) - set(kinds))
        if gone:
            added = sorted(set(kinds) - set(before["events"])) if before else []
            new = f" and now has {', '.join(added)}" if added else ""
            raise FunnelError(
                f"funnel.stages no longer has {', '.join(gone)}{new}, but {describe_days(others)} landed with it: keep "
                f"the stage's name, or give all days the new ones: {again}"
            )
    if not before:
        return
    if before["timezone"] != settings.funnel.timezone:
        raise FunnelError(f"{_describe_zones(before, settings)}: {describe_days(others)} keep their dates; {again}")
    run.warnings += _describe_changes(before, settings, others)


def require_same_time_zone(context: Context) -> None:
    """Refuse to compute with the dates of another time zone.

    Raises:
        FunnelError: `funnel.timezone` is not the one that the newest events landed with.
    """
    before, settings = _read_kept(context), context.settings
    if before and before["timezone"] != settings.funnel.timezone:
        raise FunnelError(
            f"{_describe_zones(before, settings)}, whose dates the landed days have: set it back, or land all of them "
            "again with funnel backfill"
        )


def _describe_zones(before: Mapping[str, Any], settings: Settings) -> str:
    return f"funnel.timezone is {settings.funnel.timezone!r}, but days have landed with {before['timezone']!r}"


def _describe_changes(before: Mapping[str, Any], settings: Settings, others: list[date]) -> list[StageWarning]:
    changes = [
        (f"source's event of {ours}", before["events"][ours], theirs)
        for theirs, ours in settings.funnel.event_names.items()
        if before["events"].get(ours, theirs) != theirs
    ]
    was, is_now = (zone or settings.funnel.timezone for zone in (before["time_zone"], settings.source.events.time_zone))
    if was != is_now:
        changes.append(("source.events.time_zone", was, is_now))
    return [
        StageWarning(
            "changed configuration",
            f"the {what} is {now!r} from this landing on, {describe_days(others)} landed with {earlier!r}",
        )
        for what, earlier, now in changes
    ]


def _find_others(run: StageRun) -> list[date]:
    """The days whose events have landed and that this run does not land again, in order."""
    days = run.context.warehouse.row_counts("events", first=date.min, last=date.max)
    return sorted(day for day in days if not run.dates.first <= day <= run.dates.last)


def _find_kinds(run: StageRun) -> set[str]:
    """Our names of the events of those days."""
    day = timedelta(days=1)
    before = run.read("events", last=run.dates.first - day).select("event")
    after = run.read("events", first=run.dates.last + day).select("event")
    return {row[0] for row in before.unionByName(after).distinct().collect()}


def _read_kept(context: Context) -> dict[str, Any] | None:
    kept = context.warehouse.last_property("events", KEY)
    return json.loads(kept) if kept else None
