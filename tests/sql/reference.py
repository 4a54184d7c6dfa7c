"""What the SQL files must return, in plain Python: slow, without joins or windows, one rule of the design per step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

Row = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """A row of `events`. `event_time` is in UTC: for any other zone Python subtracts wall-clock times."""

    event_id: str
    user_id: str
    event: str
    event_time: datetime
    landed_on: date
    campaign_id: str | None = None
    context: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Profile:
    """A row of `users`."""

    user_id: str
    landed_on: date
    consent: bool | None = None
    city_tier: str | None = None
    age: float | None = None


@dataclass(frozen=True)
class SourceRow:
    """A row of the source, mapped to our columns; `raw` is unique."""

    raw: str
    landed_on: date
    event_id: str | None
    user_id: str | None
    source_event: str | None
    event_time: datetime | None
    campaign_id: str | None = None
    context: Mapping[str, str] | None = None


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    return instant.astimezone(zone).date()


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a local day, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def is_visible(event: Event, as_of: date, zone: ZoneInfo) -> bool:
    """Both clocks: it had happened and it had landed."""
    return event.landed_on <= as_of and local_date(event.event_time, zone) <= as_of


def tiles(events: Iterable[Event], zone: ZoneInfo) -> dict[tuple[str, str, date, date], Row]:
    """Count, first and last time by user, event, event date and landing day."""
    times: dict[tuple[str, str, date, date], list[datetime]] = {}
    for each in events:
        key = (each.user_id, each.event, local_date(each.event_time, zone), each.landed_on)
        times.setdefault(key, []).append(each.event_time)
    return {key: {"n": len(of), "first_time": min(of), "last_time": max(of)} for key, of in times.items()}


def first_value(profiles: Iterable[Profile], user_id: str, name: str) -> object:
    """The first value of a user's attribute that landed; None if none has."""
    given = [each for each in profiles if each.user_id == user_id and getattr(each, name) is not None]
    return getattr(min(given, key=lambda each: each.landed_on, default=None), name, None)


def features(
    user_id: str,
    as_of: date,
    events: Iterable[Event],
    profiles: Iterable[Profile],
    *,
    kinds: Sequence[str],
    windows_days: Sequence[int],
    attributes: Sequence[str],
    static: Sequence[str] = (),
    zone: ZoneInfo,
) -> Row:
    """The features of one row of the spine: a window of n days ends with `as_of`, inclusive."""
    ages: dict[str, list[int]] = {kind: [] for kind in kinds}
    for each in events:
        if each.user_id == user_id and is_visible(each, as_of, zone):
            ages[each.event].append((as_of - local_date(each.event_time, zone)).days)
    row: Row = {}
    for kind in kinds:
        for days in windows_days:
            row[f"{kind}_n_{days}d"] = sum(age < days for age in ages[kind])
        row[f"{kind}_days_since"] = min((age for age in ages[kind] if age < max(windows_days)), default=None)
    landed = [each for each in profiles if each.user_id == user_id and each.landed_on <= as_of]
    latest = max(landed, key=lambda each: each.landed_on, default=None)
    row |= {name: getattr(latest, name, None) for name in attributes}
    return row | {name: first_value(profiles, user_id, name) for name in static}


def exposures(
    events: Iterable[Event],
    as_of: date,
    *,
    windows: Mapping[str, int],
    attribution: str,
    history_days: int,
    zone: ZoneInfo,
    by_day: bool = False,
) -> dict[str, Row]:
    """The exposures of the last `history_days` by id, with labels; `windows` holds each stage's days, in order."""
    seen: dict[str, Event] = {}
    for each in sorted(events, key=lambda each: each.landed_on):
        if is_visible(each, as_of, zone):
            seen.setdefault((each.event_id, each.user_id, each.event, each.event_time), each)
    first = as_of - timedelta(days=history_days - 1)
    outcomes = [each for each in seen.values() if each.event != "exposure"]
    sent = [each for each in seen.values() if each.event == "exposure"]
    exposed = [each for each in sent if local_date(each.event_time, zone) >= first]
    if by_day:
        reached = _reached_by_day(exposed, outcomes, windows, attribution, zone)
        by_id = {each.event_id: _example(each, reached, windows, as_of, zone) for each in exposed}
        return {name: row | {"context_hour": None} for name, row in by_id.items()}
    reached = _reached(exposed, outcomes, windows, attribution)
    end = midnight(as_of + timedelta(days=1), zone)
    return {each.event_id: _example(each, reached, windows, end, zone) for each in exposed}


def _reached(
    exposed: list[Event], outcomes: list[Event], windows: Mapping[str, int], attribution: str
) -> set[tuple[str, str]]:
    """The stages credited to each exposure. Of exposures at one instant, the one with the greater id is later."""
    of_user: dict[str, list[Event]] = {}
    for each in exposed:
        of_user.setdefault(each.user_id, []).append(each)
    reached = set()
    for outcome in outcomes:
        before = [each for each in of_user.get(outcome.user_id, []) if each.event_time < outcome.event_time]
        if attribution == "last_touch":
            before = [each for each in before if outcome.campaign_id in (None, each.campaign_id)]
            before = sorted(before, key=lambda each: (each.event_time, each.event_id))[-1:]
        for each in before:
            if outcome.event_time - each.event_time <= timedelta(days=windows[outcome.event]):
                reached.add((each.event_id, outcome.event))
    return reached


def _reached_by_day(
    exposed: list[Event], outcomes: list[Event], windows: Mapping[str, int], attribution: str, zone: ZoneInfo
) -> set[tuple[str, str]]:
    """The same by calendar days: an outcome follows every exposure of its own date."""
    reached = set()
    for outcome in outcomes:
        day = local_date(outcome.event_time, zone)
        of_user = [each for each in exposed if each.user_id == outcome.user_id]
        before = [each for each in of_user if local_date(each.event_time, zone) <= day]
        if attribution == "last_touch":
            before = [each for each in before if outcome.campaign_id in (None, each.campaign_id)]
            before = sorted(before, key=lambda each: (each.event_time, each.event_id))[-1:]
        for each in before:
            if (day - local_date(each.event_time, zone)).days <= windows[outcome.event]:
                reached.add((each.event_id, outcome.event))
    return reached


def _example(
    exposure: Event, reached: set[tuple[str, str]], windows: Mapping[str, int], end: datetime | date, zone: ZoneInfo
) -> Row:
    """An exposure's row. `end` is the end of `as_of`, or `as_of` itself where windows are calendar days."""
    local = exposure.event_time.astimezone(zone)
    row: Row = {
        "exposure_id": exposure.event_id,
        "user_id": exposure.user_id,
        "exposure_time": exposure.event_time,
        "exposure_date": local.date(),
        "feature_as_of": local.date() - timedelta(days=1),
        "context_campaign": exposure.campaign_id,
        "context_offer": (exposure.context or {}).get("offer"),
        "context_hour": f"{local.hour:02d}",
    }
    implied = 0
    for stage, days in reversed(windows.items()):
        start = exposure.event_time if isinstance(end, datetime) else local.date()
        mature = start + timedelta(days=days) <= end
        observed = int((exposure.event_id, stage) in reached) if mature else None
        implied = max(implied, observed or 0)
        row[f"mature_{stage}"] = mature
        row[f"observed_{stage}"] = observed
        row[f"label_{stage}"] = implied if mature else None
    return row


def eligible(
    events: Iterable[Event], profiles: Iterable[Profile] | None, ds: date, *, last_stage: str, zone: ZoneInfo
) -> set[str]:
    """Known to the source (through events if it has no users), not yet completed, consent not withdrawn."""
    seen = [each for each in events if is_visible(each, ds, zone)]
    if profiles is None:
        willing = {each.user_id for each in seen}
    else:
        consent: dict[str, bool | None] = {}
        for each in sorted(profiles, key=lambda each: each.landed_on):
            if each.landed_on <= ds:
                consent[each.user_id] = consent.get(each.user_id) if each.consent is None else each.consent
        willing = {user_id for user_id, given in consent.items() if given is not False}
    return willing - {each.user_id for each in seen if each.event == last_stage}


def rejection(row: SourceRow, *, event_names: Mapping[str, str], tolerance_hours: int, zone: ZoneInfo) -> str | None:
    """Why a row breaks the contract."""
    if row.user_id is None or not row.user_id.strip():
        return "null user"
    if row.source_event is None:
        return "null event"
    if row.source_event not in event_names:
        return "unknown event"
    if row.event_time is None:
        return "unparsable time"
    end = midnight(row.landed_on + timedelta(days=1), zone)
    return "future time" if row.event_time >= end + timedelta(hours=tolerance_hours) else None


def key_of(row: SourceRow) -> object:
    """What identifies a row: the source's id with user, event and time, else the content."""
    content = (row.user_id, row.source_event, row.event_time, row.campaign_id, sorted((row.context or {}).items()))
    event_id = (row.event_id or "").strip()
    return (event_id, *content[:3]) if event_id else repr(content)


def kept_keys(
    rows: Iterable[SourceRow], known: Mapping[object, date], *, lookback_days: int
) -> set[tuple[date, object]]:
    """The landing days on which each key of valid rows is kept, night by night.

    Args:
        known: keys that were kept before the first night, with the day.
    """
    last_kept: dict[object, date] = dict(known)
    kept = set()
    for row in sorted(rows, key=lambda row: row.landed_on):
        key = key_of(row)
        if key not in last_kept or (row.landed_on - last_kept[key]).days > lookback_days:
            last_kept[key] = row.landed_on
            kept.add((row.landed_on, key))
    return kept
