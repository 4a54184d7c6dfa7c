"""What the configuration said when days landed, and what must not change between one day and the next.

Each publish of `events` keeps it with its snapshot, and those that follow hand it on. Landed days keep the names, the
dates and the values that they were given.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from pipeline.config.features import attribute_features
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.runs.context import Context
from pipeline.runs.landed import describe_days, join_days
from pipeline.runs.record import StageRun, StageWarning
from pipeline.warehouse.snapshots import LANDED_WITH

KEY = LANDED_WITH
"""The snapshot's property."""


def describe_landing(run: StageRun) -> dict[str, str]:
    """What a landing keeps, as a snapshot's properties.

    These are the time zones, the source's name of each event, a digest of each expression of the mapping, since one may
    hold a secret, and of each stage the days that landed while it was not one.
    """
    settings = run.context.settings
    kept = {
        "timezone": settings.funnel.timezone,
        "time_zone": settings.source.events.time_zone,
        "events": {ours: theirs for theirs, ours in settings.funnel.event_names.items()},
        "mapping": {key: _digest(expression) for key, expression in _name_expressions(settings).items()},
        "without": {
            stage: [[str(each.first), str(each.last)] for each in join_days(days)]
            for stage, days in _find_without(run, _read_kept(run.context), _find_others(run)).items()
            if days
        },
    }
    return {KEY: json.dumps(kept)}


def check_landed_alike(run: StageRun) -> None:
    """Refuse to land days under names or dates that those before and after them do not have; warn of lesser changes.

    Days that the run lands again do not matter, so a whole history can change at once.

    Raises:
        FunnelError: a stage whose events have landed is gone, or `funnel.timezone` is another one, or `[source.users]`
            is gone.
    """
    settings, others = run.context.settings, _find_others(run)
    _require_users(run.context)
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
    run.warnings += _describe_new_stages(run, before, others)
    run.warnings += _describe_new_mapping(before, settings, others, again)


def require_landed_alike(context: Context) -> None:
    """Refuse to compute with the dates of another time zone, or without the consent that has landed.

    Raises:
        FunnelError: `funnel.timezone` is not the one that the newest events landed with, or `[source.users]` is gone.
    """
    _require_users(context)
    before, settings = _read_kept(context), context.settings
    if before and before["timezone"] != settings.funnel.timezone:
        first, last = _find_span(context)
        raise FunnelError(
            f"{_describe_zones(before, settings)}, whose dates the landed days have: set it back, or land all of them "
            f"again with funnel backfill --start {first} --end {last}"
        )


def require_known_stages(context: Context, dates: DateRange) -> None:
    """Refuse to label exposures with a stage whose events were unknown, and rejected, on days that landed before it.

    Raises:
        FunnelError: there are such days in the range; names the command that lands them again.
    """
    before = _read_kept(context)
    days = context.warehouse.row_counts("events", first=dates.first, last=dates.last) if before else {}
    for stage, ranges in before.get("without", {}).items() if before else ():
        is_stage = stage in context.settings.funnel.stage_names
        missing = [day for day in sorted(days) if is_stage and _is_in(day, ranges)]
        if missing:
            raise FunnelError(
                f"{describe_days(missing)} landed before funnel.stages had {stage}, so its events on them are not "
                f"known: funnel backfill --start {missing[0]} --end {missing[-1]} lands them again; or let "
                "training.history_days begin after them"
            )


def _require_users(context: Context) -> None:
    if context.settings.source.users is None and context.warehouse.row_counts("users", first=date.min, last=date.max):
        raise FunnelError(
            "[source.users] is gone, but profiles have landed, and with them withdrawals of consent: put it back; a "
            "funnel without consent takes a warehouse.namespace of its own"
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


def _describe_new_stages(run: StageRun, before: Mapping[str, Any], others: list[date]) -> Iterator[StageWarning]:
    without = _find_without(run, before, others)
    for stage in run.context.settings.funnel.stage_names:
        if stage not in before["events"]:
            days = without[stage]
            yield StageWarning(
                "changed configuration",
                f"{stage} is a new stage: {describe_days(days)} landed without its events; funnel backfill --start "
                f"{days[0]} --end {days[-1]} lands them again, which training needs",
            )


def _describe_new_mapping(
    before: Mapping[str, Any], settings: Settings, others: list[date], again: str
) -> Iterator[StageWarning]:
    """One warning of all expressions that are new, gone or others than those that the days before landed with."""
    was, now = before.get("mapping"), _name_expressions(settings)
    if was is None:
        return
    changed = [
        *(f"{key} is new" for key in now if key not in was),
        *(
            f"{key} has changed"
            for key, expression in now.items()
            if was.get(key, _digest(expression)) != _digest(expression)
        ),
        *(f"{key} is gone" for key in was if key not in now),
    ]
    if changed:
        yield StageWarning(
            "changed configuration",
            f"{', '.join(changed)}; {describe_days(others)} landed as it was before, and keep what they have: {again}",
        )


def _name_expressions(settings: Settings) -> dict[str, str]:
    """What decides on the values that land, by its key in the configuration."""
    named: dict[str, str] = {}
    for name, reader in (("events", settings.source.events), ("users", settings.source.users)):
        if reader is None:
            continue
        named |= {f"source.{name}.columns.{column}": expression for column, expression in reader.columns.items()}
        if reader.where is not None:
            named[f"source.{name}.where"] = reader.where
    named |= {f"source.events.context.{name}": each for name, each in settings.source.events.context.items()}
    # An unmapped attribute is the source's column of the same name.
    for each in attribute_features(settings):
        named.setdefault(f"source.users.columns.{each.name}", each.name)
    return named


def _digest(expression: str) -> str:
    return hashlib.sha256(expression.encode()).hexdigest()[:16]


def _find_without(run: StageRun, before: Mapping[str, Any] | None, others: list[date]) -> dict[str, list[date]]:
    """By stage, the days besides the run's that landed while it was not one, in order."""
    if before is None:
        return {}
    found = {}
    for stage in run.context.settings.funnel.stage_names:
        ranges = before.get("without", {}).get(stage, [])
        is_new = stage not in before["events"]
        found[stage] = [day for day in others if is_new or _is_in(day, ranges)]
    return found


def _is_in(day: date, ranges: list[list[str]]) -> bool:
    return any(first <= day.isoformat() <= last for first, last in ranges)


def _find_others(run: StageRun) -> list[date]:
    """The days whose events have landed and that this run does not land again, in order."""
    days = run.context.warehouse.row_counts("events", first=date.min, last=date.max)
    return sorted(day for day in days if not run.dates.first <= day <= run.dates.last)


def _find_span(context: Context) -> tuple[date, date]:
    days = context.warehouse.row_counts("events", first=date.min, last=date.max)
    return min(days), max(days)


def _find_kinds(run: StageRun) -> set[str]:
    """Our names of the events of those days."""
    day = timedelta(days=1)
    before = run.read("events", last=run.dates.first - day).select("event")
    after = run.read("events", first=run.dates.last + day).select("event")
    return {row[0] for row in before.unionByName(after).distinct().collect()}


def _read_kept(context: Context) -> dict[str, Any] | None:
    kept = context.warehouse.last_property("events", KEY)
    return json.loads(kept) if kept else None
