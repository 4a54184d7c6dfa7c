"""A night that starts from an earlier night's state gets what reading everything would give."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame

from pipeline.analyst.connection import connect
from pipeline.dates import DateRange
from pipeline.engines.duckdb import run_locally
from pipeline.features.known_users import (
    STATE_NIGHTS,
    known_users_parameters,
    publish_known_users_if_due,
    read_known_users,
)
from pipeline.nights import load_history
from pipeline.runs.context import Context
from pipeline.runs.record import StageRun
from pipeline.warehouse.tables import feature_columns
from tests.support.company import Company
from tests.support.funnels import sms

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
Row = dict[str, Any]

pytestmark = pytest.mark.usefixtures("spark")


def user(uid: str, consent: bool | None, tier: str) -> Row:
    return {"uid": uid, "sms_consent": consent, "city_tier": tier, "age": 30.0}


def completed(uid: str, day: date) -> dict[str, str | None]:
    return sms(f"{uid}-{day}", uid, f"{day}T10:00:00+08:00", type="complete_application")


def rows(frame: DataFrame) -> list[Row]:
    return sorted((row.asDict() for row in frame.collect()), key=repr)


def known(company: Company, ds: date) -> dict[str, Row]:
    """Everyone known by a night, by user, checked against reading everything."""
    context: Context = company.context()
    run = StageRun(context, "score", DateRange(ds, ds))
    state = publish_known_users_if_due(run, ds)
    before = states(company)
    found = rows(read_known_users(run, state, ds))
    assert found == rows(read_known_users(run, None, ds))
    assert states(company) == before, "reading who is known publishes nothing"
    return {row["user_id"]: row for row in found}


def states(company: Company) -> set[date]:
    return set(company.context().warehouse.row_counts("known_users", first=date.min, last=date.max))


@pytest.mark.slow
def test_a_state_is_used_until_its_sources_change(make_company: Callable[..., Company]) -> None:
    company = make_company()
    company.land(D1, [completed("ann", D1)], [user("ann", True, "1"), user("bob", True, "1"), user("cat", False, "2")])
    company.land(D2, [completed("dan", D2)], [user("bob", None, "2")])
    company.land(D3, [completed("bob", D3)], [user("cat", None, "3"), user("dan", True, "3")])
    load_history(company.context(), DateRange(D1, D3))

    assert {name: (row["profile_on"], row["completed_on"]) for name, row in known(company, D2).items()} == {
        "ann": (D1, D1),
        "bob": (D2, None),
        "cat": (D1, None),
        "dan": (None, D2),
    }
    assert states(company) == {D2}
    by_d3 = known(company, D3)
    assert by_d3["cat"]["consent"] is False and by_d3["cat"]["city_tier"] == "3", "silence is no consent"
    assert (by_d3["dan"]["profile_on"], by_d3["dan"]["completed_on"]) == (D3, D2), "no profile yet"
    assert by_d3["bob"]["completed_on"] == D3
    assert states(company) == {D2}, "the state of D2 was good for D3 too"

    # A backfill of the first day: ann withdraws, and a user comes to light.
    company.land(D1, [completed("ann", D1)], [user("ann", False, "1"), user("bob", True, "1"), user("eve", True, "1")])
    load_history(company.context(), DateRange(D1, D1))
    again = known(company, D3)
    assert again["ann"]["consent"] is False and "eve" in again and again["cat"]["consent"] is None
    assert states(company) == {D2, D3}
    assert "eve" in known(company, D2), "a night of an old date makes its state again"


@pytest.mark.slow
def test_an_old_state_is_followed_by_one_that_starts_from_it(
    make_company: Callable[..., Company],
) -> None:
    company = make_company()
    company.land(D1, [completed("ann", D1)], [user("ann", True, "1"), user("bob", False, "1")])
    load_history(company.context(), DateRange(D1, D1))
    last_use = D1 + timedelta(days=STATE_NIGHTS - 1)
    for ds, has in ((D1, {D1}), (last_use, {D1}), (last_use + timedelta(days=1), {D1, last_use + timedelta(days=1)})):
        assert known(company, ds).keys() == {"ann", "bob"}
        assert states(company) == has


ZONED = pa.schema([("uid", pa.string()), ("tz", pa.string()), ("city_tier", pa.string()), ("age", pa.float64())])


@pytest.mark.slow
def test_a_user_s_time_zone_is_the_latest_given_and_no_feature(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'consent = "sms_consent"': 'time_zone = "tz"'})
    days = {
        D1: [("ann", "Europe/Paris"), ("bob", " Asia/Tokyo "), ("cat", "")],
        D2: [("ann", None), ("bob", "Asia/Seoul"), ("dan", "no zone")],
    }
    for day, told in days.items():
        company.land(day, [completed("eve", day)])
        rows_of_day = [{"uid": uid, "tz": zone, "city_tier": "1", "age": 30.0} for uid, zone in told]
        company.write("users", day, pa.Table.from_pylist(rows_of_day, schema=ZONED))
    load_history(company.context(), DateRange(D1, D2))
    zones = {"ann": "Europe/Paris", "bob": "Asia/Tokyo", "cat": None, "eve": None}
    assert {name: row["time_zone"] for name, row in known(company, D1).items()} == zones
    # From the state of D1, and what landed since.
    later = zones | {"bob": "Asia/Seoul", "dan": "no zone"}
    found = known(company, D2)
    assert {name: row["time_zone"] for name, row in found.items()} == later
    assert states(company) == {D1}
    parameters = known_users_parameters(company.settings, D2) | {"has_earlier": False}
    with connect(company.settings, "users, activity") as connection:
        local = run_locally(connection, "known_users", **parameters)
        assert {row[local.columns.index("user_id")]: row for row in local.fetchall()} == {
            name: tuple(row[column] for column in local.columns) for name, row in found.items()
        }
    assert "time_zone" not in feature_columns(company.settings)
