"""A user who was erased does not come back with the next landing."""

from collections.abc import Callable

import pytest

from pipeline.dates import DateRange
from pipeline.ingest.ingest import ingest
from tests.pipeline.erasure.conftest import ANN, BEN, CAT, D1, D2
from tests.pipeline.erasure.test_erase import Funnel, places_of, users_in
from tests.support.company import Company
from tests.support.funnels import sms

pytestmark = pytest.mark.usefixtures("spark")


def land(company: Company, day: str) -> None:
    users = [{"uid": user, "sms_consent": True} for user in (ANN, BEN, CAT)]
    events = [sms(f"{day} {user}", f" {user}", f"{day}T10:00:00+08:00") for user in (ANN, BEN, CAT)]
    events.append(sms(f"{day} bad", ANN, "no time"))
    company.land(D1.fromisoformat(day), events, users)


def test_an_erased_user_does_not_land_again(make_company: Callable[..., Company], funnel: Funnel) -> None:
    company = make_company("\n[audit]\nmax_quarantine_share = 1.0\n")
    land(company, "2026-03-01")
    ingest(company.context(), DateRange(D1, D1))
    assert ANN in users_in(company, "events") and len(company.rows("quarantine")) == 1
    assert funnel("erase", "--user", ANN, "-c", company.config).code == 0
    land(company, "2026-03-02")
    ingest(company.context(), DateRange(D1, D2))
    assert users_in(company, "events") == users_in(company, "users") == {BEN, CAT}
    assert company.rows("quarantine") == []
    assert {row["rows_in"] for row in company.rows("runs")} >= {4}
    told = [line for line in company.lines if "erased" in line]
    assert told == [
        f"ingest 2026-03-01 to 2026-03-02: {table}: {number} rows are of users who were erased; they do not land, and "
        "no figure counts them"
        for table, number in (("events", 4), ("users", 2))
    ]
    left = [place for place in places_of(company, ANN) if "/source/" not in place]
    assert left == []
