"""Maps the source's rows to our columns, and says of each row what could not be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, MapType, StructType

from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.templates import quote
from pipeline.ingest.contradictions import read_updated_at
from pipeline.ingest.lines import DAMAGE, LINE, read_lines, show_line
from pipeline.ingest.source import LANDED, find_column, find_columns_read, map_columns
from pipeline.ingest.values import (
    OWN,
    Mapped,
    Reading,
    Steps,
    pack_lost,
    read_consent,
    read_date,
    read_number,
    read_text,
    read_time,
    read_zone,
)
from pipeline.warehouse.tables import profile_columns

UNREAD = "_unread"
"""The column of what the readings of a row lost: an array in their order; null where they lost nothing."""


@dataclass(frozen=True)
class MappedRows:
    """The source's rows as our columns, `raw` and `UNREAD`, and the readings behind them.

    `is_timed` says whether profiles have an `updated_at`.
    """

    rows: DataFrame
    readings: list[Reading]
    is_timed: bool = False


def name_user_columns(settings: Settings) -> dict[str, str]:
    """What our columns of users are in the source, as Spark SQL."""
    assert settings.source.users is not None
    return {name: quote(name) for name in profile_columns(settings)} | settings.source.users.columns


def name_mapped(settings: Settings, name: str) -> dict[str, str]:
    """Every expression over the columns of "events" or "users", by its key in the configuration."""
    key = f"source.{name}"
    if name == "users":
        return {f"{key}.columns.{column}": expression for column, expression in name_user_columns(settings).items()}
    source = settings.source.events
    mapping = {f"{key}.columns.{column}": expression for column, expression in source.columns.items()}
    return mapping | {f"{key}.context.{column}": expression for column, expression in source.context.items()}


def map_users(rows: DataFrame, settings: Settings, dates: DateRange) -> MappedRows:
    """Map profiles: landed_on, updated_at, reason, raw, `UNREAD`, and `profile`, a struct of what the table holds.

    Raises:
        FunnelError: the source does not fit its mapping.
    """
    source, profile = settings.source.users, profile_columns(settings)
    assert source is not None
    steps = Steps(rows)
    key = "source.users.columns"
    mapped = map_columns(rows, source.columns, key)
    # An unmapped attribute is the source's column of the same name.
    mapped |= map_columns(rows, {name: name for name in profile if name not in mapped}, key, are_names=True)
    readings = {"user_id": read_text(steps, mapped["user_id"])}
    for name, kind in profile.items():
        if pa.types.is_string(kind):
            readings[name] = read_text(steps, mapped[name])
        else:
            readings[name] = read_number(steps, mapped[name], has_decimal_comma=source.decimal_comma)
    if "consent" in mapped:
        readings["consent"] = read_consent(steps, mapped["consent"], source.consent_words)
    if "time_zone" in mapped:
        readings["time_zone"] = read_zone(steps, mapped["time_zone"])
    values = {name: reading.value for name, reading in readings.items()}
    values.setdefault("consent", F.lit(None).cast("boolean"))
    # Users without dates are what is known when they are read.
    landed_on = _find_landing_day(steps, mapped, F.lit(dates.first), settings, readings)
    updated_at = F.lit(None).cast("timestamp")
    if settings.has_update_times:
        readings["updated_at"] = read_updated_at(steps, mapped["updated_at"], F.coalesce(landed_on, F.lit(dates.last)))
        updated_at = readings["updated_at"].value
    user_id, damage = readings["user_id"], _damage(rows)
    no_user = F.when(user_id.lost.isNotNull(), F.lit("users: user is no UTF-8")).when(
        F.coalesce(user_id.value, F.lit("")) == "", F.lit("users: null user")
    )
    # Whoever withdraws is not texted, even if nothing else of the row can be trusted.
    is_withdrawal = no_user.isNull() & (values["consent"] == F.lit(False))
    if "consent" in readings:
        is_withdrawal &= readings["consent"].lost.isNull()
    is_withdrawal = steps.keep(F.coalesce(is_withdrawal, F.lit(False)))
    reason = (
        F.when(is_withdrawal, F.lit(None))
        .when(damage.isNotNull(), F.concat(F.lit("users: "), damage))
        .when(no_user.isNotNull(), no_user)
        .when(landed_on.isNull(), F.lit("users: unparsable landing day"))
    )
    sound = {
        name: value if name in ("user_id", "consent") else F.when(damage.isNull(), value)
        for name, value in (values if LINE in rows.columns else {}).items()
    }
    columns = {
        "profile": F.struct(*(column.alias(name) for name, column in (values | sound).items())),
        "updated_at": updated_at,
        "reason": reason,
    }
    content = _find_content(rows, list(mapped.values()), source)
    return replace(
        _finish(steps, rows, columns, landed_on, readings, dates, content, is_withdrawal),
        is_timed=settings.has_update_times,
    )


def map_events(rows: DataFrame, settings: Settings, dates: DateRange) -> MappedRows:
    """Map events: the columns that `sql/spark/classify.sql` reads.

    Raises:
        FunnelError: the source does not fit its mapping.
    """
    source = settings.source.events
    steps = Steps(rows)
    mapped = map_columns(rows, source.columns, "source.events.columns")
    texts = ("user_id", "event", "event_id", "campaign_id")
    readings = {name: read_text(steps, mapped[name]) for name in texts if name in mapped}
    time = read_time(steps, mapped["event_time"], earliest=source.earliest, zone=source.time_zone)
    readings["event_time"] = time
    in_context = map_columns(rows, source.context, "source.events.context", prefix="context.")
    context = {name: read_text(steps, each) for name, each in in_context.items()}
    columns = {
        name: readings[name].value if name in readings else F.lit(None).cast("string")
        for name in ("event_id", "user_id", "campaign_id")
    }
    columns["source_event"] = readings["event"].value
    columns["context"] = _map_context(context)
    columns["_damage"] = F.coalesce(
        _damage(rows),
        *(
            F.when(readings[name].lost.isNotNull(), F.lit(f"{words} is no UTF-8"))
            for name, words in (("user_id", "user"), ("event", "event"), ("event_id", "event id"))
            if name in readings
        ),
    )
    columns["_problem"] = F.lit(None).cast("string") if time.problem is None else time.problem
    landed_on = _find_landing_day(steps, mapped, F.to_date(time.value), settings, readings)
    # Without its landing day, a row has no time either, and is quarantined.
    columns["event_time"] = F.when(landed_on.isNotNull(), time.value)
    readings |= {reading.name: reading for reading in context.values()}
    content = _find_content(rows, [*mapped.values(), *in_context.values()], source)
    return _finish(steps, rows, columns, landed_on, readings, dates, content)


def _damage(rows: DataFrame) -> Column:
    """Why a line of text is no row, as a reason; null where it is one."""
    return F.col(DAMAGE) if DAMAGE in rows.columns else F.lit(None).cast("string")


def _map_context(readings: Mapping[str, Reading]) -> Column:
    if not readings:
        return F.lit(None).cast("map<string,string>")
    pairs = [each for name, reading in readings.items() for each in (F.lit(name), reading.value)]
    return F.map_filter(F.create_map(*pairs), lambda _, value: value.isNotNull())


def _find_landing_day(
    steps: Steps, mapped: Mapping[str, Mapped], otherwise: Column, settings: Settings, readings: dict[str, Reading]
) -> Column:
    """The day a row landed: its folder's, the mapped column's, which joins the readings, or `otherwise`."""
    if LANDED in steps.rows.columns:
        return F.col(LANDED)
    if "landed_on" not in mapped:
        return otherwise
    readings["landed_on"] = read_date(steps, mapped["landed_on"], earliest=settings.source.events.earliest)
    return readings["landed_on"].value


def _find_content(rows: DataFrame, mapped: Sequence[Mapped], source: Reader) -> dict[str, Column] | None:
    """What a rejected row keeps by name: the columns that are mapped; None if it keeps all.

    Of a column that holds others, such as a struct, only what an expression takes of it is kept.
    """
    if source.raw_content == "all":
        return None
    content: dict[str, Column] = {}
    for each in mapped:
        named = find_column(rows.columns, each.expression)
        # To look into an expression takes Spark's analyser, which is slow where columns are many.
        names = find_columns_read(rows, each.column) if named is None else [named]
        if named is None and any(
            isinstance(rows.schema[name].dataType, StructType | MapType | ArrayType) for name in names
        ):
            content[each.expression] = each.column
        else:
            content |= {name: F.col(quote(name)) for name in names}
    return content


def _finish(
    steps: Steps,
    rows: DataFrame,
    columns: Mapping[str, Column],
    landed_on: Column,
    readings: Mapping[str, Reading],
    dates: DateRange,
    content: Mapping[str, Column] | None,
    lands_anyway: Column | None = None,
) -> MappedRows:
    all_columns = {name: F.col(quote(name)) for name in rows.columns if not name.startswith(OWN)}
    own = F.struct(*(column.alias(name) for name, column in (all_columns if content is None else content).items()))
    raw = F.to_json(own, {"ignoreNullFields": "false"})
    lines = read_lines(rows, lands_anyway, is_kept=content is None)
    if lines is not None:
        readings = {**readings, lines.name: lines}
        raw = F.when(
            F.col(DAMAGE).isNotNull(), F.to_json(F.struct(show_line(is_kept=content is None).alias("line")))
        ).otherwise(raw)
    complete = {
        **columns,
        # A row whose landing day cannot be read is counted on the last day, never dropped.
        "landed_on": F.coalesce(landed_on, F.lit(dates.last)),
        "raw": raw,
        UNREAD: pack_lost(list(readings.values())),
    }
    selected = steps.select([column.alias(name) for name, column in complete.items()])
    return MappedRows(selected.where(F.col("landed_on").between(dates.first, dates.last)), list(readings.values()))


def join_mapped(parts: Sequence[MappedRows]) -> MappedRows:
    """Join rows that were mapped each by themselves, of the same columns and readings."""
    readings = [
        replace(first, refusal=next((each.refusal for each in (first, *others) if each.refusal), None))
        for first, *others in zip(*(part.readings for part in parts), strict=True)
    ]
    return MappedRows(_unite([part.rows for part in parts]), readings, parts[0].is_timed)


def _unite(frames: Sequence[DataFrame]) -> DataFrame:
    # Pairs of pairs keep the plan shallow, however many there are.
    while len(frames) > 1:
        pairs = [frames[first : first + 2] for first in range(0, len(frames), 2)]
        frames = [pair[0].unionByName(pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
    return frames[0]
