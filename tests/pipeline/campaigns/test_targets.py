"""Target lists: who is on one and why, worked by hand; versions; and what is refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from pipeline.campaigns.targets import make_list
from pipeline.campaigns.targets_table import print_list
from pipeline.config.settings import load
from pipeline.errors import FunnelError
from pipeline.warehouse.warehouse import Warehouse
from tests.support.campaigns import (
    CAMPAIGN,
    CAP_AND_QUIET,
    MONITORED,
    D,
    campaign,
    make_exposure,
    make_night,
    read_reasons,
)
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import call_before_connecting, publish, publish_scores, record

D2 = D + timedelta(days=1)
ONE_HOUR = timedelta(hours=1)


def test_every_known_user_has_one_row_with_the_first_reason_that_applies(
    make_company: Callable[..., Company], capsys: pytest.CaptureFixture[str]
) -> None:
    # In New York the message of 10:00 in Shanghai comes at 21:00 the evening before.
    new_york = {"time_zone": "America/New_York"}
    users = [
        {"user_id": "withdrawn", "consent": False},
        {"user_id": "withdrawn, completed, capped, asleep", "consent": False} | new_york,
        {"user_id": "completed", "consent": True},
        {"user_id": "without a score", "consent": True},
        {"user_id": "capped"},
        {"user_id": "capped and asleep"} | new_york,
        {"user_id": "once texted"},
        {"user_id": "asleep"} | new_york,
        {"user_id": "asleep and in a low band"} | new_york,
        {"user_id": "low band"},
        {"user_id": "not worth it"},
        {"user_id": "best"},
        {"user_id": "second"},
        {"user_id": "third"},
    ]
    scores = {
        "not worth it": 0.01,
        "low band": 0.001,
        "asleep and in a low band": 0.0011,
        "once texted": 0.9,
        "best": 0.8,
        "second": 0.5,
        "third": 0.3,
        "in no profile": 0.9,
    }
    scores |= {user["user_id"]: 0.95 for user in users if user["user_id"] not in {*scores, "without a score"}}
    text = CAP_AND_QUIET + campaign(more="size = 3\nmin_band = { register = 2 }", sms_cost=0.5)
    company = make_night(make_company, scores, text, users=users)
    completions = ("completed", "withdrawn, completed, capped, asleep", "completed, in no profile")
    publish(
        company,
        "activity",
        D,
        [{"user_id": user, "event": "complete", "event_date": D, "n": 1} for user in completions],
    )
    often = ("capped", "capped and asleep", "withdrawn, completed, capped, asleep")
    publish(
        company,
        "events",
        D,
        [
            *(make_exposure(user, "2026-03-01T12:00:00+08:00", number=n) for user in often for n in range(2)),
            make_exposure("once texted", "2026-03-01T12:00:00+08:00"),
        ],
    )
    targets = make_list(company.context(), D, "spring")
    assert read_reasons(company) == {
        "withdrawn": ("suppressed", "consent_withdrawn"),
        "withdrawn, completed, capped, asleep": ("suppressed", "consent_withdrawn"),
        "completed": ("suppressed", "already_completed"),
        "without a score": ("suppressed", "not_scored"),
        "capped": ("suppressed", "frequency_cap"),
        "capped and asleep": ("suppressed", "frequency_cap"),
        "asleep": ("suppressed", "quiet_hours"),
        "asleep and in a low band": ("suppressed", "quiet_hours"),
        "low band": ("suppressed", "below_min_band"),
        "not worth it": ("suppressed", "not_worth_it"),
        "once texted": ("target", "selected"),
        "best": ("target", "selected"),
        "second": ("target", "selected"),
        "third": ("suppressed", "beyond_size"),
    }
    rows = {row["user_id"]: row for row in company.rows("targets")}
    best = rows["best"]
    assert best["expected_value"] == pytest.approx(100 * 0.2 + 0.8 - 0.5)
    assert (best["rank"], best["goal"], best["p_goal"], best["send_on"]) == (2, "complete", 0.2, D2)
    assert (best["sms_cost"], best["model_version"], best["version"]) == (0.5, "model-1", 1)
    assert [rows[user]["rank"] for user in ("once texted", "second", "third", "low band")] == [1, 3, 4, None]
    assert rows["without a score"]["expected_value"] is None
    assert targets.users["target", "selected"] == 3
    assert targets.expected_outcomes == pytest.approx((0.9 + 0.8 + 0.5) / 4)
    assert (str(targets.cost), targets.expected_value) == ("1.5", pytest.approx((0.9 + 0.8 + 0.5) * 26 - 1.5))
    print_list(targets)
    said = capsys.readouterr().out
    for piece in ("spring, to be sent on 2026-03-02: version 1", "3 messages: 0.6 complete expected, cost 1.50"):
        assert piece in said
    (run,) = (row for row in company.rows("runs") if row["stage"] == "targets")
    assert (run["stage"], run["status"], run["rows_in"], run["rows_out"]) == ("targets", "ok", 14, 14)
    assert {"user_scores", "users", "activity", "events"} <= dict(run["inputs"]).keys()


def test_the_cap_counts_the_user_s_own_calendar_days(make_company: Callable[..., Company]) -> None:
    # 10:00 in Shanghai on 2 March is 18:00 on 1 March in Los Angeles: of three days the first is 27 February there.
    text = '[targeting]\nfrequency_cap = { messages = 1, days = 3 }\nsend_at = "10:00"\n' + campaign()
    moments = {
        "on the first day": "2026-02-27T00:00:00-08:00",
        "before it": "2026-02-26T23:59:59-08:00",
        "in the funnel's days": "2026-02-28T00:00:00+08:00",
        "before those": "2026-02-27T23:59:59+08:00",
    }
    users = [
        {"user_id": user, "time_zone": "America/Los_Angeles" if moments[user].endswith("-08:00") else None}
        for user in moments
    ]
    company = make_night(make_company, dict.fromkeys(moments, 0.5), text, users=users)
    # The second of them lands two days late.
    for day, at in ((D - timedelta(days=2), "before"), (D - timedelta(days=1), "on"), (D, "in")):
        publish(company, "events", day, [make_exposure(user, moments[user]) for user in moments if user.startswith(at)])
    make_list(company.context(), D, "spring")
    assert {user: reason for user, (_, reason) in read_reasons(company).items()} == {
        "on the first day": "frequency_cap",
        "before it": "selected",
        "in the funnel's days": "frequency_cap",
        "before those": "selected",
    }


def test_what_lands_after_the_night_does_not_count(make_company: Callable[..., Company]) -> None:
    text = "[targeting]\nfrequency_cap = { messages = 1, days = 3 }\n" + campaign()
    company = make_night(make_company, {"ann": 0.5, "bob": 0.5}, text)
    publish(company, "events", D2, [make_exposure("ann", "2026-03-01T12:00:00+08:00")])
    publish(company, "users", D2, [{"user_id": "ann", "consent": False}, {"user_id": "eve", "consent": True}])
    make_list(company.context(), D, "spring")
    assert read_reasons(company) == dict.fromkeys(("ann", "bob"), ("target", "selected"))


def test_an_exported_list_of_another_campaign_for_the_same_day_counts(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    text = (
        "[targeting]\nfrequency_cap = { messages = 1, days = 1 }\n" + campaign() + campaign("summer", more="size = 1")
    )
    company = make_night(make_company, {"ann": 0.5, "bob": 0.4}, text)
    make_list(company.context(), D, "summer")
    make_list(company.context(), D, "spring")
    assert set(read_reasons(company).values()) == {("target", "selected")}, "a list that did not go out texts nobody"
    assert funnel("export", "--ds", D, "--campaign", "summer", "-c", company.config).code == 0
    assert make_list(company.context(), D, "spring").version == 2
    assert read_reasons(company, 2) == {"ann": ("suppressed", "frequency_cap"), "bob": ("target", "selected")}
    assert funnel("export", "--ds", D, "--campaign", "spring", "-c", company.config).code == 0
    assert make_list(company.context(), D, "spring").version == 2, (
        "a campaign's own list is the message that is planned"
    )


def test_the_same_inputs_give_the_same_list_and_no_new_version(make_company: Callable[..., Company]) -> None:
    company = make_night(make_company, {f"u{n}": 0.5 for n in range(50)}, campaign(more="size = 20"))
    assert make_list(company.context(), D, "spring").is_new
    first = company.rows("targets")
    again = make_list(company.context(), D, "spring")
    assert (again.version, again.is_new) == (1, False)
    assert company.rows("targets") == first
    smaller = make_list(company.context(), D, "spring", size=10)
    assert (smaller.version, smaller.is_new) == (2, True)
    assert [row for row in company.rows("targets") if row["version"] == 1] == first
    back = make_list(company.context(), D, "spring")
    assert (back.version, back.is_new) == (3, True), "the newest version is what counts"
    without = ("version", "run_id", "made_at")
    rows = company.rows("targets", without=without)
    assert len(rows) == 150
    third = [row for row in company.rows("targets") if row["version"] == 3]
    assert [{k: v for k, v in row.items() if k not in without} for row in sorted(third, key=lambda r: r["rank"])] == [
        {k: v for k, v in row.items() if k not in without} for row in sorted(first, key=lambda r: r["rank"])
    ]


def test_a_list_records_the_scores_it_was_made_from(
    make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch
) -> None:
    company = make_night(make_company, {"ann": 0.5}, campaign())
    call_before_connecting(monkeypatch, lambda: publish_scores(company, D, {"ann": 0.4}))
    make_list(company.context(), D, "spring")
    (target,) = company.rows("targets")
    (run,) = (row for row in company.rows("runs") if row["stage"] == "targets")
    assert target["expected_value"] == pytest.approx(100 * 0.4 / 4 + 0.4 - 1), "made from the newer scores"
    assert dict(run["inputs"])["user_scores"] == company.context().warehouse.pin("user_scores").snapshot_id


@pytest.mark.parametrize(("sizes", "versions"), [((20, 30), 2), ((20, 20), 1)])
def test_concurrent_runs_make_no_version_twice(
    make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int], versions: int
) -> None:
    company = make_night(make_company, {f"u{n}": 0.5 for n in range(50)}, campaign())
    append = Warehouse.append_to
    others = [sizes[1]]

    def while_another_commits(self: Warehouse, *arguments: Any, **options: Any) -> bool:
        if others:
            make_list(company.context(run_id="another"), D, "spring", size=others.pop())
        return append(self, *arguments, **options)

    monkeypatch.setattr(Warehouse, "append_to", while_another_commits)
    targets = make_list(company.context(run_id="one"), D, "spring", size=sizes[0])
    assert (targets.version, targets.is_new) == (versions, versions == 2)
    rows = company.rows("targets")
    assert len({(row["version"], row["user_id"]) for row in rows}) == len(rows) == 50 * versions
    assert len({(row["version"], row["run_id"]) for row in rows}) == versions


def test_lists_of_two_campaigns_made_concurrently_lose_nothing(make_company: Callable[..., Company]) -> None:
    names = ("spring", "summer")
    company = make_night(make_company, {f"u{n}": 0.5 for n in range(50)}, "".join(map(campaign, names)))
    make_list(company.context(), D, "spring", size=3)
    contexts = [company.context() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: make_list(contexts[n], D, names[n % 2], size=10 + n), range(4)))
    assert sorted((each.campaign, each.version) for each in done) == [
        ("spring", 2),
        ("spring", 3),
        ("summer", 1),
        ("summer", 2),
    ]
    assert len(company.rows("targets")) == 5 * 50


def test_a_night_that_monitoring_stopped(make_company: Callable[..., Company], funnel: Callable[..., Ended]) -> None:
    company = make_night(make_company, {"ann": 0.5}, campaign())
    record(company, D, "monitor", MONITORED + ONE_HOUR, status="failed", message="score_psi 0.9 past 0.5")
    options = ("targets", "--ds", D, "--campaign", "spring", "-c", company.config)
    assert funnel(*options).complaint == (
        "monitoring stopped the night 2026-03-01: score_psi 0.9 past 0.5; --despite-monitor makes the list anyway"
    )
    assert not company.rows("targets")
    assert funnel(*options, "--despite-monitor").code == 0
    record(company, D, "monitor", MONITORED + 2 * ONE_HOUR)
    assert funnel(*options).code == 0


def test_a_night_that_monitoring_has_not_checked_since_it_was_scored(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    company = make_company(campaign())
    options = ("targets", "--ds", D, "--campaign", "spring", "-c", company.config)
    publish(company, "users", D, [{"user_id": "ann"}])
    publish_scores(company, D, {"ann": 0.5})
    missing = "monitoring has not checked the night 2026-03-01: run `funnel monitor --ds 2026-03-01` first"
    assert funnel(*options).complaint.startswith(missing)
    record(company, D2, "monitor", MONITORED)
    assert funnel(*options).complaint.startswith(missing), "another night's does not count"
    other_scores = "monitoring last checked the night 2026-03-01 when it had other scores: run `funnel monitor"
    # Before the scores were made; and after, but of others that a rollback has withdrawn since.
    record(company, D, "monitor", MONITORED - ONE_HOUR)
    assert funnel(*options).complaint.startswith(other_scores)
    record(company, D, "publish", MONITORED, run_id="another night")
    record(company, D, "monitor", MONITORED + ONE_HOUR)
    assert funnel(*options).complaint.startswith(other_scores)
    assert not company.rows("targets")
    record(company, D, "publish", MONITORED + 2 * ONE_HOUR)
    record(company, D, "monitor", MONITORED + 3 * ONE_HOUR)
    assert funnel(*options).code == 0


def test_a_list_older_than_the_newest_landing_warns(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    company = make_night(make_company, {"ann": 0.5}, campaign())
    options = ("targets", "--ds", D, "--campaign", "spring", "-c", company.config)
    assert "warning" not in funnel(*options).out
    publish(company, "users", D2, [{"user_id": "eve", "consent": True}])
    line = "the list is of 2026-03-01, and data has landed until 2026-03-02"
    assert f"warning: targets 2026-03-01: {line}" in funnel(*options).out
    assert [line in row["warnings"] for row in company.rows("runs") if row["stage"] == "targets"].count(True) == 1


MISTAKES: dict[str, tuple[tuple[object, ...], str]] = {
    "no such campaign": (
        ("--ds", D, "--campaign", "sprin"),
        "no campaign 'sprin'; did you mean 'spring'? the configuration has spring, summer",
    ),
    "no scores": (
        ("--ds", D2, "--campaign", "spring"),
        "no scores of 2026-03-02, the newest night is 2026-03-01: run `funnel nightly --ds 2026-03-02` first",
    ),
    "no budget": (
        ("--ds", D, "--campaign", "spring", "--budget", "0"),
        "--budget: got 0.0, takes a number above zero",
    ),
    "a budget that is no number": (
        ("--ds", D, "--campaign", "spring", "--budget", "nan"),
        "--budget: got nan, takes a number above zero",
    ),
    "less than a message costs": (
        ("--ds", D, "--campaign", "spring", "--budget", "0.9"),
        "--budget: got 0.9, takes at least the cost of one SMS, 1.0",
    ),
    "no size": (
        ("--ds", D, "--campaign", "spring", "--size", "-1"),
        "--size: got -1, takes a number above zero",
    ),
    "two limits": (
        ("--ds", D, "--campaign", "spring", "--size", "1", "--budget", "1"),
        "--size and --budget: name one of them",
    ),
    "nobody left": (
        ("--ds", D, "--campaign", "summer"),
        "campaign 'summer' has nobody to text after 2026-03-01: 1 consent_withdrawn, 2 not_worth_it",
    ),
}


@pytest.fixture(scope="module")
def settled(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A company with three users and two campaigns, one of which is not worth any message."""
    company = Company.make(tmp_path_factory.mktemp("company"), campaign() + campaign("summer", sms_cost=1000))
    publish(company, "users", D, [{"user_id": "ann"}, {"user_id": "bob"}, {"user_id": "cat", "consent": False}])
    publish_scores(company, D, {"ann": 0.5, "bob": 0.4})
    record(company, D, "monitor", MONITORED)
    return company


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    settled: Company, funnel: Callable[..., Ended], mistake: str
) -> None:
    arguments, line = MISTAKES[mistake]
    assert funnel("targets", *arguments, "-c", settled.config).complaint == line
    assert not settled.rows("targets") and [row["stage"] for row in settled.rows("runs")] == ["monitor"]


def test_a_company_without_campaigns_or_zones(make_company: Callable[..., Company]) -> None:
    company = make_company()
    publish_scores(company, D, {"ann": 0.5})
    with pytest.raises(FunnelError, match=r"no campaign 'spring': the configuration has none"):
        make_list(company.context(), D, "spring")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (CAMPAIGN.format(name="x", sms_cost=-1, control_share=0, more=""), ("campaigns.x.sms_cost", "got -1")),
        (campaign("x", control_share=1.0), ("campaigns.x.control_share", "got 1.0", "less than 1")),
        (campaign("x", more="size = 1\nbudget = 2"), ("campaigns.x", "size and budget: name one of them")),
        (campaign("x", more="budget = 0"), ("campaigns.x.budget", "got 0", "greater than 0")),
        (campaign("x", more="min_band = { click = 11 }"), ("campaigns.x.min_band.click", "got 11")),
        (
            campaign("x", more="min_band = { clicks = 1 }"),
            ("campaigns.x.min_band", "'clicks' is not one of the stages"),
        ),
        (campaign("x", more='goal = "sale"'), ("campaigns.x.goal", "got 'sale'", "click, register, complete")),
        ('[targeting]\nquiet_hours = ["21:00", "21:00"]', ("targeting.quiet_hours", "two times of day that differ")),
        ('[targeting]\nquiet_hours = ["21:00", "8:00"]', ("targeting.quiet_hours[1]", "got '8:00'", "time of day")),
        ("[targeting]\nfrequency_cap = { messages = 0, days = 3 }", ("targeting.frequency_cap.messages", "got 0")),
    ],
)
def test_a_mistake_in_the_configuration(
    make_company: Callable[..., Company], text: str, pieces: tuple[str, ...]
) -> None:
    company = make_company(text)
    with pytest.raises(FunnelError) as raised:
        load(company.config)
    for piece in pieces:
        assert piece in str(raised.value)
