"""Everyone known by a night, from the newest state of an earlier night and what has landed since.

A night would otherwise read all of `users` and `activity` ever landed. The table `known_users` holds, as of some
nights, what `sql/spark/known_users.sql` made of them. A state is used only while the files it was made from are the
table's files still: after a backfill of an older day it is passed over, so that a night gives what reading
everything would give.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.spark import read_pinned, run_sql, stage
from pipeline.engines.templates import render
from pipeline.runs.context import Context
from pipeline.runs.publish import publish
from pipeline.runs.record import StageRun
from pipeline.warehouse.tables import profile_columns
from pipeline.warehouse.warehouse import Pinned

STATE_NIGHTS = 7
"""A state this many nights old is followed by a new one: its rows are written once in so many nights."""


@dataclass(frozen=True)
class State:
    """What `known_users` holds as of a date."""

    as_of: date
    pinned: Pinned


def publish_state_if_due(context: Context, run: StageRun, ds: date) -> State:
    """Publish the partition `ds` of `known_users`, unless a newer state than `STATE_NIGHTS` nights old still holds.

    Returns: the state for `read_known_users` to start from.
    """
    state = _newest_state(context, ds)
    if state is None or state.as_of <= ds - timedelta(days=STATE_NIGHTS):
        state = _publish_state(context, run, state, ds)
    return state


def read_known_users(context: Context, run: StageRun, state: State | None, ds: date) -> DataFrame:
    """Everyone known by `ds`, one row a user with the columns of `sql/spark/known_users.sql`.

    Args:
        state: what to start from; only what has landed since is read. None reads all that ever landed.
    """
    first = state.as_of + timedelta(days=1) if state else date.min
    names = ("activity", "users") if context.settings.source.users else ("activity",)
    views = {name: run.read(name, first=first, last=ds) for name in names}
    if state:
        views["earlier"] = read_pinned(context.spark, run.record_input(state.pinned))
    sql = known_users_parameters(context.settings, ds) | {"has_earlier": state is not None}
    return run_sql(context.spark, "known_users", views, **sql)


def _newest_state(context: Context, ds: date) -> State | None:
    """The newest state as of `ds` or before whose files are the tables' files still."""
    warehouse = context.warehouse
    for as_of in sorted(warehouse.row_counts("known_users", first=date.min, last=ds), reverse=True):
        pinned = warehouse.pin("known_users", first=as_of, last=as_of)
        made_from = read_pinned(context.spark, pinned).select("made_from").first()
        if made_from is not None and made_from[0] == _made_from(context, as_of):
            return State(as_of, pinned)
    return None


def _publish_state(context: Context, run: StageRun, earlier: State | None, as_of: date) -> State:
    # Before the tables are read: a day that changes meanwhile makes a state that is passed over, never a wrong one.
    made_from = _made_from(context, as_of)
    rows = read_known_users(context, run, earlier, as_of)
    rows = rows.withColumns({"made_from": F.lit(made_from), "as_of": F.lit(as_of)})
    staged = stage(rows, context.warehouse, "known_users")
    publish(context, staged, DateRange(as_of, as_of), run.stage)
    return State(as_of, staged)


def known_users_parameters(settings: Settings, ds: date) -> dict[str, object]:
    """What `sql/spark/known_users.sql` takes, but for `has_earlier`."""
    return {
        "ds": ds,
        "has_users": settings.source.users is not None,
        "has_time_zones": settings.source.has_time_zones,
        "attributes": list(profile_columns(settings)),
        "last_stage": settings.funnel.stage_names[-1],
    }


def _made_from(context: Context, as_of: date) -> str:
    """A digest of all that a state depends on: the SQL with its parameters, and every file landed by its date."""
    parts: list[object] = [
        render("spark/known_users", **known_users_parameters(context.settings, as_of), has_earlier=False)
    ]
    parts += [str(kind) for kind in profile_columns(context.settings).values()]
    parts += [context.warehouse.pin(name, last=as_of).files for name in ("activity", "users")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
