"""The report's part on campaigns: the lists made of the night's scores, and whether earlier ones worked."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report.night import Night
from pipeline.report.parts import (
    Cell,
    Chart,
    Charts,
    Note,
    Part,
    Section,
    Table,
    about,
    percent,
    plural,
    points,
    signed,
)

if TYPE_CHECKING:
    from pipeline.campaigns.results import CampaignResults
    from pipeline.measures.uplift import Estimate, Response

RESULTS = 3
"""Lists of the latest that matured, whose results are shown."""


def campaigns(night: Night) -> Section | None:
    """Lists of this night by arm and reason, and results of the latest lists whose outcomes are known."""
    ((any_list,),) = night.query("SELECT count(*) > 0 FROM targets WHERE ds <= $ds", ds=night.ds)
    if not any_list:
        return None
    lists = _lists(night)
    parts: list[Part] = [lists] if lists else [Note("No list was made of this night's scores.")]
    return Section(
        "campaigns",
        "Campaigns",
        "Whom the lists made of this night's scores text, whom they leave out and why; and of earlier lists, by now "
        "known, whether texting worked: the rate of those texted beside a control group drawn from the same users.",
        [*parts, *_results(night)],
    )


def _lists(night: Night) -> Table | None:
    found = night.query(
        "WITH newest AS (FROM targets WHERE ds = $ds QUALIFY version = max(version) OVER (PARTITION BY campaign_id)) "
        "SELECT campaign_id, version, goal, arm, reason, count(*), sum(p_goal) FROM newest "
        "GROUP BY campaign_id, version, goal, arm, reason "
        "ORDER BY campaign_id, arm <> 'target', arm <> 'control', arm <> 'holdout', 6 DESC, reason",
        ds=night.ds,
    )
    rows: list[Sequence[Cell | str]] = []
    named = None
    for campaign, version, goal, arm, reason, users, expected in found:
        if campaign != named:
            rows.append([f"{campaign}, version {version}, by {goal}"])
        named = campaign
        rows.append([arm, reason, f"{users:,}", about(expected or 0)])
    columns = ["Arm", "Reason", "Users", "Expected outcomes"]
    return Table("Lists made of this night's scores", columns, rows) if rows else None


def _results(night: Night) -> Iterator[Part]:
    from pipeline.campaigns.results import measure_recent

    found = measure_recent(night.settings, night.ds, RESULTS)
    if not found:
        yield Note("No earlier list is old enough yet to tell whether it worked.")
        return
    for each in found:
        yield from _result(each)


def _result(each: "CampaignResults") -> Iterator[Part]:
    name = f"{each.campaign} of {each.ds}"
    goal = each.goal_results
    rows = [
        [
            stage.stage,
            _rate(stage.overall.target),
            _rate(stage.overall.control),
            _interval_points(stage.overall.uplift.difference) if stage.overall.uplift else "–",
            _interval(stage.caused) if stage.caused else "–",
            f"{stage.cost_per_caused.value:,.2f}" if stage.cost_per_caused else "–",
        ]
        for stage in each.stages
    ]
    columns = ["Stage", "Texted", "Control", "Uplift (95%)", "Caused (95%)", "Cost of each"]
    sent = f"{each.users['target']:,} users were texted for {each.cost:,.2f} on {each.send_on}."
    yield Table(f"Results of {name}", columns, rows, lead=f"{sent} {_verdict(each)}")
    if each.qini and goal:
        from pipeline.charts.campaigns import qini_curve

        ranking = (
            "gained more than chance explains" if each.qini.is_beyond_chance else "gained no more than chance explains"
        )
        caption = f"All messages together: {signed(each.qini.gains[-1])} {each.goal}. The best ranks {ranking}."
        svg = Markup(qini_curve(f"qini-{each.campaign}-{each.ds}", each.qini))
        yield Charts(
            f"Qini curve of {name}",
            [Chart(each.goal, svg, caption)],
            "Outcomes that messages caused, best ranks first. Above the dashed line (any order) the best ranks were "
            "those whom a message moves; the shade is what chance alone gives.",
        )
    for warning in each.warnings:
        yield Note(warning, mark="warn")


def _verdict(each: "CampaignResults") -> str:
    goal = each.goal_results
    if goal is None or goal.overall.uplift is None or goal.caused is None:
        return "Without a control group nobody can tell what the messages caused."
    difference = goal.overall.uplift.difference
    if difference.low > 0:
        caused = f"about {goal.caused.value:,.0f} more {each.goal}"
        return f"It worked: the messages caused {caused}, {points(difference.value)}."
    if difference.high < 0:
        return f"It did harm: those texted got there less often, {points(difference.value)}."
    return f"Not shown either way: {points(difference.value)}, and the interval holds 0."


def _rate(response: "Response") -> Cell:
    rate = response.outcomes / response.users if response.users else None
    return Cell(percent(rate), f"{response.outcomes:,} of {plural(response.users, 'user')}")


def _interval_points(estimate: "Estimate") -> Cell:
    return Cell(points(estimate.value), f"{points(estimate.low)} to {points(estimate.high)}")


def _interval(estimate: "Estimate") -> Cell:
    return Cell(signed(estimate.value), f"{signed(estimate.low)} to {signed(estimate.high)}")
