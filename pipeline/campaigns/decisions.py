"""Who gets a campaign's message: every user known on a night, with an arm and the reason for it. In DuckDB, no JVM."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import duckdb

from pipeline.analyst.connection import connect_pinned
from pipeline.campaigns.rules import Quota, resolve_zones
from pipeline.config.campaigns import Campaign
from pipeline.config.settings import Settings
from pipeline.engines.duckdb import run_locally
from pipeline.engines.templates import render
from pipeline.errors import FunnelError
from pipeline.features.known_users import known_users_parameters
from pipeline.features.precision import knows_only_dates_locally
from pipeline.measures.control_group import POWER, controls_needed, power, smallest_share, smallest_uplift
from pipeline.runs.context import Context
from pipeline.runs.record import StageWarning
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
"""Why a user is in their arm; for a suppressed user, the first reason that applies."""
INPUTS = ("user_scores", "users", "activity", "events", "targets", "exports", "runs")


@dataclass(frozen=True)
class Decisions:
    """A list's rows, in the table `decided` of an open connection, and the snapshots they were decided from."""

    connection: duckdb.DuckDBPyConnection
    inputs: Mapping[str, Pinned]
    users: Mapping[tuple[str, str], int]
    """By arm and reason, in the order of `REASONS`."""
    warnings: tuple[StageWarning, ...]

    @property
    def targets(self) -> int:
        return self.users["target", "selected"]

    @property
    def controls(self) -> int:
        return self.users.get(("control", "control"), 0)

    def aggregate_targets(self, *aggregates: str) -> tuple[Any, ...]:
        """SQL aggregates over the rows of the targets."""
        text = f"SELECT {', '.join(aggregates)} FROM decided WHERE arm = 'target'"
        (values,) = self.connection.execute(text).fetchall()
        return tuple(values)

    def find_smallest_uplift(self) -> float | None:
        """The share of the outcomes that messages must cause for the control group to show it; None: it shows none."""
        (rate,) = self.aggregate_targets("avg(p_goal)")
        return smallest_uplift(self.targets, self.controls, rate)


@contextmanager
def decide(
    context: Context, ds: date, name: str, campaign: Campaign, quota: Quota, *, despite_monitor: bool
) -> Iterator[Decisions]:
    """Decide on every user known as of `ds`, and check that the list is worth writing.

    Raises:
        FunnelError: monitoring has not passed the night's scores, nobody is left to text, or the control group is too
            small.
    """
    connection, pins = connect_pinned(context.settings, ", ".join(INPUTS), None)
    with connection:
        if not despite_monitor:
            _require_monitored(connection, ds)
        warnings = create_known_users_and_zones(connection, context.settings, ds)
        create_decided(connection, context.settings, ds, name, campaign, quota)
        counts = connection.execute("SELECT arm, reason, count(*) FROM decided GROUP BY ALL").fetchall()
        users = {(arm, reason): n for arm, reason, n in sorted(counts, key=lambda row: REASONS.index(row[1]))}
        decisions = Decisions(connection, {pinned.table: pinned for pinned in pins}, users, warnings)
        _require_targets(decisions, ds, name)
        if campaign.control_share:
            _require_controls(decisions, name, campaign, quota)
        yield decisions


def create_known_users_and_zones(
    connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date
) -> tuple[StageWarning, ...]:
    """Create the tables `known_users`, as of `ds`, and `zones`; returns a warning if any zone is unknown."""
    create_known_users(connection, settings, ds)
    counts: dict[str | None, int] = {None: 0}
    if settings.source.has_time_zones:
        counts |= dict(connection.execute("SELECT time_zone, count(*) FROM known_users GROUP BY time_zone").fetchall())
    # Only a cap reads the events, and only there does it matter in which zone a date is one.
    has_cap = settings.targeting.frequency_cap is not None and settings.source.has_time_zones
    by_day = has_cap and knows_only_dates_locally(connection, settings, ds)
    zones = resolve_zones(counts, settings.targeting, ds + timedelta(days=1), settings.zone, by_day=by_day)
    connection.execute(
        "CREATE TABLE zones (time_zone VARCHAR, is_quiet BOOLEAN, capped_from TIMESTAMPTZ, capped_until TIMESTAMPTZ)"
    )
    connection.executemany(
        "INSERT INTO zones VALUES (?, ?, ?, ?)",
        [(zone.time_zone, zone.is_quiet, zone.capped_from, zone.capped_until) for zone in zones],
    )
    unknown = [zone.time_zone for zone in zones if not zone.is_known]
    if not unknown:
        return ()
    users = sum(counts[name] for name in unknown)
    line = (
        f"{users:,} users have a time_zone that is not an IANA name, such as {unknown[0]!r}; "
        f"the funnel's zone, {settings.funnel.timezone}, is used instead"
    )
    return (StageWarning("unknown time_zone", line),)


def create_known_users(connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date) -> None:
    """Create the table `known_users` as of `ds`, without attributes, from all that has landed by then."""
    parameters = known_users_parameters(settings, ds) | {"attributes": [], "has_earlier": False}
    run_locally(connection, "known_users", **parameters).create("known_users")


def create_decided(
    connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date, name: str, campaign: Campaign, quota: Quota
) -> None:
    """Create the table `decided`: what `sql/duckdb/targets.sql` makes of the connection's tables."""
    stages = settings.funnel.stage_names
    cap = settings.targeting.frequency_cap
    text = render(
        "duckdb/targets",
        has_users=settings.source.users is not None,
        has_time_zones=settings.source.has_time_zones,
        has_cap=cap is not None,
        has_limit=quota.texts is not None,
        worth=[stage for stage in stages if stage in campaign.worth],
        min_band=campaign.min_band,
        goal=campaign.goal or stages[-1],
    )
    values: dict[str, Any] = {
        "ds": ds,
        "campaign": name,
        "salt": settings.targeting.salt,
        "holdout_share": settings.targeting.holdout_share,
        "control_share": campaign.control_share,
        "sms_cost": campaign.sms_cost,
        **{f"worth_{stage}": worth for stage, worth in campaign.worth.items()},
    }
    if cap:
        # Days start at other times in other zones, and a landing day may hold events from a few hours after it.
        earlier = cap.days + 2 + settings.source.events.future_tolerance_hours // 24
        values |= {"messages": cap.messages, "landed_from": ds - timedelta(days=earlier)}
    if quota.texts is not None:
        values |= {"texts": quota.texts, "beyond": quota.reason}
    connection.execute(f"CREATE TABLE decided AS {text}", values)


def _require_monitored(connection: duckdb.DuckDBPyConnection, ds: date) -> None:
    """Monitoring has passed the very scores that the night has now."""
    newest = connection.execute(
        """
        WITH monitored AS (
          SELECT status, message, started_at FROM runs WHERE ds = $ds AND stage = 'monitor'
          ORDER BY started_at DESC LIMIT 1
        ),
        scores AS (
          SELECT max(scored_at) AS scored_at, max_by(run_id, scored_at) AS run_id FROM user_scores WHERE ds = $ds
        ),
        -- What monitoring found; a rollback may have withdrawn it since.
        published AS (
          SELECT max_by(run_id, runs.started_at) AS run_id
          FROM runs JOIN monitored ON runs.started_at <= monitored.started_at
          WHERE ds = $ds AND stage = 'publish' AND runs.status = 'ok'
        )
        SELECT
          status,
          message,
          coalesce(started_at < scored_at, false) OR coalesce(published.run_id <> scores.run_id, false)
        FROM monitored, scores, published
        """,
        {"ds": ds},
    ).fetchall()
    cure = f"run `funnel monitor --ds {ds}` first"
    anyway = "--despite-monitor makes the list anyway"
    if not newest:
        raise FunnelError(f"monitoring has not checked the night {ds}: {cure}; {anyway}")
    ((status, message, had_other_scores),) = newest
    if had_other_scores:
        raise FunnelError(f"monitoring last checked the night {ds} when it had other scores: {cure}; {anyway}")
    if status != "ok":
        raise FunnelError(f"monitoring stopped the night {ds}: {message}; {anyway}")


def _require_targets(decisions: Decisions, ds: date, name: str) -> None:
    if ("target", "selected") not in decisions.users:
        counts = ", ".join(f"{users:,} {reason}" for (_, reason), users in decisions.users.items())
        raise FunnelError(f"campaign {name!r} has nobody to text after {ds}: {counts or 'no user is known'}")


def _require_controls(decisions: Decisions, name: str, campaign: Campaign, quota: Quota) -> None:
    targets, controls = decisions.targets, decisions.controls
    (rate,) = decisions.aggregate_targets("avg(p_goal)")
    uplift = campaign.measurable_uplift
    if power(targets, controls, rate, uplift) >= POWER:
        return
    listed = decisions.connection.execute("SELECT drawn, p_goal FROM decided WHERE drawn IS NOT NULL ORDER BY rank")
    drawn, p_goal = listed.fetchnumpy().values()
    share = smallest_share(drawn, p_goal, quota.texts, uplift)
    needed = controls_needed(targets, rate, uplift)
    size = f"{needed:,} for these {targets:,} targets" if needed else f"more than these {targets:,} targets as well"
    cure = f"control_share = {share:.2f} is enough" if share else "only a longer list helps, whatever the control_share"
    raise FunnelError(
        f"campaign {name!r}: a control group of {controls:,} is too small to show that the messages caused "
        f"{uplift:.0%} of the outcomes (measurable_uplift); it takes {size}: {cure}; control_share = 0 goes without"
    )
