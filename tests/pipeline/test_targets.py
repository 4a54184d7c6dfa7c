"""Target lists: who is on one and why, against rules worked by hand and written a second time in plain Python."""

import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from pipeline.analyst import connect
from pipeline.campaign_sections import Campaign, FrequencyCap, Targeting
from pipeline.config import load
from pipeline.control_group import controls_needed, power, smallest_uplift
from pipeline.errors import FunnelError
from pipeline.targeting_rules import Limit, Zone, limit_of, zones
from pipeline.targets import _create_known_users_and_zones, _create_list, make, show_list
from pipeline.warehouse import Warehouse
from tests.conftest import Company
from tests.pipeline.campaigns import CAMPAIGN, WITH_ZONES, D, campaign, night, reasons, texted
from tests.pipeline.conftest import Ended
from tests.pipeline.nights_by_hand import STAGES, publish, publish_scores, record

CAP_AND_QUIET = """
[targeting]
frequency_cap = { messages = 2, days = 3 }
quiet_hours = ["21:00", "08:00"]
"""
D2 = D + timedelta(days=1)


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
    company = night(make_company, scores, text, users=users)
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
            *(texted(user, "2026-03-01T12:00:00+08:00", number=n) for user in often for n in range(2)),
            texted("once texted", "2026-03-01T12:00:00+08:00"),
        ],
    )
    made = make(company.context(), D, "spring")
    assert reasons(company) == {
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
    assert made.users["target", "selected"] == 3
    assert made.expected_outcomes == pytest.approx((0.9 + 0.8 + 0.5) / 4)
    assert (str(made.cost), made.expected_value) == ("1.5", pytest.approx((0.9 + 0.8 + 0.5) * 26 - 1.5))
    show_list(made)
    said = capsys.readouterr().out
    for piece in ("spring, to be sent on 2026-03-02: version 1", "3 messages: 0.6 complete expected, cost 1.50"):
        assert piece in said
    (run,) = company.rows("runs")
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
    company = night(make_company, dict.fromkeys(moments, 0.5), text, users=users)
    # The second of them lands two days late.
    for day, at in ((D - timedelta(days=2), "before"), (D - timedelta(days=1), "on"), (D, "in")):
        publish(company, "events", day, [texted(user, moments[user]) for user in moments if user.startswith(at)])
    make(company.context(), D, "spring")
    assert {user: reason for user, (_, reason) in reasons(company).items()} == {
        "on the first day": "frequency_cap",
        "before it": "selected",
        "in the funnel's days": "frequency_cap",
        "before those": "selected",
    }


def test_what_lands_after_the_night_does_not_count(make_company: Callable[..., Company]) -> None:
    text = "[targeting]\nfrequency_cap = { messages = 1, days = 3 }\n" + campaign()
    company = night(make_company, {"ann": 0.5, "bob": 0.5}, text)
    publish(company, "events", D2, [texted("ann", "2026-03-01T12:00:00+08:00")])
    publish(company, "users", D2, [{"user_id": "ann", "consent": False}, {"user_id": "eve", "consent": True}])
    make(company.context(), D, "spring")
    assert reasons(company) == dict.fromkeys(("ann", "bob"), ("target", "selected"))


def test_an_exported_list_of_another_campaign_for_the_same_day_counts(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    text = (
        "[targeting]\nfrequency_cap = { messages = 1, days = 1 }\n" + campaign() + campaign("summer", more="size = 1")
    )
    company = night(make_company, {"ann": 0.5, "bob": 0.4}, text)
    make(company.context(), D, "summer")
    make(company.context(), D, "spring")
    assert set(reasons(company).values()) == {("target", "selected")}, "a list that did not go out texts nobody"
    assert funnel("export", "--ds", D, "--campaign", "summer", "-c", company.config).code == 0
    assert make(company.context(), D, "spring").version == 2
    assert reasons(company, 2) == {"ann": ("suppressed", "frequency_cap"), "bob": ("target", "selected")}


def in_paris(send_on: date, *, quiet: tuple[str, str] | None = None) -> Zone:
    """What a message sent in Shanghai at 15:00 means in Paris."""
    cap = FrequencyCap(messages=1, days=1)
    targeting = Targeting(send_at="15:00", quiet_hours=quiet, frequency_cap=cap)
    (found,) = zones(["Europe/Paris"], targeting, send_on, ZoneInfo("Asia/Shanghai"))
    return found


@pytest.mark.parametrize(
    ("send_on", "is_quiet"),
    # 15:00 in Shanghai is 08:00 in Paris in winter; from 29 March 2026 it is 09:00.
    [(date(2026, 3, 28), True), (date(2026, 3, 29), False)],
)
def test_quiet_hours_follow_a_zone_s_clock_changes(send_on: date, is_quiet: bool) -> None:
    assert in_paris(send_on, quiet=("21:00", "08:30")).is_quiet is is_quiet


def test_a_day_of_the_cap_is_as_long_as_the_zone_makes_it() -> None:
    # 29 March 2026 has 23 hours in Paris.
    found = in_paris(date(2026, 3, 29))
    assert found.capped_from == datetime(2026, 3, 28, 23, tzinfo=UTC)
    assert found.capped_until == datetime(2026, 3, 29, 22, tzinfo=UTC)


def test_a_zone_that_is_none_is_the_funnel_s_and_is_told(make_company: Callable[..., Company]) -> None:
    users = [
        {"user_id": "ann", "time_zone": "Shanghai"},
        {"user_id": "bob", "time_zone": "America/New_York"},
        {"user_id": "cat", "time_zone": None},
    ]
    company = night(make_company, dict.fromkeys(("ann", "bob", "cat"), 0.5), CAP_AND_QUIET + campaign(), users=users)
    make(company.context(), D, "spring")
    assert [reasons(company)[user][1] for user in ("ann", "bob", "cat")] == ["selected", "quiet_hours", "selected"]
    warned = [line for line in company.lines if line.startswith("warning: ")]
    assert warned == [
        "warning: targets 2026-03-01: 1 users have a time_zone that is no IANA name, such as 'Shanghai': "
        "the funnel's, Asia/Shanghai, stands in for it"
    ]


def hashed(*parts: str) -> float:
    """The first 52 bits of a SHA-256 as a share of 1."""
    return int(hashlib.sha256("|".join(parts).encode()).hexdigest()[:13], 16) / 2**52


def test_holdout_and_control_are_drawn_by_hash_and_stay(make_company: Callable[..., Company]) -> None:
    groups = '[targeting]\nsalt = "s|1"\nholdout_share = 0.2\n'
    text = groups + "".join(
        campaign(name, control_share=0.3, more="measurable_uplift = 1") for name in ("spring", "summer")
    )
    some = {f"u{n}": 0.9 + n / 10_000 for n in range(300)}
    company = night(make_company, some, text)
    make(company.context(), D, "spring")
    make(company.context(), D, "summer")
    spring, summer = reasons(company), reasons(company, campaign="summer")
    for user in some:
        for name, found in (("spring", spring), ("summer", summer)):
            if hashed("s|1", user) < 0.2:
                assert found[user] == ("holdout", "holdout")
            elif hashed("s|1", name, user) < 0.3:
                assert found[user] == ("control", "control")
            else:
                assert found[user] == ("target", "selected")
    assert {user for user in some if spring[user][0] == "control"} != {
        user for user in some if summer[user][0] == "control"
    }
    publish(company, "users", D2, [{"user_id": f"v{n}"} for n in range(100)])
    publish_scores(company, D2, some | {f"v{n}": 0.95 for n in range(100)})
    make(company.context(), D2, "spring")
    later = {row["user_id"]: row["arm"] for row in company.rows("targets") if row["ds"] == D2}
    assert {user: later[user] for user in some} == {user: arm for user, (arm, _) in spring.items()}


USERS = tuple(f"u{n:02d}" for n in range(40))
ZONES = (None, "Asia/Shanghai", "Europe/Paris", "America/Los_Angeles", "Pacific/Kiritimati", "Mars/Olympus")


@st.composite
def companies(draw: st.DrawFn) -> dict[str, Any]:
    """Users with whatever can happen to them, and a campaign."""
    p = st.sampled_from([0.0, 0.001, 0.02, 0.2, 0.5])
    users = {
        user: {
            "consent": draw(st.sampled_from([None, True, True, True, False])),
            "time_zone": draw(st.sampled_from(ZONES)),
            "completed_on": draw(st.sampled_from([None, None, None, D - timedelta(days=9), D, D2])),
            "scores": draw(st.sampled_from([True, True, True, False]))
            and [(draw(p), draw(p), draw(st.integers(1, 10))) for _ in STAGES],
            "texted": draw(st.lists(st.integers(0, 24 * 5), max_size=3)),
        }
        for user in USERS
    }
    return {
        "users": users,
        "planned": draw(st.sets(st.sampled_from(USERS), max_size=8)),
        "cap": draw(st.none() | st.builds(FrequencyCap, messages=st.integers(1, 3), days=st.integers(1, 4))),
        "quiet": draw(st.sampled_from([None, ("21:00", "08:00"), ("00:00", "04:00")])),
        "send_at": draw(st.sampled_from(["00:30", "10:00", "23:00"])),
        "texts": draw(st.none() | st.integers(1, 25)),
        "min_band": draw(st.sampled_from([{}, {"click": 4}, {"register": 3, "complete": 6}])),
        "holdout_share": draw(st.sampled_from([0.0, 0.2])),
        "control_share": draw(st.sampled_from([0.0, 0.3])),
        "goal": draw(st.sampled_from(["register", None])),
    }


WORTH = {"register": 2.0, "click": 0.1, "complete": 7.0}
SENT = datetime(2026, 3, 2, tzinfo=ZoneInfo("Asia/Shanghai"))


def by_plain_rules(drawn: dict[str, Any]) -> dict[str, tuple[str, str, int | None]]:
    """Arm, reason and rank of every user, one rule after the other, a user at a time."""
    goal = STAGES.index(drawn["goal"] or STAGES[-1])
    found: dict[str, tuple[str, str, int | None]] = {}
    left = []
    for name, user in drawn["users"].items():
        known = user["time_zone"] if user["time_zone"] != "Mars/Olympus" else None
        zone = ZoneInfo(known or "Asia/Shanghai")
        sent = datetime.combine(SENT.date(), time.fromisoformat(drawn["send_at"]), SENT.tzinfo).astimezone(zone)
        days = [
            (sent.date() - (SENT - timedelta(hours=hours)).astimezone(zone).date()).days for hours in user["texted"]
        ]
        messages = sum(0 <= ago < drawn["cap"].days for ago in days) + (name in drawn["planned"]) if drawn["cap"] else 0
        clock = f"{sent:%H:%M}"
        first, until = drawn["quiet"] or ("00:00", "00:00")
        quiet = first <= clock < until if first <= until else clock >= first or clock < until
        value = (
            user["scores"]
            and sum((WORTH[stage] * p for stage, (p, _, _) in zip(STAGES, user["scores"], strict=True)), start=-0.0)
            - 0.05
        )
        if user["consent"] is False:
            reason = "consent_withdrawn"
        elif user["completed_on"] and user["completed_on"] <= D:
            reason = "already_completed"
        elif not user["scores"]:
            reason = "not_scored"
        elif drawn["cap"] and messages + 1 > drawn["cap"].messages:
            reason = "frequency_cap"
        elif quiet:
            reason = "quiet_hours"
        elif any(user["scores"][STAGES.index(stage)][2] < band for stage, band in drawn["min_band"].items()):
            reason = "below_min_band"
        elif value <= 0:
            reason = "not_worth_it"
        else:
            left.append((-value, -user["scores"][goal][1], name))
            continue
        found[name] = ("suppressed", reason, None)
    targets = 0
    for rank, (_, _, name) in enumerate(sorted(left), start=1):
        if drawn["texts"] is not None and targets == drawn["texts"]:
            found[name] = ("suppressed", "beyond_size", rank)
        elif hashed("salt", name) < drawn["holdout_share"]:
            found[name] = ("holdout", "holdout", rank)
        elif hashed("salt", "spring", name) < drawn["control_share"]:
            found[name] = ("control", "control", rank)
        else:
            found[name] = ("target", "selected", rank)
            targets += 1
    return found


def fill(connection: duckdb.DuckDBPyConnection, drawn: dict[str, Any]) -> None:
    """Put users and what happened to them into the tables, in place of what was there."""
    users = drawn["users"]
    scores = ", ".join(f"p_{stage}, raw_{stage}, band_{stage}" for stage in STAGES)
    rows: dict[str, list[tuple[Any, ...]]] = {
        "users (landed_on, user_id, consent, time_zone)": [
            (D, name, user["consent"], user["time_zone"]) for name, user in users.items()
        ],
        "activity (landed_on, user_id, event, event_date)": [
            (D, name, "complete", user["completed_on"]) for name, user in users.items() if user["completed_on"]
        ],
        "events (landed_on, event_id, user_id, event, event_time)": [
            (min(at.date(), D), f"{name}-{position}", name, "exposure", at)
            for name, user in users.items()
            for position, at in enumerate(SENT - timedelta(hours=hours) for hours in user["texted"])
        ],
        f"user_scores (ds, user_id, {scores})": [
            (D, name, *(value for of_stage in user["scores"] for value in of_stage))
            for name, user in users.items()
            if user["scores"]
        ],
        # Version 2 has not gone out.
        "targets (ds, campaign_id, version, user_id, arm)": [
            (D, "other", 1 if name in drawn["planned"] else 2, name, "target") for name in users
        ],
        "exports (ds, campaign_id, version)": [(D, "other", 1)],
    }
    for table, values in rows.items():
        connection.execute(f"DELETE FROM {table.split()[0]}")
        if values:
            places = f"({', '.join('?' * len(values[0]))})"
            connection.execute(
                f"INSERT INTO {table} VALUES {', '.join([places] * len(values))}",
                [value for row in values for value in row],
            )


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Company, duckdb.DuckDBPyConnection]]:
    """A company of which nothing is known yet, and its tables in DuckDB."""
    company = Company.make(tmp_path_factory.mktemp("company"), campaign(), replace=WITH_ZONES)
    with connect(company.settings) as connection:
        yield company, connection


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(companies())
def test_a_list_is_what_its_rules_say(empty: tuple[Company, duckdb.DuckDBPyConnection], drawn: dict[str, Any]) -> None:
    company, tables = empty
    options = Campaign(worth=WORTH, sms_cost=0.05, **{name: drawn[name] for name in ("control_share", "min_band")})
    options = options.model_copy(update={"goal": drawn["goal"]})
    targeting = Targeting(
        salt="salt",
        holdout_share=drawn["holdout_share"],
        frequency_cap=drawn["cap"],
        quiet_hours=drawn["quiet"],
        send_at=drawn["send_at"],
    )
    own = company.settings.model_copy(update={"targeting": targeting})
    connection = tables.cursor()
    for name in ("known_users", "zones", "decided"):
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    fill(connection, drawn)
    _create_known_users_and_zones(connection, own, D)
    _create_list(connection, own, D, "spring", options, Limit(drawn["texts"], "beyond_size"))
    found = connection.execute("SELECT user_id, arm, reason, rank FROM decided").fetchall()
    assert len(found) == len(USERS)
    assert {user: tuple(rest) for user, *rest in found} == by_plain_rules(drawn)


def test_the_same_inputs_give_the_same_list_and_no_new_version(make_company: Callable[..., Company]) -> None:
    company = night(make_company, {f"u{n}": 0.5 for n in range(50)}, campaign(more="size = 20"))
    assert make(company.context(), D, "spring").is_new
    first = company.rows("targets")
    again = make(company.context(), D, "spring")
    assert (again.version, again.is_new) == (1, False)
    assert company.rows("targets") == first
    smaller = make(company.context(), D, "spring", size=10)
    assert (smaller.version, smaller.is_new) == (2, True)
    assert [row for row in company.rows("targets") if row["version"] == 1] == first
    back = make(company.context(), D, "spring")
    assert (back.version, back.is_new) == (3, True), "the newest version is what counts"
    without = ("version", "run_id", "made_at")
    rows = company.rows("targets", without=without)
    assert len(rows) == 150
    third = [row for row in company.rows("targets") if row["version"] == 3]
    assert [{k: v for k, v in row.items() if k not in without} for row in sorted(third, key=lambda r: r["rank"])] == [
        {k: v for k, v in row.items() if k not in without} for row in sorted(first, key=lambda r: r["rank"])
    ]


@pytest.mark.parametrize(("sizes", "versions"), [((20, 30), 2), ((20, 20), 1)])
def test_two_runs_at_once_make_no_version_twice(
    make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int], versions: int
) -> None:
    company = night(make_company, {f"u{n}": 0.5 for n in range(50)}, campaign())
    append = Warehouse.append_to
    others = [sizes[1]]

    def while_another_commits(self: Warehouse, *arguments: Any, **options: Any) -> bool:
        if others:
            make(company.context(run_id="another"), D, "spring", size=others.pop())
        return append(self, *arguments, **options)

    monkeypatch.setattr(Warehouse, "append_to", while_another_commits)
    made = make(company.context(run_id="one"), D, "spring", size=sizes[0])
    assert (made.version, made.is_new) == (versions, versions == 2)
    rows = company.rows("targets")
    assert len({(row["version"], row["user_id"]) for row in rows}) == len(rows) == 50 * versions
    assert len({(row["version"], row["run_id"]) for row in rows}) == versions


def test_lists_of_two_campaigns_made_at_once_lose_nothing(make_company: Callable[..., Company]) -> None:
    names = ("spring", "summer")
    company = night(make_company, {f"u{n}": 0.5 for n in range(50)}, "".join(map(campaign, names)))
    make(company.context(), D, "spring", size=3)
    contexts = [company.context() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda n: make(contexts[n], D, names[n % 2], size=10 + n), range(4)))
    assert sorted((each.campaign, each.version) for each in done) == [
        ("spring", 2),
        ("spring", 3),
        ("summer", 1),
        ("summer", 2),
    ]
    assert len(company.rows("targets")) == 5 * 50


@pytest.mark.parametrize(
    ("sms_cost", "size", "budget", "texts"),
    [(0.1, None, 0.3, 3), (0.1, None, 0.29, 2), (0.1, 7, None, 7), (0.0, None, 5.0, None), (0.07, None, 0.7, 10)],
)
def test_a_budget_buys_as_many_messages_as_it_says(
    sms_cost: float, size: int | None, budget: float | None, texts: int | None
) -> None:
    options = Campaign(worth={"click": 1.0}, sms_cost=sms_cost)
    assert limit_of(options, size=size, budget=budget).texts == texts
    own = options.model_copy(update={"size": size, "budget": budget})
    assert limit_of(own, size=None, budget=None).texts == texts
    assert limit_of(own, size=1, budget=None) == Limit(1, "beyond_size")


def fleiss(targets: float, controls: float, rate: float, uplift: float) -> float:
    """Power of the two-sided test at 5%, from its two standard errors."""
    lower = rate * (1 - uplift)
    pooled = (targets * rate + controls * lower) / (targets + controls)
    under_null = math.sqrt(pooled * (1 - pooled) * (1 / targets + 1 / controls))
    under_uplift = math.sqrt(rate * (1 - rate) / targets + lower * (1 - lower) / controls)
    critical = norm.ppf(0.975) * under_null
    difference = rate - lower
    return float(norm.sf((critical - difference) / under_uplift) + norm.cdf((-critical - difference) / under_uplift))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.001, 0.9), st.floats(0.01, 0.99))
def test_power_is_the_textbook_s(targets: int, controls: int, rate: float, uplift: float) -> None:
    assert power(targets, controls, rate, uplift) == pytest.approx(fleiss(targets, controls, rate, uplift), abs=1e-9)


def test_the_smallest_control_group_and_uplift_that_do() -> None:
    needed = controls_needed(2000, 0.05, 0.5)
    assert needed is not None
    assert fleiss(2000, needed, 0.05, 0.5) >= 0.8 > fleiss(2000, needed - 1, 0.05, 0.5)
    uplift = smallest_uplift(2000, needed, 0.05)
    assert uplift is not None and 0.499 < uplift <= 0.5
    assert controls_needed(50, 0.05, 0.5) is None
    assert smallest_uplift(2000, 0, 0.05) is None


def test_a_control_group_that_is_too_small_is_refused_with_a_share_that_does(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    scores = {f"u{n:04d}": 0.9 + n / 100_000 for n in range(4000)}
    company = night(make_company, scores, campaign(control_share=0.02, more="size = 500"))
    options = ("--ds", D, "--campaign", "spring", "-c", company.config)
    refused = funnel("targets", *options).complaint
    share = refused.partition("control_share = ")[2].split()[0]
    needed = controls_needed(500, sum(sorted(scores.values())[-500:]) / 4 / 500, 0.5)
    assert f"it takes {needed} beside these 500 targets" in refused
    assert not company.rows("targets") and not company.rows("runs")

    def with_share(value: float) -> Ended:
        text = company.config.read_text(encoding="utf-8")
        old = text[text.index("control_share") :].splitlines()[0]
        company.config.write_text(text.replace(old, f"control_share = {value}"), encoding="utf-8")
        return funnel("targets", *options)

    assert "too small" in with_share(float(share) - 0.01).complaint
    ended = with_share(float(share))
    assert ended.code == 0
    controls = sum(arm == "control" for arm, _ in reasons(company).values())
    assert f"the control group of {controls} shows what the messages cause if that is" in ended.out
    without = with_share(0)
    assert without.code == 0 and "no control group" in without.out


def test_a_list_too_short_for_any_control_group(make_company: Callable[..., Company]) -> None:
    company = night(make_company, {f"u{n}": 0.5 for n in range(40)}, campaign(control_share=0.2))
    with pytest.raises(FunnelError, match=r"only a longer list.*; control_share = 0 goes without"):
        make(company.context(), D, "spring")


def test_a_night_that_monitoring_stopped(make_company: Callable[..., Company], funnel: Callable[..., Ended]) -> None:
    company = night(make_company, {"ann": 0.5}, campaign())
    at = datetime(2026, 3, 1, 17, tzinfo=UTC)
    record(company, D, "monitor", at)
    record(company, D, "monitor", at + timedelta(hours=1), status="failed", message="score_psi 0.9 past 0.5")
    options = ("targets", "--ds", D, "--campaign", "spring", "-c", company.config)
    assert funnel(*options).complaint == (
        "monitoring stopped the night 2026-03-01: score_psi 0.9 past 0.5; --despite-monitor makes the list anyway"
    )
    assert not company.rows("targets")
    assert funnel(*options, "--despite-monitor").code == 0
    record(company, D, "monitor", at + timedelta(hours=2))
    assert funnel(*options).code == 0


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
def settled(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A company with three users and two campaigns, of which one is worth nobody's message."""
    company = Company.make(tmp_path_factory.mktemp("company"), campaign() + campaign("summer", sms_cost=1000))
    publish(company, "users", D, [{"user_id": "ann"}, {"user_id": "bob"}, {"user_id": "cat", "consent": False}])
    publish_scores(company, D, {"ann": 0.5, "bob": 0.4})
    return company


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    settled: Company, funnel: Callable[..., Ended], mistake: str
) -> None:
    arguments, line = MISTAKES[mistake]
    assert funnel("targets", *arguments, "-c", settled.config).complaint == line
    assert not settled.rows("targets") and not settled.rows("runs")


def test_a_company_without_campaigns_or_zones(make_company: Callable[..., Company]) -> None:
    company = make_company()
    publish_scores(company, D, {"ann": 0.5})
    with pytest.raises(FunnelError, match=r"no campaign 'spring': the configuration has none"):
        make(company.context(), D, "spring")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (CAMPAIGN.format(name="x", sms_cost=-1, control_share=0, more=""), ("campaigns.x.sms_cost", "got -1")),
        (campaign("x", control_share=1.0), ("campaigns.x.control_share", "got 1.0", "less than 1")),
        (campaign("x", more="size = 1\nbudget = 2"), ("campaigns.x", "size and budget: name one of them")),
        (campaign("x", more="budget = 0"), ("campaigns.x.budget", "got 0", "greater than 0")),
        (campaign("x", more="min_band = { click = 11 }"), ("campaigns.x.min_band.click", "got 11")),
        (campaign("x", more="min_band = { clicks = 1 }"), ("campaigns.x.min_band", "'clicks' is none of them")),
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
