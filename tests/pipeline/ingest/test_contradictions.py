"""Profiles of one user and day that differ: the newest by updated_at holds, else a withdrawal wins and is told."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from itertools import permutations
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.dates import DateRange
from pipeline.engines.spark import open_session
from pipeline.ingest.contradictions import describe_contradictions, read_updated_at, settle
from pipeline.ingest.ingest import ingest
from pipeline.ingest.source import map_columns
from pipeline.ingest.values import Steps
from tests.support.company import Company
from tests.support.funnels import sms

D1, D2 = date(2026, 3, 1), date(2026, 3, 2)
NAMES = ("consent", "time_zone", "tier", "age")
PROFILE = "struct<user_id string, consent boolean, time_zone string, tier string, age double>"
SCHEMA = f"profile {PROFILE}, landed_on date, reason string, updated_at timestamp"
Told = tuple[int | None, bool | None, str | None, str | None, float | None]

pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture(scope="module")
def session(spark: None, tmp_path_factory: pytest.TempPathFactory) -> SparkSession:
    return open_session(Company.make(tmp_path_factory.mktemp("settled")).settings)


# Of each user: rows of (hour of the change, consent, time_zone, tier, age), then what holds.
CASES: dict[str, tuple[list[Told], Told, bool | None]] = {
    "once": ([(None, True, "UTC", "gold", 30.0)], (None, True, "UTC", "gold", 30.0), None),
    "repeated": ([(None, True, None, "gold", None)] * 3, (None, True, None, "gold", None), None),
    "withdrawn": (
        [(None, True, None, "bronze", 1.0), (None, False, None, "silver", 1.0)],
        (None, False, None, None, 1.0),
        False,
    ),
    "withdrawn too": (
        [(None, False, None, "bronze", 1.0), (None, True, None, "silver", 1.0)],
        (None, False, None, None, 1.0),
        False,
    ),
    "silent": (
        [(None, None, "UTC", None, 1.0), (None, True, None, "gold", None)],
        (None, True, "UTC", "gold", 1.0),
        False,
    ),
    "two zones": (
        [(None, True, "UTC", None, None), (None, True, "Asia/Tokyo", None, None)],
        (None, True, None, None, None),
        False,
    ),
    "newest yes": (
        [(8, False, "UTC", "zinc", 1.0), (15, True, "Asia/Tokyo", "gold", None)],
        (15, True, "Asia/Tokyo", "gold", None),
        True,
    ),
    "newest no": ([(8, True, "UTC", "zinc", 1.0), (15, False, None, None, None)], (15, False, "UTC", None, None), True),
    "newest silent": (
        [(8, False, "UTC", "zinc", 1.0), (15, None, None, "gold", 1.0)],
        (15, False, "UTC", "gold", 1.0),
        True,
    ),
    "yes then silent": (
        [(7, False, None, None, None), (8, True, None, "a", 1.0), (15, None, None, "b", 1.0)],
        (15, True, None, "b", 1.0),
        True,
    ),
    "a tie": (
        [(15, False, None, "b", 1.0), (15, True, None, "a", 1.0), (8, True, None, "c", 2.0)],
        (15, False, None, None, 1.0),
        False,
    ),
    "equal at the end": (
        [(15, True, None, "b", 1.0), (15, True, None, "b", 1.0), (8, False, None, "c", 2.0)],
        (15, True, None, "b", 1.0),
        True,
    ),
    "no time": (
        [(None, False, None, "zinc", 1.0), (15, True, None, "gold", 2.0)],
        (15, False, None, "gold", 2.0),
        False,
    ),
    "yes without time": (
        [(None, True, None, "zinc", 1.0), (15, False, None, "gold", 2.0)],
        (15, False, None, "gold", 2.0),
        False,
    ),
    "only times differ": (
        [(8, True, None, "gold", 1.0), (15, True, None, "gold", 1.0)],
        (15, True, None, "gold", 1.0),
        None,
    ),
}


def frame(session: SparkSession, rows: list[tuple[str, Told]], *, reason: str | None = None) -> DataFrame:
    return settle(
        session.createDataFrame(
            [
                ((user, *told), D1, reason, None if hour is None else datetime(2026, 3, 1, hour, tzinfo=UTC))
                for user, (hour, *told) in rows
            ],
            SCHEMA,
        ),
        NAMES,
    )


def test_what_holds_of_several_profiles_in_whatever_order(session: SparkSession) -> None:
    rows = [
        (f"{user} {number}", told)
        for user, (given, *_) in CASES.items()
        for number, order in enumerate(permutations(given))
        for told in order
    ]
    found = frame(session, rows).collect()
    assert len(found) == len(rows)
    for row in found:
        _, (_, *content), is_settled = CASES[row.profile.user_id.rpartition(" ")[0]]
        assert list(row.profile)[1:] == content, row.profile.user_id
        assert (row.is_settled if row.differs else None) == is_settled, row.profile.user_id


def test_other_spellings_choose_alike(session: SparkSession) -> None:
    rows: list[Told] = [(None, True, None, "bronze", 1.0), (None, False, None, "silver", 2.0)]
    renamed: list[Told] = [(None, True, None, "zinc", 1.0), (None, False, None, "aluminium", 2.0)]
    found = frame(session, [("a", told) for told in rows] + [("b", told) for told in renamed]).collect()
    assert {tuple(row.profile)[1:] for row in found} == {(False, None, None, None)}


def test_users_that_contradict_themselves_are_counted_with_an_example(session: SparkSession) -> None:
    fates = frame(session, [(user, told) for user, (given, *_) in CASES.items() for told in given])
    (warning,), notes = describe_contradictions(fates, NAMES, is_timed=True)
    unsettled = [user for user, (*_, is_settled) in CASES.items() if is_settled is False]
    assert warning.line.startswith(f"{len(unsettled)} users have profiles of one day that differ")
    assert "'a tie' on 2026-03-01 (consent: false, true; tier: 'a', 'b', 'c'; age: 1.0, 2.0)" in warning.line
    (note,) = notes
    assert note.startswith(f"{sum(is_settled is True for *_, is_settled in CASES.values())} users")
    rejected = frame(session, [("x", CASES["withdrawn"][0][0]), ("x", CASES["withdrawn"][0][1])], reason="null user")
    assert describe_contradictions(rejected, NAMES, is_timed=False) == ([], [])


@pytest.mark.parametrize(
    ("given", "kind", "read"),
    [
        (datetime(2026, 3, 1, 7, tzinfo=UTC), "timestamp", "2026-03-01 15:00:00"),
        (D1, "date", "2026-03-01 00:00:00"),
        ("2026-03-01T07:00:00Z", "string", "2026-03-01 15:00:00"),
        (" 15:00 ", "string", "2026-03-01 15:00:00"),
        ("afternoon", "string", None),
        ("", "string", None),
        (1772348400, "bigint", "2026-03-01 15:00:00"),
        ("1772348400000", "string", "2026-03-01 15:00:00"),
        (1772348400.5, "double", "2026-03-01 15:00:00.5"),
        (1772348400000000, "bigint", "2026-03-01 15:00:00"),
        (1772348400000000000, "bigint", "2026-03-01 15:00:00"),
        (3, "int", "1970-01-01 08:00:03"),
        (10**30, "decimal(38,0)", None),
        (None, "string", None),
    ],
)
def test_an_updated_at_is_read_as_what_it_is(session: SparkSession, given: Any, kind: str, read: str | None) -> None:
    value = F.lit(given) if kind != "decimal(38,0)" else F.lit(str(given))
    rows = session.range(1).select(value.cast(kind).alias("changed"))
    mapped = map_columns(rows, {"updated_at": "changed"}, "source.users.columns")["updated_at"]
    steps = Steps(rows)
    column = read_updated_at(steps, mapped, F.lit(D1)).value
    assert steps.select([column.cast("string")]).collect() == [(read,)]


CHANGED = pa.schema(
    [(name, pa.string()) for name in ("uid", "city_tier", "changed")]
    + [("sms_consent", pa.bool_()), ("age", pa.float64())]
)


def profile(uid: str, tier: str, sms_consent: bool | None, changed: str | None) -> dict[str, Any]:
    return {"uid": uid, "city_tier": tier, "sms_consent": sms_consent, "age": 30.0, "changed": changed}


DAYS = {
    D1: [
        profile("ann", "2", True, "2026-03-01T08:00:00+08:00"),
        profile("ann", "1", False, "2026-03-01T15:00:00+08:00"),
        profile("bob", "1", False, "2026-03-01T08:00:00+08:00"),
        profile("bob", "2", True, "2026-03-01T15:00:00+08:00"),
        profile("cat", "3", True, None),
    ],
    D2: [
        profile("bob", "2", True, "2026-03-02T09:00:00+08:00"),
        profile("bob", "1", False, "2026-03-02T09:00:00+08:00"),
    ],
}


def land(company: Company) -> dict[tuple[str, date], tuple[bool | None, str | None]]:
    """Land both days as one backfill; consent and tier of each profile."""
    for day, rows in DAYS.items():
        company.land(day, [sms(f"{day}", "ann", f"{day}T10:00:00+08:00")])
        company.write("users", day, pa.Table.from_pylist(rows, schema=CHANGED))
    ingest(company.context(), DateRange(D1, D2))
    return {(row["user_id"], row["landed_on"]): (row["consent"], row["city_tier"]) for row in company.rows("users")}


def test_a_withdrawal_wins_and_the_night_says_whose(make_company: Callable[..., Company]) -> None:
    company = make_company()
    assert land(company) == {
        ("ann", D1): (False, None),
        ("bob", D1): (False, None),
        ("cat", D1): (True, "3"),
        ("bob", D2): (False, None),
    }
    (told,) = {row["warnings"] for row in company.rows("runs")}
    assert told.startswith("2 users have profiles of one day that differ, such as 'ann' on 2026-03-01")
    assert "city_tier: '1', '2'; consent: false, true" in told and "map updated_at in [source.users] columns" in told
    assert any(line.startswith("warning: ingest") and told in line for line in company.lines)
    assert sum(row["duplicates"] for row in company.rows("runs")) == 3


def test_a_mapped_updated_at_decides_and_a_tie_is_told(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'consent = "sms_consent"': 'consent = "sms_consent", updated_at = "changed"'})
    assert land(company) == {
        ("ann", D1): (False, "1"),
        ("bob", D1): (True, "2"),
        ("cat", D1): (True, "3"),
        ("bob", D2): (False, None),
    }
    (told,) = {row["warnings"] for row in company.rows("runs")}
    assert (
        told.startswith("1 users")
        and "updated_at is missing, unreadable or the same, such as 'bob' on 2026-03-02" in told
    )
    assert any(
        "2 users have profiles of one day that differ; the newest by updated_at" in each for each in company.lines
    )
    changed = {(row["user_id"], row["landed_on"]): row["consent_at"] for row in company.rows("users")}
    assert changed["cat", D1] is None and changed["ann", D1] == max(
        datetime.fromisoformat(row["changed"]).astimezone(UTC) for row in DAYS[D1] if row["uid"] == "ann"
    )
