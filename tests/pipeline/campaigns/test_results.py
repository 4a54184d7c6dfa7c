"""A campaign's results, through the warehouse and the command line, checked against numbers worked out by hand."""

import csv
import io
import math
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from pipeline.analyst.connection import connect
from pipeline.campaigns.results import CampaignResults, measure_campaign, measure_recent
from pipeline.errors import FunnelError
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish, record

D = date(2026, 3, 1)
SEND = D + timedelta(days=1)
SPRING = """
[campaigns.spring]
worth = { register = 2.0, complete = 40.0 }
sms_cost = 0.05
"""
GROUPS = (("target", 10, 200, 40), ("target", 9, 200, 10), ("control", 10, 120, 8), ("control", 9, 120, 4))
"""Arm, band, users, and those of them who complete: 12.5% of targets, 5% of control."""
HOLDOUT = ("holdout", 10, 40, 1)


def users_of(groups: Iterable[tuple[str, int, int, int]]) -> list[tuple[str, str, int, bool]]:
    """User, arm, band and whether they complete."""
    return [
        (f"{arm}-{band}-{n}", arm, band, n < outcomes) for arm, band, users, outcomes in groups for n in range(users)
    ]


def make_list(
    company: Company,
    groups: Iterable[tuple[str, int, int, int]] = GROUPS,
    *,
    ds: date = D,
    campaign: str = "spring",
    versions: Iterable[int] = (1,),
) -> None:
    """A night's list in these versions, ranked by band, and a suppressed user who plays no part in the results."""
    ranked = sorted(users_of(groups), key=lambda user: (-user[2], user[0][::-1]))
    rows = [
        {"user_id": user, "arm": arm, "band_goal": band, "rank": rank}
        for rank, (user, arm, band, _) in enumerate(ranked, start=1)
    ]
    rows.append({"user_id": "no consent", "arm": "suppressed", "band_goal": 10, "rank": None})
    shared = {"campaign_id": campaign, "goal": "complete", "send_on": ds + timedelta(days=1), "sms_cost": 0.05}
    publish(company, "targets", ds, [row | shared | {"version": version} for version in versions for row in rows])


def land(company: Company, last: date, events: Iterable[tuple[str, str, date]]) -> None:
    """Activity of user, event and date, all landed on one day."""
    publish(
        company,
        "activity",
        last,
        [{"user_id": user, "event": event, "event_date": day, "n": 1} for user, event, day in events],
    )


def as_planned(groups: Iterable[tuple[str, int, int, int]] = GROUPS) -> list[tuple[str, str, date]]:
    """Every target is texted when planned; who completes does so on the last day that counts."""
    users = users_of(groups)
    return [
        *((user, "exposure", SEND) for user, arm, _, _ in users if arm == "target"),
        *((user, "complete", SEND + timedelta(days=14)) for user, _, _, completes in users if completes),
    ]


@pytest.fixture
def spring(make_company: Callable[..., Company]) -> Company:
    """A campaign with one list whose outcomes are all known."""
    company = make_company(SPRING)
    make_list(company, (*GROUPS, HOLDOUT))
    land(company, SEND + timedelta(days=14), as_planned((*GROUPS, HOLDOUT)))
    return company


def wilson(outcomes: int, users: int) -> tuple[float, float]:
    """Wilson's interval by its formula."""
    z, p = 1.959963984540054, outcomes / users
    middle, half = p + z * z / (2 * users), z * math.sqrt(p * (1 - p) / users + z * z / (4 * users**2))
    return (middle - half) / (1 + z * z / users), (middle + half) / (1 + z * z / users)


def newcombe(treated: tuple[int, int], control: tuple[int, int]) -> tuple[float, float, float]:
    """Difference of rates and its interval by Newcombe's formula."""
    (p, (p_low, p_high)), (q, (q_low, q_high)) = ((x / n, wilson(x, n)) for x, n in (treated, control))
    low = p - q - math.hypot(p - p_low, q_high - q)
    return p - q, low, p - q + math.hypot(p_high - p, q - q_low)


def test_a_list_worked_out_by_hand(spring: Company) -> None:
    found = measure_campaign(spring.settings, "spring")
    assert (found.ds, found.version, found.send_on, found.goal) == (D, 1, SEND, "complete")
    assert found.users == {"target": 400, "control": 240, "holdout": 40}
    assert [stage.stage for stage in found.stages] == ["click", "register", "complete"]
    goal = found.goal_results
    assert goal is not None and goal.caused and goal.cost_per_caused and goal.overall.uplift and goal.programme
    value, low, high = newcombe((50, 400), (12, 240))
    assert value == pytest.approx(0.075)
    uplift = goal.overall.uplift.difference
    assert (uplift.value, uplift.low, uplift.high) == pytest.approx((value, low, high))
    assert (goal.caused.value, goal.caused.low, goal.caused.high) == pytest.approx((30, 400 * low, 400 * high))
    assert found.cost == pytest.approx(20)
    assert goal.cost_per_outcome == pytest.approx(20 / 50)
    per_caused = goal.cost_per_caused
    assert (per_caused.value, per_caused.low, per_caused.high) == pytest.approx(
        (20 / 30, 20 / (400 * high), 20 / (400 * low))
    )
    # Chi-squared of 50 of 400 against 12 of 240: 640 (50 x 228 - 350 x 12)^2 / (62 x 578 x 400 x 240) = 9.64.
    assert goal.overall.uplift.p_value == pytest.approx(math.erfc(math.sqrt(640 * 7200**2 / (62 * 578 * 96000) / 2)))
    programme = goal.programme.difference
    assert (programme.value, programme.low, programme.high) == pytest.approx(newcombe((62, 640), (1, 40)))


def test_bands_are_measured_separately_best_first(spring: Company) -> None:
    goal = measure_campaign(spring.settings, "spring").goal_results
    assert goal is not None
    ten, nine = goal.bands
    assert (ten.band, nine.band) == (10, 9)
    assert (ten.target.users, ten.target.outcomes, ten.control.users, ten.control.outcomes) == (200, 40, 120, 8)
    assert (ten.holdout.users, nine.holdout.users) == (40, 0)
    assert ten.uplift and nine.uplift
    assert (ten.uplift.difference.value, ten.uplift.difference.low, ten.uplift.difference.high) == pytest.approx(
        newcombe((40, 200), (8, 120))
    )
    assert nine.uplift.difference.value == pytest.approx(10 / 200 - 4 / 120)


def test_the_return_is_the_worth_caused_minus_the_cost(spring: Company) -> None:
    profit = measure_campaign(spring.settings, "spring").profit
    assert profit is not None
    # Welch: each user is worth 40 or nothing.
    spread = 40 * math.sqrt((0.125 * 0.875) / 399 + (0.05 * 0.95) / 239)
    assert profit.value == pytest.approx(400 * 40 * 0.075 - 20)
    # With about 630 degrees of freedom t is 1.9637.
    assert profit.high - profit.value == pytest.approx(400 * 1.9637 * spread, rel=1e-4)
    assert profit.value - profit.low == pytest.approx(profit.high - profit.value)


def test_an_outcome_counts_from_the_day_of_sending_to_the_end_of_its_window(company: Company) -> None:
    cases = [
        ("complete", SEND - timedelta(days=1), 0),
        ("complete", SEND, 1),
        ("complete", SEND + timedelta(days=14), 1),
        ("complete", SEND + timedelta(days=15), 0),
        ("register", SEND + timedelta(days=7), 1),
        ("register", SEND + timedelta(days=8), 0),
    ]
    make_list(company, [("target", 10, len(cases), 0), ("control", 10, len(cases), 0)])
    events = [(event, day) for event, day, _ in cases]
    land(
        company,
        SEND + timedelta(days=20),
        [(f"{arm}-10-{n}", event, day) for arm in ("target", "control") for n, (event, day) in enumerate(events)],
    )
    rows = connect(company.settings).sql("FROM campaign_outcomes").df().set_index("user_id")
    for n, (event, _, counts) in enumerate(cases):
        for arm in ("target", "control"):
            found = {
                stage: rows.loc[f"{arm}-10-{n}", f"outcome_{stage}"] for stage in ("click", "register", "complete")
            }
            assert found == {"click": 0, "register": 0, "complete": 0, event: counts}


def test_users_texted_or_not_against_the_list_stay_in_their_arm_and_are_reported(company: Company) -> None:
    make_list(company)
    texted_too = [("control-10-0", "exposure", SEND + timedelta(days=3)), ("control-9-0", "exposure", D)]
    planned = [event for event in as_planned() if event != ("target-9-199", "exposure", SEND)]
    land(company, SEND + timedelta(days=14), [*planned, *texted_too])
    found = measure_campaign(company.settings, "spring")
    assert found.users["control"] == 240 and found.goal_results and found.goal_results.overall.control.outcomes == 12
    assert (found.texted_share("target"), found.texted_share("control")) == (399 / 400, 1 / 240)
    assert "1 of 240 control users (0.4%) were contacted anyway" in found.warnings
    assert "1 of 400 targets (0.2%) were never contacted" in found.warnings


def test_targets_left_out_of_the_export_count_in_their_arm_and_cost_nothing(company: Company) -> None:
    make_list(company)
    out = {f"target-9-{n}" for n in range(180, 200)}
    land(
        company,
        SEND + timedelta(days=14),
        [each for each in as_planned() if each[:2] not in {(u, "exposure") for u in out}],
    )
    at = datetime(2026, 3, 2, tzinfo=UTC)
    files = [
        (D, 15, 1),
        (D, 18, 2),
        # Once messages have gone out, some complete because of them: this file tells nothing of who was texted.
        (SEND, 18, 60),
    ]
    rows = [
        {"withdrawn": withdrawn, "completed": completed, "landed_until": until, "exported_at": at + timedelta(hours=n)}
        for n, (until, withdrawn, completed) in enumerate(files)
    ]
    publish(company, "exports", D, [row | {"campaign_id": "spring", "version": 1} for row in rows])
    found = measure_campaign(company.settings, "spring")
    goal = found.goal_results
    assert goal and goal.overall.uplift and (found.left_out, found.cost) == (20, pytest.approx(380 * 0.05))
    # Control users who withdrew or completed meanwhile stay in their arm, too.
    assert goal.overall.uplift.difference.value == pytest.approx(newcombe((50, 400), (12, 240))[0])
    assert any(
        line.startswith("20 of 400 targets (5.0%) were never contacted, 20 of them because") for line in found.warnings
    )


def test_only_a_late_export_counts_if_there_is_no_other(company: Company) -> None:
    make_list(company)
    land(company, SEND + timedelta(days=14), as_planned())
    late = {"campaign_id": "spring", "version": 1, "withdrawn": 3, "completed": 1, "landed_until": SEND}
    publish(company, "exports", D, [late | {"exported_at": datetime(2026, 3, 4, tzinfo=UTC)}])
    assert measure_campaign(company.settings, "spring").left_out == 4


def test_the_exported_version_is_measured(company: Company) -> None:
    make_list(company, versions=(1, 2, 3))
    land(company, SEND + timedelta(days=14), as_planned())
    assert measure_campaign(company.settings, "spring").version == 3
    publish(company, "exports", D, [{"campaign_id": "spring", "version": version} for version in (1, 2)])
    assert measure_campaign(company.settings, "spring").version == 2
    assert measure_campaign(company.settings, "spring", version=3).version == 3
    assert [each.version for each in measure_recent(company.settings, SEND + timedelta(days=14), 5)] == [2]


def test_the_newest_mature_list_is_taken_unless_another_is_named(company: Company) -> None:
    lists = {}
    for weeks in range(3):
        day = D + timedelta(weeks=weeks)
        make_list(company, ds=day)
        lists[day] = day
    land(company, SEND + timedelta(days=14 + 7), as_planned())
    first, second, third = lists
    assert measure_campaign(company.settings, "spring").ds == second
    assert measure_campaign(company.settings, "spring", first).goal_results is not None
    early = measure_campaign(company.settings, "spring", third)
    assert [stage.stage for stage in early.stages] == ["click", "register"]
    assert early.goal_results is None and early.qini is None and early.profit is None
    assert "complete is not mature until 2026-03-30" in early.warnings
    assert [each.ds for each in measure_recent(company.settings, date(2026, 3, 23), 5)] == [second, first]
    assert [each.ds for each in measure_recent(company.settings, date(2026, 3, 23), 1)] == [second]
    # A report of an earlier night shows what had matured by then.
    assert [each.ds for each in measure_recent(company.settings, date(2026, 3, 22), 5)] == [first]
    assert measure_recent(company.settings, D, 5) == []


def test_the_views_agree_with_pandas(spring: Company) -> None:
    make_list(spring, GROUPS, ds=D + timedelta(days=10), campaign="autumn", versions=(1, 2))
    connection = connect(spring.settings)
    outcomes = connection.sql("FROM campaign_outcomes").df()
    assert len(outcomes) == 680 + 2 * 640
    assert set(outcomes["arm"]) == {"target", "control", "holdout"}
    # Autumn was sent on 12 March: by 16 March the 3 days of a click have passed, not the 7 of a registration.
    autumn = outcomes[outcomes["campaign_id"] == "autumn"]
    assert autumn["outcome_click"].notna().all() and autumn["outcome_register"].isna().all()
    assert (autumn["is_measured"] == (autumn["version"] == 2)).all()
    assert not autumn["mature_complete"].any()
    counted = connection.sql("FROM campaign_results").df()
    keys = ["ds", "campaign_id", "version", "arm"]
    for view, columns in (
        (counted[counted["band_goal"].isna()], keys),
        (counted[counted["band_goal"].notna()], [*keys, "band_goal"]),
    ):
        expected = outcomes.groupby(columns).agg(
            users=("user_id", "count"),
            texted=("texted", "sum"),
            mature_complete=("outcome_complete", "count"),
            outcomes_click=("outcome_click", "sum"),
            rate_complete=("outcome_complete", "mean"),
        )
        found = view.set_index(columns)[list(expected)].sort_index()
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_index_type=False)


def test_the_command_prints_every_result(spring: Company, funnel: Callable[..., Ended]) -> None:
    ended = funnel("results", "--campaign", "spring", "-c", spring.config)
    assert ended.code == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    _, low, high = newcombe((50, 400), (12, 240))
    assert "spring, list of 2026-03-01, version 1: sent on 2026-03-02" in lines
    assert "users: 400 target (100.0% texted), 240 control (0.0% texted), 40 holdout (0.0% texted); SMS cost 20.00" in (
        lines
    )
    (overall,) = [line for line in lines[lines.index("complete (goal)") :] if line.startswith("all ")]
    assert overall == (
        "all 50 of 400 12.50% (9.61 to 16.10) 12 of 240 5.00% (2.88 to 8.53) 1 of 40 2.50% (0.44 to 12.88) "
        f"+7.50 ({100 * low:+.2f} to {100 * high:+.2f}) 0.002"
    )
    assert f"caused by the messages: 30.0 ({400 * low:,.1f} to {400 * high:,.1f}) of the targets' 50 outcomes" in lines
    assert any(line.startswith("cost: 0.40 per outcome, ") for line in lines)
    assert any(line.startswith("return of all stages, net of the SMS cost: 1,180.00 (") for line in lines)
    assert any(line.startswith("100% 30.0 30.0 ") for line in lines)


def test_the_command_as_csv(spring: Company, funnel: Callable[..., Ended]) -> None:
    ended = funnel("results", "--campaign", "spring", "--ds", D, "--format", "csv", "-c", spring.config)
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert [(row["stage"], row["band"]) for row in rows[-3:]] == [(("complete"), band) for band in ("10", "9", "all")]
    assert len(rows) == 9
    last = rows[-1]
    assert (last["target_users"], last["target_outcomes"], last["control_outcomes"]) == ("400", "50", "12")
    assert float(last["uplift"]) == pytest.approx(0.075)
    assert float(last["caused"]) == pytest.approx(30)
    assert rows[-2]["caused"] == ""


def test_the_qini_curve_as_a_picture(spring: Company, funnel: Callable[..., Ended], tmp_path: Path) -> None:
    ended = funnel("results", "--campaign", "spring", "--plot", tmp_path / "qini.svg", "-c", spring.config)
    assert ended.code == 0 and f"the Qini curve is in {tmp_path / 'qini.svg'}" in ended.err
    svg = (tmp_path / "qini.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "outcomes caused" in svg
    complaint = funnel("results", "--campaign", "spring", "--plot", tmp_path, "-c", spring.config).complaint
    assert complaint == f"--plot {tmp_path}: the file cannot be written: Is a directory"


def complaint_of(company: Company, campaign: str = "spring", **options: object) -> str:
    with pytest.raises(FunnelError) as raised:
        measure_campaign(company.settings, campaign, **options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_an_unknown_campaign_is_refused_naming_those_with_lists(spring: Company, funnel: Callable[..., Ended]) -> None:
    assert funnel("results", "--campaign", "sprang", "-c", spring.config).complaint == (
        "no list of campaign 'sprang': lists exist for spring; `funnel targets` makes one"
    )


def test_no_campaign_has_a_list(company: Company) -> None:
    assert complaint_of(company) == (
        "no list of campaign 'spring': no campaign has one yet; `funnel targets` makes one"
    )
    assert measure_recent(company.settings, D, 3) == []


def test_no_list_of_that_night_or_version(spring: Company) -> None:
    assert complaint_of(spring, ds=SEND) == (
        "no list of campaign 'spring' for 2026-03-02; the newest are for 2026-03-01"
    )
    assert (
        complaint_of(spring, ds=D, version=4) == "no version 4 of campaign 'spring' for 2026-03-01; its versions are 1"
    )


def test_a_list_that_is_not_mature_says_when_it_will_be(company: Company) -> None:
    make_list(company)
    land(company, SEND + timedelta(days=2), as_planned())
    assert complaint_of(company, ds=D) == (
        "the list of 'spring' for 2026-03-01 is not mature yet: "
        "it matures for click on 2026-03-05, register on 2026-03-09, complete on 2026-03-16"
    )
    land(company, SEND + timedelta(days=3), [("somebody", "exposure", SEND)])
    assert complaint_of(company) == (
        "the list of 'spring' for 2026-03-01 is not mature yet: "
        "it matures for register on 2026-03-09, complete on 2026-03-16; --ds 2026-03-01 shows the mature stages"
    )
    assert [stage.stage for stage in measure_campaign(company.settings, "spring", D).stages] == ["click"]


def test_a_quiet_day_makes_a_list_mature_too(company: Company) -> None:
    make_list(company)
    quiet, at = SEND + timedelta(days=3), datetime(2026, 3, 6, tzinfo=UTC)
    land(company, quiet - timedelta(days=1), as_planned())
    record(company, quiet, "activity", at, status="failed")
    assert "matures for click on 2026-03-05" in complaint_of(company, ds=D)
    record(company, quiet, "activity", at)
    assert [stage.stage for stage in measure_campaign(company.settings, "spring", D).stages] == ["click"]


def test_a_goal_that_is_no_longer_a_stage(spring: Company, make_company: Callable[..., Company]) -> None:
    renamed = make_company(replace={'name = "complete"': 'name = "approved"'})
    spring.config.write_text(renamed.config.read_text(encoding="utf-8"), encoding="utf-8")
    assert complaint_of(spring) == (
        "the list of 'spring' for 2026-03-01 was made for 'complete', which is no longer a stage of the configuration; "
        "its stages are click, register, approved"
    )
    assert measure_recent(spring.settings, SEND + timedelta(days=14), 5) == []


def test_nothing_has_landed_at_all(company: Company) -> None:
    make_list(company)
    assert "it matures for click on 2026-03-05" in complaint_of(company)


def results_of(company: Company, groups: Iterable[tuple[str, int, int, int]]) -> CampaignResults:
    groups = tuple(groups)
    make_list(company, groups)
    land(company, SEND + timedelta(days=14), as_planned(groups))
    return measure_campaign(company.settings, "spring")


def test_without_control_response_is_shown_and_no_uplift(company: Company, funnel: Callable[..., Ended]) -> None:
    found = results_of(company, GROUPS[:2])
    assert found.goal_results and found.goal_results.overall.target.outcomes == 50
    assert found.goal_results.overall.uplift is None and found.goal_results.caused is None and found.qini is None
    assert found.warnings == ("without a control group, what the messages caused is unknown",)
    ended = funnel("results", "--campaign", "spring", "-c", company.config)
    assert ended.code == 0
    assert "warning: without a control group, what the messages caused is unknown" in ended.out
    complaint = funnel("results", "--campaign", "spring", "--plot", "x.svg", "-c", company.config).complaint
    assert complaint == "--plot x.svg: no Qini curve without a control group and mature outcomes of complete"


def test_a_control_group_that_is_too_small_is_reported_with_the_size_it_takes(company: Company) -> None:
    (warning,) = results_of(company, [*GROUPS[:2], ("control", 10, 50, 5), ("control", 9, 14, 1)]).warnings
    assert warning == (
        "the control group of 64 is too small to show that the messages caused 50% of the outcomes: "
        "at a rate of 12.50% it takes 305"
    )


def test_too_few_outcomes_for_any_control_group(company: Company) -> None:
    (warning,) = results_of(company, [("target", 10, 100, 1), ("control", 10, 100, 1)]).warnings
    assert warning == (
        "too few outcomes (1 of 100 targets): no control group, however large, could show that the messages caused 50% "
        "of them"
    )


def test_without_a_clear_effect_there_is_no_cost_per_caused_outcome(company: Company) -> None:
    found = results_of(company, [("target", 10, 400, 20), ("control", 10, 400, 20)])
    assert found.goal_results and found.goal_results.caused
    assert found.goal_results.caused.value == 0 and not found.goal_results.caused.is_clear
    assert found.goal_results.cost_per_caused is None
    assert found.goal_results.cost_per_outcome == pytest.approx(1)
