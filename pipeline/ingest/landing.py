"""Maps the source's rows to our columns and decides each row's fate.

A row is kept, a duplicate of a kept row, or quarantined with a reason and its raw content.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.spark import cached, run_sql
from pipeline.engines.templates import quote
from pipeline.ingest.contradictions import describe_contradictions, map_updated_at, settle
from pipeline.ingest.source import LANDED, map_column, map_columns, read_source
from pipeline.runs.context import Context
from pipeline.runs.record import Counts, StageRun, StageWarning
from pipeline.warehouse.tables import profile_columns


@dataclass
class Landing:
    """Rows with their `fate` (and `reason`, `raw`), cached, and their counts by landing day.

    Args:
        content: what of a kept row its table takes. The customer's names are inside a struct, where none can be taken
            for `fate` or `raw`.
    """

    rows: DataFrame
    content: tuple[str, ...] = ("*",)
    counts: dict[date, Counts] = field(default_factory=lambda: defaultdict(Counts))
    reasons: dict[date, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    warnings: list[StageWarning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> DataFrame:
        return self.rows.where("fate = 'kept'").select(*self.content)

    @property
    def quarantined(self) -> DataFrame:
        return self.rows.where("fate = 'quarantined'").select("reason", "raw", "landed_on")


@contextmanager
def land_events(run: StageRun) -> Iterator[Landing]:
    """Map a range's events, each key kept once; unknown, unreadable and future ones go to quarantine.

    The rows are cached until the block ends.

    Raises:
        FunnelError: the source is not there or does not fit its mapping.
    """
    context, dates = run.context, run.dates
    settings, spark = context.settings, context.spark
    source = settings.source.events
    rows = read_source(spark, settings, "events", dates)
    before = dates.first - timedelta(days=1)
    known = run.read("events", first=dates.first - timedelta(days=source.lookback_days), last=before)
    classified = run_sql(
        spark,
        "classify",
        {
            "source": _no_events(context) if rows is None else map_events(rows, settings, dates),
            "known": known.select("event_id", "landed_on"),
        },
        event_names=settings.funnel.event_names,
        tolerance_hours=source.future_tolerance_hours,
        lookback_days=source.lookback_days,
    )
    with cached(classified) as fates:
        yield _count_fates(fates)


@contextmanager
def land_users(context: Context, dates: DateRange) -> Iterator[Landing | None]:
    """Map a range's profiles, one kept a user and landing day; None without `[source.users]` or without files.

    The rows are cached until the block ends.

    Raises:
        FunnelError: the source is not there or does not fit its mapping.
    """
    settings = context.settings
    source = settings.source.users
    rows = read_source(context.spark, settings, "users", dates) if source else None
    if source is None or rows is None:
        yield None
        return
    profile = profile_columns(settings)
    strings = [name for name, kind in profile.items() if pa.types.is_string(kind)]
    numbers = [name for name in profile if name not in strings]
    # An unmapped attribute is the source's column of the same name, never a word of SQL such as `null`.
    mapping = {name: quote(name) for name in profile} | source.columns
    key = "source.users.columns"
    columns = map_columns(rows, mapping, ("user_id", *strings), "string", key=key)
    columns |= map_columns(rows, mapping, numbers, "double", key=key)
    columns["consent"] = _map_consent(rows, mapping, key)
    if settings.source.has_time_zones:
        (zone,) = map_columns(rows, mapping, ("time_zone",), "string", key=key).values()
        columns["time_zone"] = F.nullif(F.trim(zone), F.lit(""))
    # Users without dates are what is known when they are read.
    landed_on = _map_landed_on(rows, source, F.lit(dates.first), key)
    # A row whose landing day cannot be read is counted on the last day, never dropped.
    day = F.coalesce(landed_on, F.lit(dates.last))
    # An attribute of this name is one, as before there was the column.
    is_timed = "updated_at" in source.columns and "updated_at" not in profile
    unknown = F.lit(None).cast("timestamp")
    own = {
        "profile": F.struct(*(column.alias(name) for name, column in columns.items())),
        "is_dated": landed_on.isNotNull(),
        "landed_on": day,
        "updated_at": map_updated_at(rows, source.columns["updated_at"], f"{key}.updated_at", day)
        if is_timed
        else unknown,
    }
    users = _add_raw(rows, own).where(F.col("landed_on").between(dates.first, dates.last))
    without_user = F.coalesce(F.trim("profile.user_id"), F.lit("")) == ""
    reason = F.when(without_user, "users: null user").when(~F.col("is_dated"), "users: unparsable landing day")
    # Only quarantined rows keep their raw content, as events do.
    users = users.withColumn("reason", reason).withColumn("raw", F.when(F.col("reason").isNotNull(), F.col("raw")))
    names = [name for name in columns if name != "user_id"]
    users = settle(users, names)
    # After settling, the profiles of a user and day are all alike: any of them is kept.
    one_a_day = Window.partitionBy("profile.user_id", "landed_on", "reason").orderBy(F.lit(0))
    repeats = F.row_number().over(one_a_day) > 1
    fate = F.when(F.col("reason").isNotNull(), "quarantined").when(repeats, "duplicate").otherwise("kept")
    with cached(users.withColumn("fate", fate)) as fates:
        landing = _count_fates(fates, "profile.*", "landed_on")
        landing.warnings, landing.notes = describe_contradictions(fates, names, is_timed=is_timed)
        yield landing


def _map_consent(rows: DataFrame, mapping: dict[str, str], key: str) -> Column:
    """True, false, or null where the source is silent.

    Any other word counts as a withdrawal: nobody is texted on a consent that cannot be read.
    """
    (given,) = map_columns(rows, mapping, ("consent",), "boolean", key=key).values()
    (word,) = map_columns(rows, mapping, ("consent",), "string", key=key).values()
    return F.coalesce(given, F.when(F.trim(word) != "", F.lit(False)))


def map_events(rows: DataFrame, settings: Settings, dates: DateRange) -> DataFrame:
    source = settings.source.events
    key = "source.events.columns"
    columns = map_columns(rows, source.columns, ("event_id", "user_id", "campaign_id"), "string", key=key)
    columns["source_event"] = map_columns(rows, source.columns, ("event",), "string", key=key)["event"]
    columns |= map_columns(rows, source.columns, ("event_time",), "timestamp", key=key)
    columns["landed_on"] = _map_landed_on(rows, source, F.to_date(columns["event_time"]), key)
    columns["context"] = _map_context(rows, source.context)
    # A row whose landing day cannot be read is counted on the last day, never dropped. Without its time, it is
    # quarantined.
    columns["event_time"] = F.when(columns["landed_on"].isNotNull(), columns["event_time"])
    columns["landed_on"] = F.coalesce(columns["landed_on"], F.lit(dates.last))
    return _add_raw(rows, columns).where(F.col("landed_on").between(dates.first, dates.last))


def _map_context(rows: DataFrame, declared: dict[str, str]) -> Column:
    if not declared:
        return F.lit(None).cast("map<string,string>")
    pairs: list[Column] = []
    for name, expression in declared.items():
        pairs += [F.lit(name), map_column(rows, expression, "string", f"source.events.context.{name}")]
    return F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull())


def _map_landed_on(rows: DataFrame, source: Reader, otherwise: Column, key: str) -> Column:
    if LANDED in rows.columns:
        return F.col(LANDED)
    if "landed_on" not in source.columns:
        return otherwise
    return map_column(rows, source.columns["landed_on"], "date", f"{key}.landed_on")


def _add_raw(rows: DataFrame, columns: dict[str, Column]) -> DataFrame:
    own = F.struct(*(F.col(quote(name)) for name in rows.columns if name != LANDED))
    raw = F.to_json(own, {"ignoreNullFields": "false"}).alias("raw")
    return rows.select(*(column.alias(name) for name, column in columns.items()), raw)


def _no_events(context: Context) -> DataFrame:
    return context.spark.createDataFrame(
        [],
        "event_id string, user_id string, campaign_id string, source_event string, event_time timestamp, "
        "landed_on date, context map<string,string>, raw string",
    )


def _count_fates(fates: DataFrame, *content: str) -> Landing:
    landing = Landing(fates, content or ("*",))
    for landed_on, fate, reason, number in landing.rows.groupBy("landed_on", "fate", "reason").count().collect():
        day = landing.counts[landed_on]
        day.rows_in += number
        if fate == "kept":
            day.rows_out += number
        elif fate == "duplicate":
            day.duplicates += number
        else:
            day.quarantined += number
            landing.reasons[landed_on][reason] = number
    return landing
