"""Everyone known by a night, from the state of an earlier night and what has landed since.

Without a state, a night reads all of `users` and `activity` ever landed. The table `known_users` holds the results of
`sql/spark/known_users.sql` as of some nights. A state is used only while the tables still consist of the files that it
was made from. After a backfill of an older day it is not, so that the result is always that of reading everything.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.config.features import static_names
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
"""A state this many nights old is due to be followed by a new one."""


@dataclass(frozen=True)
class State:
    """A partition of `known_users`: everyone known by a date."""

    as_of: date
    pinned: Pinned


def publish_known_users_if_due(run: StageRun, ds: date) -> State:
    """Publish the partition `ds` of `known_users`, unless a valid state is less than `STATE_NIGHTS` nights old.

    Returns: the state that `read_known_users` starts from.
    """
    state = _find_newest_state(run.context, ds)
    if state is None or state.as_of <= ds - timedelta(days=STATE_NIGHTS):
        state = _publish_state(run, state, ds)
    return state


def read_known_users(run: StageRun, state: State | None, ds: date) -> DataFrame:
    """Read everyone known by `ds`: one row a user, with the columns of `sql/spark/known_users.sql`.

    Args:
        state: where to start from; only what has landed since is read. None: read all that has ever landed.
    """
    context = run.context
    first = state.as_of + timedelta(days=1) if state else date.min
    names = ("activity", "users") if context.settings.source.users else ("activity",)
    views = {name: run.read(name, first=first, last=ds) for name in names}
    if state:
        views["earlier"] = read_pinned(context.spark, run.record_input(state.pinned))
    sql = known_users_parameters(context.settings, ds) | {"has_earlier": state is not None}
    return run_sql(context.spark, "known_users", views, **sql)


def _find_newest_state(context: Context, ds: date) -> State | None:
    """The newest state up to `ds` that was made from the files that the tables have now."""
    warehouse = context.warehouse
    for as_of in sorted(warehouse.row_counts("known_users", first=date.min, last=ds), reverse=True):
        pinned = warehouse.pin("known_users", first=as_of, last=as_of)
        made_from = read_pinned(context.spark, pinned).select("made_from").first()
        if made_from is not None and made_from[0] == _digest_sources(context, as_of):
            return State(as_of, pinned)
    return None


def _publish_state(run: StageRun, earlier: State | None, as_of: date) -> State:
    # Before the tables are read: if a day changes meanwhile, the state is not used, rather than wrong.
    made_from = _digest_sources(run.context, as_of)
    rows = read_known_users(run, earlier, as_of)
    rows = rows.withColumns({"made_from": F.lit(made_from), "as_of": F.lit(as_of)})
    staged = stage(rows, run.context.warehouse, "known_users")
    publish(run, staged, DateRange(as_of, as_of))
    return State(as_of, staged)


def known_users_parameters(settings: Settings, ds: date) -> dict[str, object]:
    """The parameters of `sql/spark/known_users.sql` except `has_earlier`."""
    return {
        "ds": ds,
        "has_users": settings.source.users is not None,
        "has_time_zones": settings.source.has_time_zones,
        "has_update_times": settings.has_update_times,
        "attributes": list(profile_columns(settings)),
        "static": static_names(settings),
        "last_stage": settings.funnel.stage_names[-1],
    }


def _digest_sources(context: Context, as_of: date) -> str:
    """Digest all that a state depends on: the SQL with its parameters, and every file landed by its date."""
    parts: list[object] = [
        render("spark/known_users", **known_users_parameters(context.settings, as_of), has_earlier=False)
    ]
    parts += [str(kind) for kind in profile_columns(context.settings).values()]
    parts += [context.warehouse.pin(name, last=as_of).names for name in ("activity", "users")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
