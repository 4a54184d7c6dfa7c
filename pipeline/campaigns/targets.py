"""A campaign's target list: everyone known on a night, with an arm and the reason for it. DuckDB decides: no JVM.

A run that gives other rows than a list's newest version makes a new version; a version never changes.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipeline.analyst.connection import connect
from pipeline.campaigns.rules import Limit, limit_of, zones
from pipeline.config.campaigns import Campaign
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.duckdb import run_locally
from pipeline.engines.templates import render
from pipeline.errors import FunnelError
from pipeline.features.known_users import parameters as of_known_users
from pipeline.measures.control_group import POWER, controls_needed, power, smallest_share, smallest_uplift
from pipeline.monitoring.monitor import require_scores
from pipeline.runs.context import Context
from pipeline.runs.record import Counts, recorded
from pipeline.terminal import print_table
from pipeline.warehouse.warehouse import Pinned

REASONS = (
    "selected",
    "control",
    "holdout",
    "consent_withdrawn",
    "already_completed",
    "not_scored",
    "frequency_cap",
    "quiet_hours",
    "below_min_band",
    "not_worth_it",
    "beyond_size",
    "beyond_budget",
)
"""Why a user has the arm they have; of a suppressed one, the first that applies."""
INPUTS = ("user_scores", "users", "activity", "events", "targets", "exports", "runs")
OF_A_VERSION = ("version", "run_id", "made_at", "ds")
"""The columns of `targets` that say which list a row belongs to, not what it says."""


@dataclass(frozen=True)
class TargetList:
    """A version of a campaign's list, in numbers."""

    campaign: str
    ds: date
    version: int
    is_new: bool
    """False: the newest version had these rows already."""
    users: Mapping[tuple[str, str], int]
    """By arm and reason, in the order of `REASONS`."""
    goal: str
    expected_outcomes: float
    """How many of the targets should get to the goal."""
    cost: Decimal
    expected_value: float
    """Of all targets, after their cost."""
    smallest_uplift: float | None
    """The share of the outcomes that messages must cause for the control group to show it; None: it shows nothing."""

    @property
    def targets(self) -> int:
        return self.users["target", "selected"]

    @property
    def controls(self) -> int:
        return self.users.get(("control", "control"), 0)


@dataclass(frozen=True)
class Decided:
    """The rows of a list in the table `decided` of a connection, and the inputs that they were made from."""

    connection: duckdb.DuckDBPyConnection
    inputs: Mapping[str, Pinned]
    users: Mapping[tuple[str, str], int]
    warnings: tuple[str, ...]


def make(
    context: Context,
    ds: date,
    campaign: str,
    *,
    size: int | None = None,
    budget: float | None = None,
    despite_monitor: bool = False,
) -> TargetList:
    """Decide on every user known as of `ds`, for messages of the day after, and write the list to `targets`.

    Args:
        size: how many users are to be texted, instead of the campaign's own limit.
        budget: what texting them may cost, likewise.
        despite_monitor: although monitoring stopped the night.

    Raises:
        FunnelError: no such campaign, no scores, monitoring stopped the night, nobody is left to be texted, or the
            control group is too small to show anything. Nothing is written.
    """
    options = campaign_named(context.settings, campaign)
    limit = limit_of(options, size=size, budget=budget)
    require_scores(context, ds)
    decided = _decide(context, ds, campaign, options, limit, despite_monitor=despite_monitor)
    with recorded(context, "targets", DateRange(ds, ds)) as run:
        while (written := _write(context, ds, campaign, decided)) is None:
            # Somebody was faster, maybe with a list of this campaign, or of one that counts for the frequency cap.
            decided = _decide(context, ds, campaign, options, limit, despite_monitor=despite_monitor)
        for pinned in decided.inputs.values():
            run.record_input(pinned)
        known = sum(decided.users.values())
        run.by_day = {ds: Counts(rows_in=known, rows_out=known)}
        run.warnings += decided.warnings
        version, is_new = written
        goal = options.goal or context.settings.funnel.stage_names[-1]
        outcomes, value, run.model_version = _of_targets(
            decided.connection, "sum(p_goal)", "sum(expected_value)", "any_value(model_version)"
        )
        return TargetList(
            campaign=campaign,
            ds=ds,
            version=version,
            is_new=is_new,
            users=decided.users,
            goal=goal,
            expected_outcomes=outcomes,
            cost=Decimal(str(options.sms_cost)) * decided.users["target", "selected"],
            expected_value=value,
            smallest_uplift=_smallest_uplift(decided),
        )


def show_list(made: TargetList) -> None:
    """Print a list in numbers: users by arm and reason, what is expected of the targets, what can be measured."""
    version = f"version {made.version}" if made.is_new else f"same as version {made.version}"
    print(f"\n{made.campaign}, to be sent on {made.ds + timedelta(days=1)}: {version}")
    table = Table("arm", "reason", box=SIMPLE_HEAD)
    table.add_column("users", justify="right")
    for (arm, reason), users in made.users.items():
        table.add_row(arm, reason, f"{users:,}")
    print_table(table)
    print(
        f"{made.targets:,} messages: {made.expected_outcomes:,.1f} {made.goal} expected, "
        f"cost {made.cost:,.2f}, expected value after it {made.expected_value:,.2f}"
    )
    if made.smallest_uplift is None:
        print("no control group that shows what the messages cause: campaigns' control_share is 0")
    else:
        print(
            f"the control group of {made.controls:,} shows what the messages cause "
            f"if that is {made.smallest_uplift:.0%} of the outcomes or more ({POWER:.0%} power, 5% level)"
        )


def campaign_named(settings: Settings, name: str) -> Campaign:
    """The configuration's campaign of a name.

    Raises:
        FunnelError: there is none; names those there are.
    """
    if name in settings.campaigns:
        return settings.campaigns[name]
    if not settings.campaigns:
        raise FunnelError(f"no campaign {name!r}: the configuration has none, add a [campaigns.{name}]")
    close = difflib.get_close_matches(name, settings.campaigns, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise FunnelError(f"no campaign {name!r}; {hint}the configuration has {', '.join(settings.campaigns)}")


def _decide(
    context: Context, ds: date, campaign: str, options: Campaign, limit: Limit, *, despite_monitor: bool
) -> Decided:
    """Make the list's rows, and check that they are a list worth writing."""
    # Pinned before anything is read: what is committed meanwhile is then noticed when the list is written.
    inputs = {name: context.warehouse.pin(name, last=ds) for name in INPUTS}
    connection = connect(context.settings, ", ".join(INPUTS))
    if not despite_monitor:
        _require_no_stop(connection, ds)
    unknown = _create_known_users_and_zones(connection, context.settings, ds)
    _create_list(connection, context.settings, ds, campaign, options, limit)
    users = {
        (arm, reason): number
        for arm, reason, number in sorted(
            connection.execute("SELECT arm, reason, count(*) FROM decided GROUP BY ALL").fetchall(),
            key=lambda row: REASONS.index(row[1]),
        )
    }
    decided = Decided(connection, inputs, users, unknown)
    _require_targets(decided, ds, campaign)
    if options.control_share:
        _require_controls(decided, campaign, options, limit)
    return decided


def _require_no_stop(connection: duckdb.DuckDBPyConnection, ds: date) -> None:
    newest = connection.execute(
        "SELECT status, message FROM runs WHERE ds = ? AND stage = 'monitor' ORDER BY started_at DESC LIMIT 1", [ds]
    ).fetchall()
    for status, message in newest:
        if status == "failed":
            raise FunnelError(f"monitoring stopped the night {ds}: {message}; --despite-monitor makes the list anyway")


def _create_known_users_and_zones(
    connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date
) -> tuple[str, ...]:
    """The tables `known_users`, as of `ds`, and `zones`; returns a warning where zones are unknown."""
    # No attribute of theirs is needed.
    parameters = of_known_users(settings, ds) | {"attributes": [], "has_earlier": False}
    run_locally(connection, "known_users", **parameters).create("known_users")
    numbers: dict[str | None, int] = {None: 0}
    if settings.source.has_time_zones:
        counted = "SELECT time_zone, count(*) FROM known_users GROUP BY time_zone"
        numbers |= dict(connection.execute(counted).fetchall())
    found = zones(numbers, settings.targeting, ds + timedelta(days=1), settings.zone)
    connection.execute(
        "CREATE TABLE zones (time_zone VARCHAR, is_quiet BOOLEAN, capped_from TIMESTAMPTZ, capped_until TIMESTAMPTZ)"
    )
    connection.executemany(
        "INSERT INTO zones VALUES (?, ?, ?, ?)",
        [(each.time_zone, each.is_quiet, each.capped_from, each.capped_until) for each in found],
    )
    unknown = [each.time_zone for each in found if not each.is_known]
    if not unknown:
        return ()
    users = sum(numbers[name] for name in unknown)
    return (
        f"{users:,} users have a time_zone that is no IANA name, such as {unknown[0]!r}: "
        f"the funnel's, {settings.funnel.timezone}, stands in for it",
    )


def _create_list(
    connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date, campaign: str, options: Campaign, limit: Limit
) -> None:
    """The table `decided`: what `sql/duckdb/targets.sql` makes of the connection's tables."""
    stages = settings.funnel.stage_names
    cap = settings.targeting.frequency_cap
    text = render(
        "duckdb/targets",
        has_users=settings.source.users is not None,
        has_time_zones=settings.source.has_time_zones,
        has_cap=cap is not None,
        has_limit=limit.texts is not None,
        worth=[stage for stage in stages if stage in options.worth],
        min_band=options.min_band,
        goal=options.goal or stages[-1],
    )
    values: dict[str, Any] = {
        "ds": ds,
        "campaign": campaign,
        "salt": settings.targeting.salt,
        "holdout_share": settings.targeting.holdout_share,
        "control_share": options.control_share,
        "sms_cost": options.sms_cost,
        **{f"worth_{stage}": worth for stage, worth in options.worth.items()},
    }
    if cap:
        # Days begin at other times in other zones, and a landing day may hold events of some hours after it.
        earlier = cap.days + 2 + settings.source.events.future_tolerance_hours // 24
        values |= {"messages": cap.messages, "landed_from": ds - timedelta(days=earlier)}
    if limit.texts is not None:
        values |= {"texts": limit.texts, "beyond": limit.reason}
    connection.execute(f"CREATE TABLE decided AS {text}", values)


def _require_targets(decided: Decided, ds: date, campaign: str) -> None:
    if ("target", "selected") not in decided.users:
        counts = ", ".join(f"{users:,} {reason}" for (_, reason), users in decided.users.items())
        raise FunnelError(f"campaign {campaign!r} has nobody to text after {ds}: {counts or 'no user is known'}")


def _require_controls(decided: Decided, campaign: str, options: Campaign, limit: Limit) -> None:
    targets = decided.users["target", "selected"]
    controls = decided.users.get(("control", "control"), 0)
    (rate,) = _of_targets(decided.connection, "avg(p_goal)")
    uplift = options.measurable_uplift
    if power(targets, controls, rate, uplift) >= POWER:
        return
    listed = decided.connection.execute("SELECT drawn, p_goal FROM decided WHERE drawn IS NOT NULL ORDER BY rank")
    drawn, p_goal = listed.fetchnumpy().values()
    share = smallest_share(drawn, p_goal, limit.texts, uplift)
    needed = controls_needed(targets, rate, uplift)
    size = f"{needed:,} beside these {targets:,} targets" if needed else f"more than these {targets:,} targets, too"
    would_do = f"control_share = {share:.2f} would do" if share else "only a longer list, whatever the control_share"
    raise FunnelError(
        f"campaign {campaign!r}: a control group of {controls:,} is too small to show that {uplift:.0%} of the "
        f"outcomes (measurable_uplift) are the messages'; it takes {size}: {would_do}; control_share = 0 goes without"
    )


def _smallest_uplift(decided: Decided) -> float | None:
    targets = decided.users["target", "selected"]
    (rate,) = _of_targets(decided.connection, "avg(p_goal)")
    return smallest_uplift(targets, decided.users.get(("control", "control"), 0), rate)


def _of_targets(connection: duckdb.DuckDBPyConnection, *aggregates: str) -> tuple[Any, ...]:
    (found,) = connection.execute(f"SELECT {', '.join(aggregates)} FROM decided WHERE arm = 'target'").fetchall()
    return tuple(found)


def _write(context: Context, ds: date, campaign: str, decided: Decided) -> tuple[int, bool] | None:
    """Add the list as a new version, unless the newest has its rows; None if the table has changed since it was read.

    Returns: the version, and whether it is a new one.
    """
    connection, schema = decided.connection, context.warehouse.tables["targets"].schema
    rows = ", ".join(name for name in schema.names if name not in OF_A_VERSION)
    of_campaign = f"FROM targets WHERE ds = DATE'{ds}' AND campaign_id = '{campaign}'"
    ((newest,),) = connection.execute(f"SELECT max(version) {of_campaign}").fetchall()
    if newest is not None:
        # A user has one row in either: as many rows, none of them another, are the same.
        ((other,),) = connection.execute(
            f"WITH newest AS (SELECT {rows} {of_campaign} AND version = {newest}) "
            "SELECT (SELECT count(*) FROM newest) <> (SELECT count(*) FROM decided) "
            f"OR EXISTS (SELECT {rows} FROM decided EXCEPT FROM newest)"
        ).fetchall()
        if not other:
            return newest, False
    version = (newest or 0) + 1
    constant = {"version": version, "run_id": context.run_id, "made_at": datetime.now(UTC), "ds": ds}
    listed = connection.sql(f"SELECT {rows} FROM decided").to_arrow_table()
    columns = [
        pa.repeat(pa.scalar(constant[field.name], field.type), len(listed))
        if field.name in constant
        else listed[field.name]
        for field in schema
    ]
    records = pa.table(columns, names=schema.names)
    written = context.warehouse.append_to("targets", records, snapshot_id=decided.inputs["targets"].snapshot_id)
    return (version, True) if written else None
