"""The rules of a list, checked against a second version in plain Python, one user at a time."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.analyst.connection import connect
from pipeline.campaigns.decisions import create_decided, create_known_users_and_zones
from pipeline.campaigns.rules import Quota, Zone, resolve_quota, resolve_zones
from pipeline.campaigns.targets import make_list
from pipeline.config.campaigns import Campaign, FrequencyCap, Targeting
from tests.support.campaigns import CAP_AND_QUIET, MONITORED, WITH_ZONES, D, campaign, make_night, read_reasons
from tests.support.company import Company
from tests.support.nights import STAGES, publish, publish_scores, record

D2 = D + timedelta(days=1)


def in_paris(send_on: date, *, quiet: tuple[str, str] | None = None) -> Zone:
    """What a message sent in Shanghai at 15:00 means in Paris."""
    cap = FrequencyCap(messages=1, days=1)
    targeting = Targeting(send_at="15:00", quiet_hours=quiet, frequency_cap=cap)
    (found,) = resolve_zones(["Europe/Paris"], targeting, send_on, ZoneInfo("Asia/Shanghai"))
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


def test_a_cap_counts_dates_in_the_funnel_s_zone_where_the_log_knows_nothing_else() -> None:
    targeting = Targeting(send_at="15:00", frequency_cap=FrequencyCap(messages=1, days=2))
    # In Honolulu, the message arrives the evening before.
    (found,) = resolve_zones(["Pacific/Honolulu"], targeting, date(2026, 3, 29), ZoneInfo("Asia/Shanghai"), by_day=True)
    assert found.capped_from == datetime(2026, 3, 27, 16, tzinfo=UTC)
    assert found.capped_until == datetime(2026, 3, 29, 16, tzinfo=UTC)


def test_an_unknown_zone_is_treated_as_the_funnel_s_with_a_warning(make_company: Callable[..., Company]) -> None:
    users = [
        {"user_id": "ann", "time_zone": "Shanghai"},
        {"user_id": "bob", "time_zone": "America/New_York"},
        {"user_id": "cat", "time_zone": None},
    ]
    company = make_night(
        make_company, dict.fromkeys(("ann", "bob", "cat"), 0.5), CAP_AND_QUIET + campaign(), users=users
    )
    make_list(company.context(), D, "spring")
    assert [read_reasons(company)[user][1] for user in ("ann", "bob", "cat")] == ["selected", "quiet_hours", "selected"]
    warned = [line for line in company.lines if line.startswith("warning: ")]
    assert warned == [
        "warning: targets 2026-03-01: 1 users have a time_zone that is not an IANA name, such as 'Shanghai'; "
        "the funnel's zone, Asia/Shanghai, is used instead"
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
    company = make_night(make_company, some, text)
    make_list(company.context(), D, "spring")
    make_list(company.context(), D, "summer")
    spring, summer = read_reasons(company), read_reasons(company, campaign="summer")
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
    record(company, D2, "monitor", MONITORED)
    make_list(company.context(), D2, "spring")
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
def empty(
    warehouse: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Company, duckdb.DuckDBPyConnection]]:
    """A company of which nothing is known yet, and its tables in DuckDB."""
    company = Company.make(tmp_path_factory.mktemp("company"), campaign(), replace=WITH_ZONES)
    with connect(company.settings) as connection:
        yield company, connection


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(companies())
def test_a_list_follows_its_rules(empty: tuple[Company, duckdb.DuckDBPyConnection], drawn: dict[str, Any]) -> None:
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
    create_known_users_and_zones(connection, own, D)
    create_decided(connection, own, D, "spring", options, Quota(drawn["texts"], "beyond_size"))
    found = connection.execute("SELECT user_id, arm, reason, rank FROM decided").fetchall()
    assert len(found) == len(USERS)
    assert {user: tuple(rest) for user, *rest in found} == by_plain_rules(drawn)


@pytest.mark.parametrize(
    ("sms_cost", "size", "budget", "texts"),
    [(0.1, None, 0.3, 3), (0.1, None, 0.29, 2), (0.1, 7, None, 7), (0.0, None, 5.0, None), (0.07, None, 0.7, 10)],
)
def test_a_budget_buys_as_many_messages_as_it_says(
    sms_cost: float, size: int | None, budget: float | None, texts: int | None
) -> None:
    options = Campaign(worth={"click": 1.0}, sms_cost=sms_cost)
    assert resolve_quota(options, size=size, budget=budget).texts == texts
    own = options.model_copy(update={"size": size, "budget": budget})
    assert resolve_quota(own, size=None, budget=None).texts == texts
    assert resolve_quota(own, size=1, budget=None) == Quota(1, "beyond_size")
