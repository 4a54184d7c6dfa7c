"""Ingest: what the customer names and what we name never meet."""

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.ingest import ingest
from tests.support.company import Company
from tests.support.funnels import sms

DAY = date(2026, 3, 1)
EVENT = sms("1", "ann", "2026-03-01T10:00:00+08:00")
pytestmark = pytest.mark.usefixtures("spark")


def land(company: Company, users: list[dict[str, Any]]) -> None:
    company.land(DAY, [EVENT])
    company.write("users", DAY, pa.Table.from_pylist(users))


def test_the_source_s_columns_may_have_any_name(make_company: Callable[..., Company]) -> None:
    mapping = 'user_id = "my `id`.x", consent = "SMS Consent", city_tier = "Städte.Tier", age = "Age in Years" }'
    mapping += '\nraw_content = "all"'
    company = make_company(
        "[audit]\nmax_quarantine_share = 1.0\n", replace={'user_id = "uid", consent = "sms_consent" }': mapping}
    )
    # Some are ours in one of the tables, some are Spark's.
    others = dict.fromkeys(("_landed_on", "_metadata", "landed_on", "raw", "fate", "reason", "user_id", "", "a.b"), "x")
    ann = {"my `id`.x": "ann", "sms consent": False, "Städte.Tier": "1", " age in years ": 30.0}
    land(company, [ann | others, others])
    ingest(company.context(), DateRange(DAY, DAY))
    (user,) = company.rows("users")
    assert user == {"user_id": "ann", "consent": False, "city_tier": "1", "age": 30.0, "landed_on": DAY}
    (rejected,) = company.rows("quarantine")
    assert json.loads(rejected["raw"]) == dict.fromkeys(ann) | others


@pytest.mark.parametrize(
    ("column", "named"), [("UID", "spark.sql.caseSensitive"), ("__FUNNELCAST_1", "column '__FUNNELCAST_1'")]
)
def test_names_that_cannot_be_told_apart_are_refused(company: Company, column: str, named: str) -> None:
    land(company, [{"uid": "ann", column: "x"}])
    with pytest.raises(FunnelError, match=named):
        ingest(company.context(), DateRange(DAY, DAY))
