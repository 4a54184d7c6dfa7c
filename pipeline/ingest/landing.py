"""Maps the source's rows to our columns and decides each row's fate.

A row is kept, a duplicate of a kept row, or quarantined with a reason and its raw content.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from pipeline.audits.unreadable import ColumnRead
from pipeline.engines.spark import cached, run_sql
from pipeline.engines.templates import quote
from pipeline.errors import FunnelError
from pipeline.ingest.busy_users import describe_busy_users, describe_no_ids, is_no_id
from pipeline.ingest.contradictions import describe_contradictions, settle
from pipeline.ingest.erased_users import leave_out_erased
from pipeline.ingest.evidence import UNKNOWN, count_unknown_events, warn_of_misspelt_events
from pipeline.ingest.mapping import UNREAD, MappedRows, join_mapped, map_events, map_users, name_mapped
from pipeline.ingest.reading import read_source
from pipeline.ingest.repeats import describe_repeats
from pipeline.ingest.unchanged import mark_unchanged, read_lost_withdrawals
from pipeline.ingest.values import BLANKS, REPLACEMENT, Reading
from pipeline.runs.context import Context
from pipeline.runs.record import Counts, StageRun, StageWarning


@dataclass
class Landing:
    """Rows with their `fate` (and `reason`, `raw`), cached, and their counts by landing day.

    Args:
        table: where kept rows go.
        readings: of the mapped columns.
        read: what became of the values of each mapped column, by landing day.
        content: what of a kept row its table takes. The customer's names are inside a struct, where none can be taken
            for `fate` or `raw`.
        odd_rows: rows with more to tell of, such as a profile that contradicts another; none on most nights.
        added: rows that land with those that are kept, and are none of the source; on most nights there are none.
    """

    table: str
    rows: DataFrame
    readings: Sequence[Reading]
    content: tuple[str, ...] = ("*",)
    counts: dict[date, Counts] = field(default_factory=lambda: defaultdict(Counts))
    reasons: dict[date, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    read: dict[date, dict[str, ColumnRead]] = field(default_factory=lambda: defaultdict(dict))
    unknown_events: dict[date, dict[str, int]] = field(default_factory=dict)
    warnings: list[StageWarning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    odd_rows: int = 0
    added: DataFrame | None = None

    @property
    def kept(self) -> DataFrame:
        kept = self.rows.where("fate = 'kept'").select(*self.content)
        if self.added is None:
            return kept
        # In place of a row of the same user and day, which has nothing to say of the consent.
        others = kept.join(self.added.select("user_id", "landed_on"), ["user_id", "landed_on"], "left_anti")
        return others.unionByName(self.added, allowMissingColumns=True)

    @property
    def quarantined(self) -> DataFrame:
        return self.rows.where("fate = 'quarantined'").select("reason", "raw", "landed_on")


@contextmanager
def land_events(run: StageRun) -> Iterator[Landing]:
    """Map a range's events, each key kept once; unknown, unreadable and future ones go to quarantine.

    The rows are cached until the block ends.

    Raises:
        FunnelError: the source is not there, does not fit its mapping, or has ids whose digits are lost.
    """
    context, dates = run.context, run.dates
    settings, spark = context.settings, context.spark
    source = settings.source.events
    rows = read_source(spark, settings, "events", dates, name_mapped(settings, "events"))
    run.warnings += rows.describe_absent("events")
    before = dates.first - timedelta(days=1)
    known = run.read("events", first=dates.first - timedelta(days=source.lookback_days), last=before)
    parts = [map_events(frame, settings, dates) for frame in rows.frames]
    mapped = join_mapped(parts) if parts else _no_events(context)
    source_rows, notes = leave_out_erased(context, mapped.rows, F.col("user_id"), "events")
    classified = run_sql(
        spark,
        "classify",
        {"source": source_rows, "known": known},
        event_names={theirs.strip(BLANKS): ours for theirs, ours in settings.funnel.event_names.items()},
        tolerance_hours=source.future_tolerance_hours,
        lookback_days=source.lookback_days,
        keeps_same_id=source.same_id != "drop",
        most_of_user=source.max_events_per_user_day if source.busy_users == "leave_out" else 0,
    )
    with cached(classified) as fates:
        values = {name: F.col(name) for name in ("event_id", "user_id", "event", "event_time", "campaign_id")}
        values |= {f"context.{name}": F.col("context")[name] for name in source.context}
        landing = _count_fates(
            "events",
            fates,
            mapped.readings,
            values,
            (F.col("shares_id") | F.col("has_other_details") | is_no_id(F.col("user_id"))) & F.col("reason").isNull(),
        )
        landing.notes += notes
        if landing.odd_rows:
            landing.warnings += describe_repeats(fates, source.same_id)
            landing.warnings += describe_no_ids(fates, F.col("user_id"), "events")
        if not landing.counts and known.isEmpty():
            line = f"events: the source has no row {dates}, and none landed before; are its path and `where` right?"
            landing.warnings.append(StageWarning("no events", line))
        if any(UNKNOWN in reasons for reasons in landing.reasons.values()):
            landing.unknown_events = count_unknown_events(fates)
            landing.warnings += warn_of_misspelt_events(landing.unknown_events, list(settings.funnel.event_names))
        if any(day.rows_in > source.max_events_per_user_day for day in landing.counts.values()):
            landing.warnings += describe_busy_users(fates, source)
        yield landing


@contextmanager
def land_users(run: StageRun) -> Iterator[Landing | None]:
    """Map a range's profiles, one kept a user and landing day; None without `[source.users]` or without files.

    The rows are cached until the block ends.

    Raises:
        FunnelError: the source is not there, does not fit its mapping, or has ids whose digits are lost.
    """
    context, dates = run.context, run.dates
    settings = context.settings
    source = settings.source.users
    if source is None:
        yield None
        return
    rows = read_source(context.spark, settings, "users", dates, name_mapped(settings, "users"))
    run.warnings += rows.describe_absent("users")
    if not rows.frames:
        yield None
        return
    mapped = join_mapped([map_users(frame, settings, dates) for frame in rows.frames])
    # Only quarantined rows keep their raw content, as events do.
    users, notes = leave_out_erased(context, mapped.rows, F.col("profile.user_id"), "users")
    users = users.withColumn("raw", F.when(F.col("reason").isNotNull(), F.col("raw")))
    names = [name for name in users.select("profile.*").columns if name != "user_id"]
    users = settle(users, names)
    # After settling, the profiles of a user and day are all alike: any of them is kept.
    one_a_day = Window.partitionBy("profile.user_id", "landed_on", "reason").orderBy(F.lit(0))
    users = mark_unchanged(run, users)
    repeats = (F.row_number().over(one_a_day) > 1) | F.col("is_unchanged")
    fate = F.when(F.col("reason").isNotNull(), "quarantined").when(repeats, "duplicate").otherwise("kept")
    with cached(users.withColumn("fate", fate)) as fates:
        values = {name: F.col(f"given.{quote(name)}") for name in ("user_id", *names)}
        user_id = F.col("profile.user_id")
        is_odd = (F.col("differs") | is_no_id(user_id)) & F.col("reason").isNull()
        landing = _count_fates("users", fates, mapped.readings, values, is_odd)
        landing.content = ("profile.*", "consent_at", "landed_on")
        landing.added = read_lost_withdrawals(run, fates)
        if landing.odd_rows:
            landing.warnings, landing.notes = describe_contradictions(fates, names, is_timed=mapped.is_timed)
            landing.warnings += describe_no_ids(fates, user_id, "users")
        landing.notes += notes
        yield landing


def _no_events(context: Context) -> MappedRows:
    rows = context.spark.createDataFrame(
        [],
        "event_id string, user_id string, campaign_id string, source_event string, event_time timestamp, "
        "landed_on date, context map<string,string>, raw string, "
        f"_problem string, _damage string, {UNREAD} array<string>",
    )
    return MappedRows(rows, [])


def _count_fates(
    table: str, fates: DataFrame, readings: Sequence[Reading], values: Mapping[str, Column], is_odd: Column
) -> Landing:
    """Count the rows of each fate, and what was read of each column.

    Args:
        values: what the rows hold of each reading; a reading that is left out has a value in every row.
        is_odd: whether there is more to tell of a row, see `Landing.odd_rows`.

    Raises:
        FunnelError: a column has values that must not be read, see `Reading.refusal`.
    """
    landing = Landing(table, fates, readings)
    group = ("landed_on", "fate", "reason")
    there = [F.count(values.get(reading.name, F.lit(True))) for reading in readings]
    counted = fates.groupBy(*group).agg(F.count("*"), F.count_if(is_odd), F.count(UNREAD), *there).collect()
    # Most nights lose nothing, so what was lost is a pass of its own: its figures are the slow ones to compile.
    lost = _measure_lost(fates, group, readings, values) if any(row[5] for row in counted) else {}
    for landed_on, fate, reason, number, odd, _, *numbers in counted:
        day, read = landing.counts[landed_on], landing.read[landed_on]
        day.rows_in += number
        landing.odd_rows += odd
        if fate == "kept":
            day.rows_out += number
        elif fate == "duplicate":
            day.duplicates += number
        else:
            day.quarantined += number
            landing.reasons[landed_on][reason] = number
        for reading, number_there in zip(readings, numbers, strict=True):
            column = lost.get((landed_on, fate, reason, reading.name), ColumnRead()) + ColumnRead(number_there)
            if fate != "quarantined":
                column = replace(column, landed=column.values, landed_unreadable=column.unreadable)
            read[reading.name] = read.get(reading.name, ColumnRead()) + column
    return landing


def _measure_lost(
    fates: DataFrame, group: Sequence[str], readings: Sequence[Reading], values: Mapping[str, Column]
) -> dict[tuple[date, str, str | None, str], ColumnRead]:
    """What was lost, by group of rows and reading; the `values` here are those of rows that have none else.

    Raises:
        FunnelError: as `_count_fates`.
    """
    figures = []
    for position, reading in enumerate(readings):
        lost = F.get(UNREAD, F.lit(position))
        is_without = values.get(reading.name, F.lit(True)).isNull() & lost.isNotNull()
        example = F.min(lost)
        if reading.refusal:
            # Of columns whose files have several types, only what a float lost is refused.
            example = F.coalesce(F.min(F.when(~F.contains(lost, F.lit(REPLACEMENT)), lost)), example)
        figures += [F.count_if(is_without), F.count(lost), example]
    measured = {}
    lossy = fates.where(F.col(UNREAD).isNotNull())
    for landed_on, fate, reason, *found in lossy.groupBy(*group).agg(*figures).collect():
        columns = zip(readings, found[::3], found[1::3], found[2::3], strict=True)
        for reading, number, unreadable, example in columns:
            if reading.refusal and unreadable and REPLACEMENT not in example:
                raise FunnelError(f"{reading.refusal}, such as {example}")
            measured[landed_on, fate, reason, reading.name] = ColumnRead(number, unreadable, example=example)
    return measured
