"""Runs the SQL files over plain rows, with the parameters that the pipeline gives them."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from pipeline.config.features import aggregates, behaviour_features, context_names, exposure_features
from pipeline.config.funnel import Stage
from pipeline.dates import end_of_day, epoch_micros
from pipeline.engines.duckdb import run_locally
from pipeline.engines.spark import run_sql
from tests.sql.logs import World
from tests.sql.reference import Event, Profile, Row, SourceRow

TIME = pa.timestamp("us", tz="UTC")
CONTEXT = pa.map_(pa.string(), pa.string())
EVENTS = pa.schema(
    {
        "landed_on": pa.date32(),
        "event_id": pa.string(),
        "user_id": pa.string(),
        "event": pa.string(),
        "event_time": TIME,
        "campaign_id": pa.string(),
        "context": CONTEXT,
    }
)
USERS = pa.schema(
    {
        "landed_on": pa.date32(),
        "user_id": pa.string(),
        "consent": pa.bool_(),
        "city_tier": pa.string(),
        "age": pa.float64(),
    }
)
SOURCE = pa.schema(
    {
        "landed_on": pa.date32(),
        "event_id": pa.string(),
        "user_id": pa.string(),
        "source_event": pa.string(),
        "event_time": TIME,
        "campaign_id": pa.string(),
        "context": CONTEXT,
        "raw": pa.string(),
        "_problem": pa.string(),
        "_damage": pa.string(),
        "_unread": pa.list_(pa.string()),
    }
)
SPINE = pa.schema({"user_id": pa.string(), "as_of": pa.date32()})
ATTRIBUTES = ("city_tier", "age")


def frame(spark: SparkSession, rows: Iterable[Event | Profile | SourceRow], schema: pa.Schema) -> DataFrame:
    return spark.createDataFrame(arrow(rows, schema))


def arrow(rows: Iterable[Event | Profile | SourceRow], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([_plain(asdict(row)) for row in rows], schema=schema)


def collected(rows: DataFrame) -> list[Row]:
    """The rows with times in UTC, whatever the session's zone."""
    return [
        {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}
        for row in rows.toArrow().to_pylist()
    ]


def tiles(spark: SparkSession, events: Iterable[Event]) -> DataFrame:
    return run_sql(spark, "activity", {"events": frame(spark, events, EVENTS)})


def spine_of(spark: SparkSession, pairs: Iterable[tuple[str, date]]) -> DataFrame:
    rows = [{"user_id": user_id, "as_of": as_of} for user_id, as_of in pairs]
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema=SPINE))


def features(
    spark: SparkSession,
    spine: DataFrame,
    events: Iterable[Event],
    profiles: Iterable[Profile],
    *,
    kinds: Sequence[str],
    windows_days: Sequence[int],
    attributes: Sequence[str] = ATTRIBUTES,
    static: Sequence[str] = (),
) -> DataFrame:
    views = {"spine": spine, "activity": tiles(spark, events)}
    if attributes:
        views["users"] = frame(spark, profiles, USERS)
    return run_sql(
        spark,
        "features",
        views,
        aggregates=aggregates(behaviour_features(kinds, windows_days)),
        attributes=attributes,
        static=static,
        spine_has_attributes=set(attributes) <= set(spine.columns),
    )


def known_users(
    spark: SparkSession,
    events: Iterable[Event],
    profiles: Iterable[Profile] | None,
    ds: date,
    *,
    last_stage: str,
    earlier: DataFrame | None = None,
    static: Sequence[str] = (),
) -> DataFrame:
    """Every user known by `ds`; `profiles` is None for a source without users."""
    views = {"activity": tiles(spark, events)}
    if profiles is not None:
        views["users"] = frame(spark, profiles, USERS)
    if earlier is not None:
        views["earlier"] = earlier
    return run_sql(
        spark,
        "known_users",
        views,
        ds=ds,
        has_users=profiles is not None,
        has_earlier=earlier is not None,
        has_time_zones=False,
        has_update_times=False,
        attributes=ATTRIBUTES if profiles is not None else (),
        static=static,
        last_stage=last_stage,
    )


def eligible(spark: SparkSession, known: DataFrame, ds: date, *, has_users: bool) -> DataFrame:
    attributes = ATTRIBUTES if has_users else ()
    return run_sql(spark, "eligible", {"known_users": known}, ds=ds, has_users=has_users, attributes=attributes)


def exposures(
    spark: SparkSession,
    events: Iterable[Event],
    as_of: date,
    world: World,
    *,
    attribution: str,
    history_days: int,
    by_day: bool = False,
) -> DataFrame:
    views = {"events": frame(spark, events, EVENTS)}
    seen = _seen(as_of, world)
    return run_sql(
        spark,
        "exposures",
        views | {"landed_again": run_sql(spark, "landed_again", views, **seen)},
        **seen,
        **_labelling(world, attribution, history_days, by_day),
        context=context_names(exposure_features(("campaign", "offer", "hour"))),
        declared_context={"offer": "offer"},
    )


def exposures_locally(
    events: pa.Table, as_of: date, world: World, *, attribution: str, history_days: int, by_day: bool = False
) -> pa.Table:
    """The same without context, by DuckDB, in memory that a user's square would not fit into."""
    with duckdb.connect(config={"memory_limit": "300MB", "temp_directory": "", "threads": 1}) as connection:
        connection.execute(f"SET TimeZone = '{world.zone.key}'")
        connection.register("events", events)
        seen = _seen(as_of, world)
        again = run_locally(connection, "landed_again", **seen)
        again.query("again", "CREATE TEMP TABLE landed_again AS FROM again")
        labelling = _labelling(world, attribution, history_days, by_day)
        return run_locally(
            connection, "exposures", **seen, **labelling, context={}, declared_context={}
        ).fetch_arrow_table()


def _seen(as_of: date, world: World) -> dict[str, Any]:
    return {"as_of": as_of, "end_of_as_of": epoch_micros(end_of_day(as_of, world.zone))}


def _labelling(world: World, attribution: str, history_days: int, by_day: bool) -> dict[str, Any]:
    stages = [Stage(name=name, event=name, window_days=days) for name, days in world.windows.items()]
    return {"history_days": history_days, "attribution": attribution, "stages": stages, "by_day": by_day}


def _plain(row: Row) -> Row:
    context = row.get("context")
    return row | {"context": None if context is None else list(context.items())}
