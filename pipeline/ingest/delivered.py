"""Which days a source has, by the names of its folders or, where its path names no day, by its rows."""

import re
from collections.abc import Collection
from datetime import date, timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.ingest.found import find_files
from pipeline.ingest.listing import day_pattern, escape_wildcards
from pipeline.ingest.mapping import map_events, map_users, name_mapped
from pipeline.ingest.parts import has_dated_options
from pipeline.ingest.reading import read_source
from pipeline.runs.context import Context
from pipeline.runs.landed import join_days

ANY_DAY = "????-??-??"
UP_TO_THE_DAY = re.compile(r".*?\{ds\}[^/]*")
NAMES = ("events", "users")


def find_delivered(context: Context, days: Collection[date], names: Collection[str] = NAMES) -> list[date]:
    """Those of some days, in order, of which the source has events or profiles.

    Profiles whose path, options and columns name no landing day are of none.

    Args:
        names: the sources to look at.

    Raises:
        FunnelError: the source cannot be read, or does not fit its mapping.
    """
    spark, settings = context.spark, context.settings
    found: set[date] = set()
    for name, reader in _list_readers(settings, names):
        if reader.is_partitioned:
            listed = _list_days(spark, settings, reader) & set(days)
            found |= {day for day in listed if _has_files(spark, settings, reader, day)}
        elif name == "events" or has_dated_options(reader) or "landed_on" in reader.columns:
            for each in join_days(sorted(days)):
                found |= _read_days(context, name, each)
    return sorted(found)


def find_delivered_before(context: Context, day: date, names: Collection[str] = NAMES) -> list[date]:
    """The days before a day that the source has, in order, as far as one look tells.

    Args:
        names: the sources to look at.

    Raises:
        FunnelError: as `find_delivered`.
    """
    settings, found = context.settings, set[date]()
    yesterday = day - timedelta(days=1)
    before = DateRange(min(settings.source.events.earliest, yesterday), yesterday)
    for name, reader in _list_readers(settings, names):
        if reader.is_partitioned:
            found |= _list_days(context.spark, settings, reader)
        elif not has_dated_options(reader) and (name == "events" or "landed_on" in reader.columns):
            found |= _read_days(context, name, before)
    return sorted(each for each in found if each < day)


def _list_readers(settings: Settings, names: Collection[str]) -> list[tuple[str, Reader]]:
    readers = [("events", settings.source.events), ("users", settings.source.users)]
    return [(name, reader) for name, reader in readers if reader is not None and name in names]


def _list_days(spark: SparkSession, settings: Settings, reader: Reader) -> set[date]:
    assert reader.path is not None
    template = settings.resolve_pattern(reader.path, escape=escape_wildcards)
    # Up to the folder or file that has the day in its name: one listing, whatever lies below.
    dated = UP_TO_THE_DAY.match(template)
    assert dated is not None
    pattern = re.compile(day_pattern(dated[0]) + "$")
    listed = find_files(spark, settings, dated[0].replace("{ds}", ANY_DAY))
    return {day for found in listed if (day := _parse_day(pattern, found.path)) is not None}


def _parse_day(pattern: re.Pattern[str], path: str) -> date | None:
    match = pattern.search(path)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        # 2026-02-30 looks like a date, but is not a day.
        return None


def _has_files(spark: SparkSession, settings: Settings, reader: Reader, day: date) -> bool:
    """Whether anything lies at a day's path: an empty folder is a day that has not been delivered."""
    assert reader.path is not None
    path = settings.resolve_pattern(reader.path, day, escape=escape_wildcards).rstrip("/")
    return any(found.is_file for found in find_files(spark, settings, path)) or any(
        not found.name.startswith((".", "_")) for found in find_files(spark, settings, f"{path}/*")
    )


def _read_days(context: Context, name: str, days: DateRange) -> set[date]:
    settings = context.settings
    # A row whose landing day cannot be read is taken for one of the last day, here one after those asked for.
    extended = DateRange(days.first, days.last + timedelta(days=1))
    map_rows = map_events if name == "events" else map_users
    found: set[date] = set()
    for frame in read_source(context.spark, settings, name, days, name_mapped(settings, name)).frames:
        rows = map_rows(frame, settings, extended).rows.select("landed_on").distinct()
        found |= {row[0] for row in rows.where(F.col("landed_on") <= F.lit(days.last)).collect()}
    return found
