"""A night on which values were there and could not be read: it counts them, names one of each and says what it does."""

import json
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.ingest import ingest
from tests.support.company import Company
from tests.support.funnels import sms

D1 = date(2026, 3, 1)
NIGHT = DateRange(D1, D1)
AT = "2026-03-01 02:00:00"

pytestmark = pytest.mark.usefixtures("spark")


def deliver(company: Company, kind: str, name: str, content: bytes) -> None:
    folder = company.folder / "source" / kind / D1.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def told(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A night of JSON events in UTC without zones and of CSV profiles in Latin-1, most of which is told."""
    company = Company.make(
        tmp_path_factory.mktemp("told"),
        "[audit]\nmax_quarantine_share = 1.0\n",
        replace={
            'path = "source/events/{ds}"': 'format = "json"\ntime_zone = "UTC"\npath = "source/events/{ds}"',
            'path = "source/users/{ds}"': 'format = "csv"\npath = "source/users/{ds}"\n'
            "consent_words = { opted_in = true }",
        },
    )
    times = [AT, "0001-01-01T00:00:00Z", "20260301", "1772330400000", f"{AT} IST", "at noon", "1772330400"]
    events = [sms(str(n), f"u{n}\u00a0", ts) for n, ts in enumerate(times)]
    deliver(company, "events", "a.json", "\n".join(json.dumps(event) for event in events).encode())
    users = [
        "uid,sms_consent,city_tier,age",
        "u0,opted_in,Z\u00fcrich,30",
        'u1,opted_out,Z\u00fcrich,"1.000,5"',
        "u2,1.0,Z\u00fcrich,30 years",
        "u3,0.0,Z\u00fcrich,true",
        "u4,,Z\u00fcrich,",
        "u5,yes,Z\u00fcrich,NaN",
        "ren\u00e9,yes,1,30",
        "ren\u00e8,yes,1,30",
    ]
    # One line as its file's header promises, the others not.
    latin = "\n".join(users).encode("latin-1").replace("Z\u00fcrich".encode("latin-1"), "Z\u00fcrich".encode(), 1)
    deliver(company, "users", "a.csv", latin)
    ingest(company.context(), NIGHT)
    return company


def test_values_are_read_or_null_and_never_merged(told: Company) -> None:
    users = {row["user_id"]: (row["consent"], row["age"], row["city_tier"]) for row in told.rows("users")}
    assert users == {
        "u0": (True, 30.0, "Z\u00fcrich"),
        "u1": (False, None, None),
        "u2": (True, None, None),
        "u3": (False, 1.0, None),
        "u4": (None, None, None),
        "u5": (True, None, None),
    }
    events = [(row["user_id"], row["event_time"].isoformat()) for row in told.rows("events")]
    assert events == [("u0", "2026-03-01T02:00:00+00:00"), ("u6", "2026-03-01T02:00:00+00:00")]


def test_quarantine_says_what_was_wrong_with_a_time_or_an_id(told: Company) -> None:
    reasons = {}
    for row in told.rows("quarantine"):
        raw = json.loads(row["raw"])
        reasons[raw.get("id") or raw["uid"]] = row["reason"]
    assert reasons == {
        "1": "time before 2000-01-01",
        "2": "date written as a number",
        "3": "time in milliseconds",
        "4": "ambiguous time zone",
        "5": "unparsable time",
        "ren\ufffd": "users: user is no UTF-8",
    }


def test_every_column_that_lost_values_is_told_with_an_example(told: Company) -> None:
    (run,) = told.rows("runs")
    assert dict(run["unreadable"]) == {
        "events.event_time": 5,
        "users.user_id": 2,
        "users.city_tier": 5,
        "users.age": 2,
        "users.consent": 1,
    }
    assert dict(run["values_in"])["users.age"] == 6, "neither an empty value nor NaN was there"
    assert dict(run["unreadable_examples"])["users.age"] == "1.000,5"
    lines = run["warnings"].splitlines()
    assert any(
        "users: age: 2 of 6 values are no number, such as '1.000,5'; they count as missing" in each for each in lines
    )
    assert any("consent: 1 of 7 values are neither true nor false, such as 'opted_out'; they" in each for each in lines)
    assert any("city_tier: 5 of 8 values are no UTF-8, such as 'Z\ufffdrich'" in each for each in lines)
    assert len(lines) == 5
    assert any(line.startswith("warning: ingest 2026-03-01: audit of users: age: 2 of 6") for line in told.lines)
    audits = {(row["audited"], row["columns"]): row["status"] for row in told.rows("audits")}
    assert audits["users", "age"] == "warning"
    assert audits["events", "user_id"] == "ok"


@pytest.fixture
def night(make_company: Callable[..., Company]) -> Callable[..., Company]:
    """A company with messages to six users, and profiles as a Parquet column of ids gives them."""

    def make(ids: pa.Array, extra: str = "", **columns: pa.Array) -> Company:
        company = make_company(extra)
        company.land(D1, [sms(str(n), str(10_000_000 + n), "2026-03-01T10:00:00+08:00") for n in range(6)])
        others = {name: pa.nulls(len(ids), pa.string()) for name in ("sms_consent", "city_tier", "age")}
        company.write("users", D1, pa.table({"uid": ids} | others | columns))
        return company

    return make


def test_ids_of_floats_are_those_of_text(night: Callable[..., Company]) -> None:
    company = night(pa.array([10_000_000.0 + n for n in range(6)] + [None]))
    ingest(company.context(), NIGHT)
    assert [row["user_id"] for row in company.rows("users")] == [str(10_000_000 + n) for n in range(6)]
    (run,) = company.rows("runs")
    assert run["warnings"] == ""


def test_a_file_of_floats_does_not_make_the_bytes_of_another_one_lost_digits(night: Callable[..., Company]) -> None:
    company = night(pa.array([10_000_000.0 + n for n in range(6)]))
    folder = company.folder / "source" / "users" / D1.isoformat()
    (folder / "part-0.parquet").rename(folder / "part-1.parquet")
    others = {name: pa.nulls(1, pa.string()) for name in ("sms_consent", "city_tier", "age")}
    company.write("users", D1, pa.table({"uid": pa.array([b"jos\xe9"]).view(pa.string())} | others))
    ingest(company.context(), NIGHT)
    assert len(company.rows("users")) == 6
    assert [row["reason"] for row in company.rows("quarantine")] == ["users: user is no UTF-8"]


@pytest.mark.parametrize(
    ("ids", "facts"),
    [
        (
            pa.array([2.0**53 + 2 * n for n in range(6)]),
            ["source.users.columns.user_id = 'uid'", "floats beyond 9,007,199,254,740,992", "9007199254740994"],
        ),
        (
            pa.array([f"U-{10_000_000 + n}" for n in range(6)]),
            ["0 of 6 users with events have a profile", "'10000000'", "'U-10000000'", "source.users.columns"],
        ),
        (pa.array([b"10000000"]), ["source.users.columns.user_id = 'uid' is binary", "decode(uid, 'UTF-8')"]),
    ],
)
def test_ids_that_cannot_be_the_same_stop_the_night(
    night: Callable[..., Company], ids: pa.Array, facts: list[str]
) -> None:
    company = night(ids)
    with pytest.raises(FunnelError) as raised:
        ingest(company.context(), NIGHT)
    assert [fact for fact in facts if fact not in str(raised.value)] == [], raised.value
    assert company.rows("users") == company.rows("events") == []


def test_a_column_of_which_nothing_can_be_read_stops_the_night_and_is_recorded(night: Callable[..., Company]) -> None:
    ids = pa.array([str(10_000_000 + n) for n in range(6)])
    company = night(ids, age=pa.array([f"{n} years" for n in range(6)]))
    with pytest.raises(FunnelError, match=r"age: 6 of 6 values are no number, .* audit\.max_unreadable_share = 0\.9"):
        ingest(company.context(), NIGHT)
    (run,) = company.rows("runs")
    assert dict(run["unreadable"]) == {"users.age": 6}
    assert company.rows("users") == []
