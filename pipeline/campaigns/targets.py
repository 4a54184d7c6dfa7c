"""A campaign's target list: who is texted the day after a night, written to `targets` as a version of the list.

A run whose rows differ from the list's newest version makes a new version; a version never changes.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa

from pipeline.campaigns.decisions import Decisions, decide
from pipeline.campaigns.rechecks import describe_age, find_newest_landing
from pipeline.campaigns.rules import find_campaign, resolve_quota
from pipeline.dates import DateRange
from pipeline.monitoring.monitor import require_scores
from pipeline.runs.context import Context
from pipeline.runs.record import Counts, StageWarning, recorded

VERSION_COLUMNS = ("version", "run_id", "made_at", "ds")
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
    targets: int
    controls: int
    goal: str
    expected_outcomes: float
    """How many of the targets should reach the goal."""
    cost: Decimal
    expected_value: float
    """Of all targets, net of their cost."""
    smallest_uplift: float | None
    """The share of the outcomes that messages must cause for the control group to show it; None: it shows none."""


def make_list(
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
        size: the number of messages, instead of the campaign's own limit.
        budget: their total cost, likewise.
        despite_monitor: make the list even if monitoring has not passed the night's scores.

    Raises:
        FunnelError: no such campaign, no scores, monitoring has not passed them, nobody is left to text, or the control
            group is too small to show anything. Nothing is written.
    """
    settings = context.settings
    options = find_campaign(settings, campaign)
    quota = resolve_quota(options, size=size, budget=budget)
    require_scores(context, ds)
    with ExitStack() as open_decisions:

        def decide_again() -> Decisions:
            open_decisions.close()
            return open_decisions.enter_context(
                decide(context, ds, campaign, options, quota, despite_monitor=despite_monitor)
            )

        decisions = decide_again()
        with recorded(context, "targets", DateRange(ds, ds)) as run:
            while (written := _write(context, ds, campaign, decisions)) is None:
                # Another list was written meanwhile: of this campaign, or one that counts for the frequency cap.
                decisions = decide_again()
            for pinned in decisions.inputs.values():
                run.record_input(pinned)
            known = sum(decisions.users.values())
            run.by_day = {ds: Counts(rows_in=known, rows_out=known)}
            run.warnings += decisions.warnings
            if age := describe_age(ds, find_newest_landing(context), campaign):
                run.warnings.append(StageWarning("older than the newest landing", age))
            version, is_new = written
            outcomes, value, run.model_version = decisions.aggregate_targets(
                "sum(p_goal)", "sum(expected_value)", "any_value(model_version)"
            )
            return TargetList(
                campaign=campaign,
                ds=ds,
                version=version,
                is_new=is_new,
                users=decisions.users,
                targets=decisions.targets,
                controls=decisions.controls,
                goal=options.goal or settings.funnel.stage_names[-1],
                expected_outcomes=outcomes,
                cost=Decimal(str(options.sms_cost)) * decisions.targets,
                expected_value=value,
                smallest_uplift=decisions.find_smallest_uplift(),
            )


def _write(context: Context, ds: date, campaign: str, decisions: Decisions) -> tuple[int, bool] | None:
    """Add the list as a new version, unless the newest has its rows; None if the table has changed since it was read.

    Returns: the version, and whether it is new.
    """
    connection, schema = decisions.connection, context.warehouse.tables["targets"].schema
    columns = ", ".join(name for name in schema.names if name not in VERSION_COLUMNS)
    of_campaign = f"FROM targets WHERE ds = DATE'{ds}' AND campaign_id = '{campaign}'"
    ((newest,),) = connection.execute(f"SELECT max(version) {of_campaign}").fetchall()
    if newest is not None:
        # A user has one row in each: equal counts and no row that differs make them the same.
        ((differs,),) = connection.execute(
            f"WITH newest AS (SELECT {columns} {of_campaign} AND version = {newest}) "
            "SELECT (SELECT count(*) FROM newest) <> (SELECT count(*) FROM decided) "
            f"OR EXISTS (SELECT {columns} FROM decided EXCEPT FROM newest)"
        ).fetchall()
        if not differs:
            return newest, False
    version = (newest or 0) + 1
    constants = {"version": version, "run_id": context.run_id, "made_at": datetime.now(UTC), "ds": ds}
    decided = connection.sql(f"SELECT {columns} FROM decided").to_arrow_table()
    values = [
        pa.repeat(pa.scalar(constants[field.name], field.type), len(decided))
        if field.name in constants
        else decided[field.name]
        for field in schema
    ]
    rows = pa.table(values, names=schema.names)
    written = context.warehouse.append_to("targets", rows, snapshot_id=decisions.inputs["targets"].snapshot_id)
    return (version, True) if written else None
