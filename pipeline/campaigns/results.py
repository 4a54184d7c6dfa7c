"""Did a campaign work: the outcomes of one list's users, and how many of them the messages caused.

Reads the views `campaign_lists`, `campaign_results` and `campaign_outcomes` through DuckDB: no JVM.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np

from pipeline.analyst.connection import connect
from pipeline.campaigns.lists import ListVersion, choose_list, find_matured_lists, select_columns
from pipeline.config.campaigns import Campaign
from pipeline.config.settings import Settings
from pipeline.measures.control_group import controls_needed
from pipeline.measures.uplift import (
    Estimate,
    Qini,
    Response,
    Uplift,
    cost_per,
    mean_difference,
    qini,
    uplift,
)

ARMS = ("target", "control", "holdout")
VIEWS = "campaign_lists, campaign_results, campaign_outcomes"
NOBODY = Response(0, 0)


@dataclass(frozen=True)
class BandResults:
    """One stage's outcomes in one band of the goal's scores, or in all bands (`band` None)."""

    band: int | None
    target: Response
    control: Response
    holdout: Response
    uplift: Uplift | None
    """Target minus control; None if either is empty."""


@dataclass(frozen=True)
class StageResults:
    """One mature stage's outcomes."""

    stage: str
    overall: BandResults
    bands: tuple[BandResults, ...]
    """Best first; bands without users are left out."""
    caused: Estimate | None
    """Outcomes that the messages caused: uplift x targets."""
    cost_per_outcome: float | None
    """Cost per outcome of the targets, including outcomes that would have happened anyway."""
    cost_per_caused: Estimate | None
    """Cost per caused outcome; None if the interval of `caused` reaches 0."""
    programme: Uplift | None
    """Target and control together minus holdout: the effect of being in the programme at all. Holdout users get no
    campaign's messages and are ranked like the others."""


@dataclass(frozen=True)
class CampaignResults:
    """The results of one version of one campaign's list."""

    ds: date
    campaign: str
    version: int
    goal: str
    send_on: date
    users: dict[str, int]
    """By arm, as is `texted`."""
    texted: dict[str, int]
    """Users to whom any campaign's message went out within the longest window of the stages."""
    left_out: int
    """Targets left out of the file that went out, having withdrawn consent or completed. They count in their arm, as
    control users of whom the same is true do."""
    cost: float
    """Of one SMS to each other target."""
    stages: tuple[StageResults, ...]
    """The mature stages, in the funnel's order."""
    profit: Estimate | None
    """The worth of the caused outcomes of all stages, net of the cost; None unless the campaign is configured, every
    stage it values is mature and there is a control group."""
    qini: Qini | None
    """For the goal; None until it is mature, or without a control group."""
    warnings: tuple[str, ...]

    @property
    def goal_results(self) -> StageResults | None:
        """The goal's outcomes; None until they are mature."""
        return next((each for each in self.stages if each.stage == self.goal), None)

    def texted_share(self, arm: str) -> float | None:
        """Share of an arm that was sent any message; None if the arm is empty."""
        return self.texted[arm] / self.users[arm] if self.users[arm] else None


def measure_campaign(
    settings: Settings, campaign: str, ds: date | None = None, version: int | None = None
) -> CampaignResults:
    """Measure one list of a campaign.

    Args:
        ds: the list's night; by default the newest whose goal is mature.
        version: by default the newest that was exported, else the newest.

    Raises:
        FunnelError: no such campaign, list or version, or its goal is no longer a stage; or none of its stages is
            mature, with the dates when they will be.
    """
    with connect(settings, VIEWS) as connection:
        return _measure(connection, settings, choose_list(connection, settings, campaign, ds, version))


def measure_recent(settings: Settings, ds: date, limit: int) -> list[CampaignResults]:
    """Measure the latest lists whose goal had matured by the night `ds`: newest first, at most `limit`."""
    with connect(settings, VIEWS) as connection:
        lists = find_matured_lists(connection, settings, ds)
        return [_measure(connection, settings, each) for each in lists[:limit]]


def _measure(connection: duckdb.DuckDBPyConnection, settings: Settings, chosen: ListVersion) -> CampaignResults:
    key = {"ds": chosen.ds, "campaign": chosen.campaign, "version": chosen.version}
    is_chosen = "ds = $ds AND campaign_id = $campaign AND version = $version"
    names = settings.funnel.stage_names
    counts = connection.execute(
        f"SELECT arm, band_goal, users, texted, {select_columns('outcomes', names)} "
        f"FROM campaign_results WHERE {is_chosen}",
        key,
    ).fetchall()
    cells = {(arm, band): dict(zip(("users", "texted", *names), row, strict=True)) for arm, band, *row in counts}
    ranked = connection.execute(
        f"SELECT arm = 'target' AS is_target, sms_cost, {select_columns('outcome', names)} FROM campaign_outcomes "
        f"WHERE {is_chosen} AND arm IN ('target', 'control') ORDER BY rank, user_id",
        key,
    ).fetchnumpy()
    is_target = ranked["is_target"].astype(bool)
    sms_cost = ranked["sms_cost"][is_target]
    cost = float(sms_cost.mean() * (len(sms_cost) - chosen.left_out)) if len(sms_cost) else 0.0
    users, texted = ({arm: cells.get((arm, None), {}).get(kind, 0) for arm in ARMS} for kind in ("users", "texted"))
    stages = tuple(_measure_stage(stage.name, cells, cost) for stage in chosen.mature)
    campaign = settings.campaigns.get(chosen.campaign)
    goal = next((each for each in stages if each.stage == chosen.goal), None)
    share = campaign.measurable_uplift if campaign else Campaign.model_fields["measurable_uplift"].default
    return CampaignResults(
        ds=chosen.ds,
        campaign=chosen.campaign,
        version=chosen.version,
        goal=chosen.goal,
        send_on=chosen.send_on,
        users=users,
        texted=texted,
        left_out=chosen.left_out,
        cost=cost,
        stages=stages,
        profit=_estimate_profit(campaign, chosen, ranked, is_target, cost),
        qini=qini(is_target, ranked[f"outcome_{chosen.goal}"]) if goal else None,
        warnings=(
            *(f"{stage.name} is not mature until {chosen.maturity_date(stage)}" for stage in chosen.immature),
            *(_warn_of_control_size(goal, share) if goal else ()),
            *_warn_of_deviations(users, texted, chosen.left_out),
        ),
    )


def _measure_stage(stage: str, cells: Mapping[tuple[str, int | None], Mapping[str, int]], cost: float) -> StageResults:
    def measure_band(band: int | None) -> BandResults:
        target, control, holdout = (
            Response(cell["users"], cell[stage]) if (cell := cells.get((arm, band))) else NOBODY for arm in ARMS
        )
        return BandResults(band, target, control, holdout, uplift(target, control))

    overall = measure_band(None)
    target, control = overall.target, overall.control
    caused = overall.uplift.difference.times(target.users) if overall.uplift else None
    either = Response(target.users + control.users, target.outcomes + control.outcomes)
    return StageResults(
        stage=stage,
        overall=overall,
        bands=tuple(
            measure_band(band) for band in sorted({band for _, band in cells if band is not None}, reverse=True)
        ),
        caused=caused,
        cost_per_outcome=cost / target.outcomes if target.outcomes else None,
        cost_per_caused=cost_per(cost, caused) if caused else None,
        programme=uplift(either, overall.holdout),
    )


def _estimate_profit(
    campaign: Campaign | None, chosen: ListVersion, ranked: Mapping[str, np.ndarray], is_target: np.ndarray, cost: float
) -> Estimate | None:
    """From each user's total worth: a user's stages are correlated, so their intervals cannot simply be added."""
    if campaign is None or not set(campaign.worth) <= {stage.name for stage in chosen.mature}:
        return None
    worth = np.sum([money * ranked[f"outcome_{stage}"] for stage, money in campaign.worth.items()], axis=0)
    each = mean_difference(worth[is_target], worth[~is_target])
    return each.times(int(is_target.sum())).plus(-cost) if each else None


def _warn_of_control_size(goal: StageResults, measurable_uplift: float) -> Iterator[str]:
    target, control = goal.overall.target, goal.overall.control
    if not target.users:
        return
    if not control.users:
        yield "without a control group, what the messages caused is unknown"
        return
    rate = target.outcomes / target.users
    needed = controls_needed(target.users, rate, measurable_uplift)
    if needed is None:
        yield (
            f"too few outcomes ({target.outcomes:,} of {target.users:,} targets): no control group, however large, "
            f"could show that the messages caused {measurable_uplift:.0%} of them"
        )
    elif control.users < needed:
        yield (
            f"the control group of {control.users:,} is too small to show that the messages caused "
            f"{measurable_uplift:.0%} of the outcomes: at a rate of {rate:.2%} it takes {needed:,}"
        )


def _warn_of_deviations(users: Mapping[str, int], texted: Mapping[str, int], left_out: int) -> Iterator[str]:
    """Users texted, or not texted, against the list: each stays in its arm, which makes the uplift look smaller."""
    if texted["control"]:
        share = texted["control"] / users["control"]
        yield f"{texted['control']:,} of {users['control']:,} control users ({share:.1%}) were contacted anyway"
    missed = users["target"] - texted["target"]
    if missed:
        why = f", {left_out:,} of them because they had withdrawn consent or completed by then" if left_out else ""
        yield f"{missed:,} of {users['target']:,} targets ({missed / users['target']:.1%}) were never contacted{why}"
