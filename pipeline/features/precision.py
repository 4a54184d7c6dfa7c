"""Does the log know instants, or only dates? A log of dates says nothing of the order of a day's events."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from pipeline.config.funnel import EXPOSURE
from pipeline.config.settings import Settings
from pipeline.dates import end_of_day, epoch_micros
from pipeline.engines.duckdb import run_locally
from pipeline.runs.record import StageWarning

if TYPE_CHECKING:
    import duckdb

KEY = "source.events.time_precision"


@dataclass(frozen=True)
class Midnights:
    """A row of `sql/spark/time_precision.sql`: the events of one kind, and how many are not at a midnight."""

    event: str
    n: int
    off_local_midnight: int
    off_utc_midnight: int

    @property
    def is_dated(self) -> bool:
        return self.off_local_midnight == 0 or self.off_utc_midnight == 0


def knows_only_dates(settings: Settings, found: Iterable[Midnights]) -> bool:
    """Whether outcomes are counted by calendar days: as the configuration says, or else if all events lie at midnight.

    Args:
        found: what the log looks like, one row a kind of event; read only where the configuration leaves it open.
    """
    chosen = settings.source.events.time_precision
    if chosen != "auto":
        return chosen == "day"
    kinds = list(found)
    return bool(kinds) and (_are_local(kinds) or not any(each.off_utc_midnight for each in kinds))


def knows_only_dates_locally(connection: "duckdb.DuckDBPyConnection", settings: Settings, as_of: date) -> bool:
    """The same of the connection's `events` as of a date."""
    if settings.source.events.time_precision != "auto":
        return knows_only_dates(settings, ())
    end = epoch_micros(end_of_day(as_of, settings.zone))
    rows = run_locally(connection, "time_precision", as_of=as_of, end_of_as_of=end).fetchall()
    return knows_only_dates(settings, (Midnights(*row) for row in rows))


def describe_precision(settings: Settings, found: Iterable[Midnights]) -> list[StageWarning]:
    """What a person must know of how the log was read, and what the log cannot tell."""
    kinds = list(found)
    by_day = knows_only_dates(settings, kinds)
    lines = []
    if settings.source.events.time_precision == "auto":
        lines += [_describe_dates(settings, kinds)] if by_day else _describe_dated_stages(kinds)
    if by_day and "hour" in settings.features.context and "hour" not in settings.source.events.context:
        lines.append("features.context names hour, which a log of dates does not know; it is null in every example")
    return [StageWarning("time precision", line) for line in lines]


def _are_local(kinds: list[Midnights]) -> bool:
    return not any(each.off_local_midnight for each in kinds)


def _describe_dates(settings: Settings, kinds: list[Midnights]) -> str:
    where, hint = "local midnight", ""
    if not _are_local(kinds):
        where = "midnight UTC"
        hint = f"; if dates look wrong in {settings.funnel.timezone}, map event_time to a date"
    return (
        f"all {sum(each.n for each in kinds):,} events lie at {where}, so they are read as dates: an outcome counts on "
        f'the exposure\'s own day and windows are calendar days; {KEY} = "day" confirms it, "instant" denies it{hint}'
    )


def _describe_dated_stages(kinds: list[Midnights]) -> list[str]:
    """Stages whose events come without a time of day, after exposures that have one."""
    if any(each.event == EXPOSURE and each.is_dated for each in kinds):
        return []
    return [
        f"all {each.n:,} events of {each.event} lie at midnight, though exposures do not: those on the exposure's own "
        f'day come before it and do not count; if the source knows only their date, set {KEY} = "day"'
        for each in kinds
        if each.is_dated
    ]
