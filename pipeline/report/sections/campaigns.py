"""Campaigns: the lists made from the night's scores, and whether earlier ones worked."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.report.formats import format_expected, format_percent, format_points, format_signed, pluralise
from pipeline.report.night import Night
from pipeline.report.parts import Cell, Chart, Charts, Note, Part, Section, Table

if TYPE_CHECKING:
    from pipeline.campaigns.results import CampaignResults
    from pipeline.measures.uplift import Estimate, Response

RESULTS = 3
"""How many of the latest matured lists are shown with results."""


def build(night: Night) -> Section | None:
    ((any_list,),) = night.query("SELECT count(*) > 0 FROM targets WHERE ds <= $ds", ds=night.ds)
    if not any_list:
        return None
    lists = _tabulate_lists(night)
    parts: list[Part] = [lists] if lists else [Note("No list was made from this night's scores.")]
    return Section(
        "campaigns",
        "Campaigns",
        "Lists made from this night's scores: who is a target, who is left out, and why. Earlier lists with known "
        f"outcomes: whether the {night.exposures} worked, by the rate of the targets and of a control group drawn from "
        "the same users.",
        [*parts, *_show_results(night)],
    )


def _tabulate_lists(night: Night) -> Table | None:
    found = night.query(
        "WITH newest AS (FROM targets WHERE ds = $ds QUALIFY version = max(version) OVER (PARTITION BY campaign_id)) "
        "SELECT campaign_id, version, goal, arm, reason, count(*), sum(p_goal) FROM newest "
        "GROUP BY campaign_id, version, goal, arm, reason "
        "ORDER BY campaign_id, arm <> 'target', arm <> 'control', arm <> 'holdout', 6 DESC, reason",
        ds=night.ds,
    )
    rows: list[Sequence[Cell | str]] = []
    current = None
    for campaign, version, goal, arm, reason, users, expected in found:
        if campaign != current:
            rows.append([f"{campaign}, version {version}, goal {goal}"])
        current = campaign
        rows.append([arm, reason, f"{users:,}", format_expected(expected or 0)])
    columns = ["Arm", "Reason", "Users", "Expected outcomes"]
    return Table("Lists made from this night's scores", columns, rows) if rows else None


def _show_results(night: Night) -> Iterator[Part]:
    from pipeline.campaigns.results import measure_recent

    found = measure_recent(night.settings, night.ds, RESULTS)
    if not found:
        yield Note("No earlier list is old enough yet to tell whether it worked.")
        return
    for each in found:
        yield from _show_result(each, night.exposures)


def _show_result(each: "CampaignResults", exposures: str) -> Iterator[Part]:
    name = f"{each.campaign} of {each.ds}"
    goal = each.goal_results
    rows = [
        [
            stage.stage,
            _make_rate_cell(stage.overall.target),
            _make_rate_cell(stage.overall.control),
            _make_points_cell(stage.overall.uplift.difference) if stage.overall.uplift else "–",
            _make_count_cell(stage.caused) if stage.caused else "–",
            f"{stage.cost_per_caused.value:,.2f}" if stage.cost_per_caused else "–",
        ]
        for stage in each.stages
    ]
    columns = ["Stage", "Targets", "Control", "Uplift (95%)", "Caused (95%)", "Cost per caused"]
    sent = f"{each.users['target'] - each.left_out:,} {exposures} for {each.cost:,.2f} on {each.send_on}."
    yield Table(f"Results of {name}", columns, rows, lead=f"{sent} {_state_verdict(each, exposures)}")
    if each.qini and goal:
        from pipeline.charts.campaigns import draw_qini_curve

        ranking = (
            "gained more than chance explains" if each.qini.is_beyond_chance else "gained no more than chance explains"
        )
        caption = (
            f"All {exposures} together: {format_signed(each.qini.gains[-1])} {each.goal}. The best ranks {ranking}."
        )
        svg = Markup(draw_qini_curve(f"qini-{each.campaign}-{each.ds}", each.qini))
        yield Charts(
            f"Qini curve of {name}",
            [Chart(each.goal, svg, caption)],
            f"Outcomes that {exposures} caused, best ranks first. Above the dashed line (any order), the best ranks "
            "were those whom they move; the shaded area is what chance alone gives.",
        )
    for warning in each.warnings:
        yield Note(warning, mark="warn")


def _state_verdict(each: "CampaignResults", exposures: str) -> str:
    goal = each.goal_results
    if goal is None or goal.overall.uplift is None or goal.caused is None:
        return f"Without a control group, what the {exposures} caused is unknown."
    difference = goal.overall.uplift.difference
    if difference.low > 0:
        caused = f"about {goal.caused.value:,.0f} more {each.goal}"
        return f"It worked: the {exposures} caused {caused}, {format_points(difference.value)}."
    if difference.high < 0:
        return f"It did harm: the targets reached the goal less often, {format_points(difference.value)}."
    return f"Inconclusive: {format_points(difference.value)}, and the interval includes 0."


def _make_rate_cell(response: "Response") -> Cell:
    rate = response.outcomes / response.users if response.users else None
    return Cell(format_percent(rate), f"{response.outcomes:,} of {pluralise(response.users, 'user')}")


def _make_points_cell(estimate: "Estimate") -> Cell:
    return Cell(format_points(estimate.value), f"{format_points(estimate.low)} to {format_points(estimate.high)}")


def _make_count_cell(estimate: "Estimate") -> Cell:
    return Cell(format_signed(estimate.value), f"{format_signed(estimate.low)} to {format_signed(estimate.high)}")
