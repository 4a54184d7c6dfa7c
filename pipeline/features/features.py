"""Point-in-time features, for training and for scoring, by one SQL file."""

from datetime import date, timedelta

from pyspark.sql import DataFrame

from pipeline.config.features import (
    aggregates,
    context_names,
    declared_features,
    longest_window,
    static_names,
    user_features,
)
from pipeline.config.settings import Settings
from pipeline.engines.spark import run_sql
from pipeline.runs.record import StageRun
from pipeline.warehouse.tables import profile_columns


def compute_features(run: StageRun, spine: DataFrame, *, first: date, last: date) -> DataFrame:
    """Compute the features of each (user_id, as_of), by `sql/spark/features.sql`.

    Args:
        spine: distinct `user_id`, `as_of`, with first <= as_of <= last. If it has the users' attributes as of `as_of`,
            `users` is not read.

    Returns: the spine with the columns of `user_features`.
    """
    settings = run.context.settings
    tiles = run.read("activity", first=first - activity_reach(settings), last=last)
    views = {"spine": spine, "activity": tiles}
    attributes = list(profile_columns(settings))
    spine_has_attributes = set(attributes) <= set(spine.columns)
    if not spine_has_attributes:
        views["users"] = run.read("users", last=last)
    return run_sql(
        run.context.spark,
        "features",
        views,
        aggregates=aggregates(user_features(settings)),
        attributes=attributes,
        static=static_names(settings),
        spine_has_attributes=spine_has_attributes,
    )


def planned_context(settings: Settings) -> dict[str, str | None]:
    """The context in which a night scores users, by column, from `[scoring] context`; null where none is planned."""
    planned = settings.scoring.context
    return {column: planned.get(name) for column, name in context_names(declared_features(settings)).items()}


def activity_reach(settings: Settings) -> timedelta:
    """How long before `as_of` a tile may have landed and still count."""
    tolerance_days = -(-settings.source.events.future_tolerance_hours // 24)
    return timedelta(days=longest_window(settings) + tolerance_days)
