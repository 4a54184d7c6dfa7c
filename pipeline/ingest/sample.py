"""Looks at a sample of the source by the configuration's own mapping: what it names and never occurs there."""

import re
from collections.abc import Collection
from datetime import date, datetime, timedelta
from difflib import get_close_matches

from pyspark.sql import functions as F

from pipeline.config.base import reveal
from pipeline.dates import DateRange
from pipeline.engines.spark import cached
from pipeline.errors import FunnelError
from pipeline.ingest.delivered import find_delivered, find_delivered_before
from pipeline.ingest.mapping import MappedRows, join_mapped, map_events, map_users, name_mapped
from pipeline.ingest.parts import read_parts
from pipeline.ingest.reading import read_source
from pipeline.ingest.values import BLANKS
from pipeline.runs.context import Context
from pipeline.runs.landed import describe_days, join_days

SAMPLE_DAYS = 7
SAMPLE_ROWS = 1_000_000
MOST_NAMES = 5


def check_sample(context: Context) -> tuple[str, list[str]]:
    """Map the newest days of the source, at most `SAMPLE_ROWS` events of them.

    Returns: what was looked at, and a line for each stage's event and each planned context value that never occurs.

    Raises:
        FunnelError: a column or expression does not fit the source, or no event is the exposure.
    """
    settings = context.settings
    if settings.source.users:
        _map_newest(context, "users")
    days, parts = _map_newest(context, "events")
    if not days:
        return "no past day to look at", []
    if not parts:
        return f"no event on {describe_days(days)}", []
    events = join_mapped(parts).rows.limit(SAMPLE_ROWS).select(F.trim("source_event").alias("name"), "context")
    with cached(events) as sample:
        counts = {name: number for name, number in sample.groupBy("name").count().collect() if name}
        seen = f"{sum(counts.values()):,} events of {describe_days(days)}"
        if not counts:
            return f"no event on {describe_days(days)}", []
        names = {theirs.strip(BLANKS): ours for theirs, ours in settings.funnel.event_names.items()}
        absent = [theirs for theirs in names if theirs not in counts]
        exposure = settings.funnel.exposure.strip(BLANKS)
        if exposure in absent:
            raise FunnelError(f"funnel.exposure = {_describe_absent(exposure, seen, counts)}")
        odd = [f"the event of stage {names[each]}, {_describe_absent(each, seen, counts)}" for each in absent]
        for name, value in settings.scoring.context.items():
            if name not in settings.source.events.context:
                continue
            texts = sample.where(F.col("name") == exposure).groupBy(F.col("context")[name].alias("value")).count()
            values = {row[0] for row in texts.orderBy(F.desc("count")).limit(1_000).collect() if row[0] is not None}
            if value not in values:
                odd.append(f"scoring.context.{name} = {_describe_absent(value, f'the messages in {seen}', values)}")
    return seen, odd


def ask_database(context: Context, name: str) -> str:
    """Ask the database of a JDBC source for its columns: its address, and how many there are.

    Args:
        name: "events" or "users", as under `[source]`.

    Raises:
        FunnelError: it does not answer, or there is no driver.
    """
    settings = context.settings
    yesterday = datetime.now(settings.zone).date() - timedelta(days=1)
    (part,) = read_parts(context.spark, settings, name, DateRange(yesterday, yesterday))
    url = reveal(getattr(settings.source, name).options).get("url", "")
    # What follows may be a user and a password.
    return f"{name} at {re.split('[?;]', url)[0]} with {len(part.columns)} columns"


def _map_newest(context: Context, name: str) -> tuple[list[date], list[MappedRows]]:
    """The newest past days of events or profiles, in order, and their rows.

    Raises:
        FunnelError: the source cannot be read, or does not fit its mapping.
    """
    settings, today = context.settings, datetime.now(context.settings.zone).date()
    newest = find_delivered_before(context, today, [name])[-SAMPLE_DAYS:] or [today - timedelta(days=1)]
    days = find_delivered(context, newest, [name])
    map_rows = map_events if name == "events" else map_users
    parts = [
        map_rows(frame, settings, each)
        for each in join_days(days)
        for frame in read_source(context.spark, settings, name, each, name_mapped(settings, name)).frames
    ]
    return days, parts


def _describe_absent(value: str, seen: str, there: Collection[str]) -> str:
    alike = get_close_matches(value, there, n=1)
    guess = f" (is it {alike[0]!r}?)" if alike else ""
    more = f" and {len(there) - MOST_NAMES:,} more" if len(there) > MOST_NAMES else ""
    found = ", ".join(map(repr, sorted(there)[:MOST_NAMES])) or "none"
    return f"{value!r}{guess} never occurs in {seen}, which have {found}{more}"
