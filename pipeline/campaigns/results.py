"""Did a campaign work: of one list's users, who got there, and what of it the messages caused.

Reads the views `campaign_lists`, `campaign_results` and `campaign_outcomes` through DuckDB: no JVM. `results` gives one
list's, `recent` those of the lists that have matured by a night, for its report.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import compress
from typing import Any

import duckdb
import numpy as np

from pipeline.analyst.connection import connect
from pipeline.config.campaigns import Campaign
from pipeline.config.sections import Stage
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
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
    """One stage's outcomes in one band of the goal's scores, or in all (`band` None)."""

    band: int | None
    target: Response
    control: Response
    holdout: Response
    uplift: Uplift | None
    """Of target over control; None without either."""


@dataclass(frozen=True)
class StageResults:
    """One mature stage's outcomes."""

    stage: str
    overall: BandResults
    bands: tuple[BandResults, ...]
    """The best first; bands without users are left out."""
    caused: Estimate | None
    """Outcomes that there are for the messages alone: uplift x targets."""
    cost_per_outcome: float | None
    """Money by all outcomes of the targets, those that would have been anyway among them."""
    cost_per_caused: Estimate | None
    """Money by caused outcome; None where the interval of these reaches 0."""
    programme: Uplift | None
    """Of target and control together over holdout: what it is worth to be in the programme at all. Users of holdout get
    no campaign's messages and are ranked like the others."""


@dataclass(frozen=True)
class CampaignResults:
    """What came of one version of one campaign's list."""

    ds: date
    campaign: str
    version: int
    goal: str
    send_on: date
    users: dict[str, int]
    """By arm, as `texted`."""
    texted: dict[str, int]
    """Whom any campaign's message went out to within the stages' longest window."""
    cost: float
    """Of one SMS to each target."""
    stages: tuple[StageResults, ...]
    """Those that are mature, in the funnel's order."""
    profit: Estimate | None
    """What the caused outcomes of all stages are worth, less the cost; None unless the campaign is configured, every
    stage it values is mature and there is a control group."""
    qini: Qini | None
    """Of the goal; None until it is mature, and without a control group."""
    warnings: tuple[str, ...]

    @property
    def of_goal(self) -> StageResults | None:
        """The goal's outcomes; None until they are mature."""
        return next((each for each in self.stages if each.stage == self.goal), None)

    def texted_share(self, arm: str) -> float | None:
        """Share of an arm that any message went out to; None of nobody."""
        return self.texted[arm] / self.users[arm] if self.users[arm] else None


@dataclass(frozen=True)
class _List:
    """A version of a campaign's list, and which stages of it are mature."""

    ds: date
    campaign: str
    version: int
    goal: str
    send_on: date
    is_measured: bool
    mature: tuple[Stage, ...]

    @property
    def has_matured(self) -> bool:
        return self.goal in (stage.name for stage in self.mature)


def results(settings: Settings, campaign: str, ds: date | None = None, version: int | None = None) -> CampaignResults:
    """What came of a campaign's list.

    Args:
        ds: the list's night; without one, the newest whose goal is mature.
        version: without one, the newest that was exported, else the newest.

    Raises:
        FunnelError: no such campaign, list or version; or no stage of it is mature, with the dates when they will be.
    """
    connection = connect(settings, VIEWS)
    lists = _lists(connection, settings, "campaign_id = $campaign", {"campaign": campaign})
    if not lists:
        named = connection.execute("SELECT DISTINCT campaign_id FROM targets ORDER BY 1").fetchall()
        known = f"there are lists of {', '.join(name for (name,) in named)}" if named else "no campaign has one yet"
        raise FunnelError(f"no list of campaign {campaign!r}: {known}; `funnel targets` makes one")
    return _results(connection, settings, _chosen(settings, lists, ds, version))


def recent(settings: Settings, ds: date, limit: int) -> list[CampaignResults]:
    """Results of the lists whose goal had matured by the night `ds`, the newest first, at most so many."""
    connection = connect(settings, VIEWS)
    windows = {stage.name: timedelta(stage.window_days) for stage in settings.funnel.stages}
    lists = [
        each
        for each in _lists(connection, settings, "ds < $ds AND is_measured", {"ds": ds})
        if each.has_matured and each.send_on + windows[each.goal] <= ds
    ]
    return [_results(connection, settings, each) for each in lists[:limit]]


def _lists(
    connection: duckdb.DuckDBPyConnection, settings: Settings, condition: str, parameters: Mapping[str, Any]
) -> list[_List]:
    """The newest first."""
    stages = settings.funnel.stages
    rows = connection.execute(
        "SELECT ds, campaign_id, version, goal, send_on, is_measured, "
        f"{_columns('mature', settings.funnel.stage_names)} FROM campaign_lists "
        f"WHERE {condition} ORDER BY ds DESC, campaign_id, version DESC",
        parameters,
    ).fetchall()
    return [
        _List(night, campaign, version, goal, send_on, is_measured, tuple(compress(stages, mature)))
        for night, campaign, version, goal, send_on, is_measured, *mature in rows
    ]


def _chosen(settings: Settings, lists: list[_List], ds: date | None, version: int | None) -> _List:
    campaign = lists[0].campaign
    of_night = [each for each in lists if ds in (None, each.ds)]
    if not of_night:
        nights = ", ".join(str(night) for night in sorted({each.ds for each in lists}, reverse=True)[:5])
        raise FunnelError(f"no list of campaign {campaign!r} of {ds}; the newest are of {nights}")
    wanted = [each for each in of_night if (each.is_measured if version is None else each.version == version)]
    if not wanted:
        versions = ", ".join(str(each.version) for each in reversed(of_night) if each.ds == of_night[0].ds)
        raise FunnelError(f"no version {version} of campaign {campaign!r} of {of_night[0].ds}; there are {versions}")
    chosen = next((each for each in wanted if each.has_matured), wanted[0])
    if chosen.goal not in settings.funnel.stage_names:
        raise FunnelError(
            f"the list of {campaign!r} of {chosen.ds} was made for {chosen.goal!r}, which is no stage of the "
            f"configuration any more; its stages are {', '.join(settings.funnel.stage_names)}"
        )
    if not chosen.mature or (ds is None and not chosen.has_matured):
        (next_stage, next_day), *later = _to_come(settings, chosen)
        dates = "".join(f", {stage.name} on {day}" for stage, day in later)
        hint = f"; --ds {chosen.ds} shows what is" if chosen.mature else ""
        raise FunnelError(
            f"the list of {campaign!r} of {chosen.ds} is not mature yet: "
            f"{next_stage.name} will be on {next_day}{dates}{hint}"
        )
    return chosen


def _to_come(settings: Settings, chosen: _List) -> list[tuple[Stage, date]]:
    """The stages that are not mature, and the night when each will be."""
    stages = [stage for stage in settings.funnel.stages if stage not in chosen.mature]
    return [(stage, chosen.send_on + timedelta(stage.window_days)) for stage in stages]


def _results(connection: duckdb.DuckDBPyConnection, settings: Settings, chosen: _List) -> CampaignResults:
    key = {"ds": chosen.ds, "campaign": chosen.campaign, "version": chosen.version}
    of_list = "ds = $ds AND campaign_id = $campaign AND version = $version"
    names = settings.funnel.stage_names
    counts = connection.execute(
        f"SELECT arm, band_goal, users, texted, {_columns('outcomes', names)} FROM campaign_results WHERE {of_list}",
        key,
    ).fetchall()
    cells = {(arm, band): dict(zip(("users", "texted", *names), row, strict=True)) for arm, band, *row in counts}
    ranked = connection.execute(
        f"SELECT arm = 'target' AS is_target, sms_cost, {_columns('outcome', names)} FROM campaign_outcomes "
        f"WHERE {of_list} AND arm IN ('target', 'control') ORDER BY rank, user_id",
        key,
    ).fetchnumpy()
    is_target = ranked["is_target"].astype(bool)
    cost = float(ranked["sms_cost"][is_target].sum())
    users, texted = ({arm: cells.get((arm, None), {}).get(kind, 0) for arm in ARMS} for kind in ("users", "texted"))
    stages = tuple(_stage_results(stage.name, cells, cost) for stage in chosen.mature)
    campaign = settings.campaigns.get(chosen.campaign)
    of_goal = next((each for each in stages if each.stage == chosen.goal), None)
    share = campaign.measurable_uplift if campaign else Campaign.model_fields["measurable_uplift"].default
    return CampaignResults(
        ds=chosen.ds,
        campaign=chosen.campaign,
        version=chosen.version,
        goal=chosen.goal,
        send_on=chosen.send_on,
        users=users,
        texted=texted,
        cost=cost,
        stages=stages,
        profit=_profit(campaign, chosen, ranked, is_target, cost),
        qini=qini(is_target, ranked[f"outcome_{chosen.goal}"]) if of_goal else None,
        warnings=(
            *(f"{stage.name} is not mature yet: it will be on {day}" for stage, day in _to_come(settings, chosen)),
            *(_too_small(of_goal, share) if of_goal else ()),
            *_off_the_plan(users, texted),
        ),
    )


def _stage_results(stage: str, cells: Mapping[tuple[str, int | None], Mapping[str, int]], cost: float) -> StageResults:
    def of_band(band: int | None) -> BandResults:
        target, control, holdout = (
            Response(cell["users"], cell[stage]) if (cell := cells.get((arm, band))) else NOBODY for arm in ARMS
        )
        return BandResults(band, target, control, holdout, uplift(target, control))

    overall = of_band(None)
    target, control = overall.target, overall.control
    caused = overall.uplift.difference.times(target.users) if overall.uplift else None
    either = Response(target.users + control.users, target.outcomes + control.outcomes)
    return StageResults(
        stage=stage,
        overall=overall,
        bands=tuple(of_band(band) for band in sorted({band for _, band in cells if band is not None}, reverse=True)),
        caused=caused,
        cost_per_outcome=cost / target.outcomes if target.outcomes else None,
        cost_per_caused=cost_per(cost, caused) if caused else None,
        programme=uplift(either, overall.holdout),
    )


def _profit(
    campaign: Campaign | None, chosen: _List, ranked: Mapping[str, np.ndarray], is_target: np.ndarray, cost: float
) -> Estimate | None:
    """By each user's own worth: one user's stages come together, so that their intervals cannot just be added."""
    if campaign is None or not set(campaign.worth) <= {stage.name for stage in chosen.mature}:
        return None
    worth = np.sum([money * ranked[f"outcome_{stage}"] for stage, money in campaign.worth.items()], axis=0)
    each = mean_difference(worth[is_target], worth[~is_target])
    return each.times(int(is_target.sum())).plus(-cost) if each else None


def _too_small(of_goal: StageResults, measurable_uplift: float) -> Iterator[str]:
    target, control = of_goal.overall.target, of_goal.overall.control
    if not target.users:
        return
    if not control.users:
        yield "there is no control group: what the messages caused cannot be told"
        return
    rate = target.outcomes / target.users
    needed = controls_needed(target.users, rate, measurable_uplift)
    if needed is None:
        yield (
            f"too few outcomes ({target.outcomes:,} of {target.users:,} targets): no control group, however large, "
            f"could show that messages caused {measurable_uplift:.0%} of them"
        )
    elif control.users < needed:
        yield (
            f"the control group of {control.users:,} is too small to show that messages caused {measurable_uplift:.0%} "
            f"of the outcomes: at a rate of {rate:.2%} it takes {needed:,}"
        )


def _off_the_plan(users: Mapping[str, int], texted: Mapping[str, int]) -> Iterator[str]:
    """Who was texted against the list, or not texted: each stays in its arm, which makes the uplift look smaller."""
    if texted["control"]:
        share = texted["control"] / users["control"]
        yield f"{texted['control']:,} of {users['control']:,} users of control ({share:.1%}) were texted all the same"
    missed = users["target"] - texted["target"]
    if missed:
        yield f"{missed:,} of {users['target']:,} targets ({missed / users['target']:.1%}) were never texted"


def _columns(kind: str, stages: Sequence[str]) -> str:
    return ", ".join(f"{kind}_{stage}" for stage in stages)
