"""A company whose tables an earlier release made goes on, and so does one whose tables know more than this code."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from pipeline.dates import DateRange
from pipeline.engines.views import all_views
from pipeline.maintenance import maintain
from pipeline.monitoring.monitor import monitor
from pipeline.nights import load_history
from pipeline.scoring.scoring import score
from pipeline.warehouse.schema import STRING, Column, Table
from pipeline.warehouse.tables import all_tables
from pipeline.warehouse.warehouse import Warehouse
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.examples import teach
from tests.support.funnels import sms
from tests.support.nights import publish_with

BEFORE, NIGHT = date(2026, 3, 29), date(2026, 3, 30)
LATER = {
    "users": ("consent_at",),
    "known_users": ("consent_order",),
    "metrics": ("past",),
    "exports": ("withdrawn", "completed", "landed_until"),
    "runs": ("values_in", "unreadable", "unreadable_examples", "warning_topics"),
    "stopped_quarantine": (),
    "erasures": (),
}
"""What has come since the release before, by table: columns; a table that came as a whole has none."""
TRAINING = "[training]\nepochs = 1\nexpert_units = [4]\nexperts = 2\ntower_units = [4]\n"
COLOUR = Column("colour", STRING, "What a later release keeps.")


def without_later(table: Table) -> Table:
    """A table as the release before made it."""
    later = LATER.get(table.name, ())
    assert set(later) <= {column.name for column in table.columns}
    return replace(table, columns=tuple(column for column in table.columns if column.name not in later))


def with_colour(table: Table) -> Table:
    """A table as a later release makes it."""
    *others, partition = table.columns
    return replace(table, columns=(*others, COLOUR, partition))


def begin(company: Company, change: Callable[[Table], Table], names: set[str], **more: str) -> None:
    """Put a day into tables that another release has made.

    Args:
        names: the tables that it has.
        more: columns that each row has besides.
    """
    tables = {name: change(table) for name, table in all_tables(company.settings).items()}
    other = Warehouse(location=str(company.folder / "warehouse"), catalog={}, namespace="funnel", tables=tables)
    at = datetime(2026, 3, 29, 2, tzinfo=UTC)
    kinds = {"ann": "exposure", "bob": "exposure", "cal": "complete"}
    rows: dict[str, list[dict[str, Any]]] = {
        "events": [{"event_id": uid, "user_id": uid, "event": kind, "event_time": at} for uid, kind in kinds.items()],
        "activity": [
            {"user_id": uid, "event": kind, "event_date": BEFORE, "n": 1, "first_time": at, "last_time": at}
            for uid, kind in kinds.items()
        ],
        "users": [{"user_id": uid, "consent": uid != "bob", "age": 30.0} for uid in kinds],
        "user_scores": [{"user_id": "ann", "model_version": "m0", "run_id": "r0", "p_click": 0.5, "band_click": 1}],
        "exports": [{"campaign_id": "spring", "version": 1, "path": "a.csv", "users": 1, "run_id": "r0"}],
        "metrics": [{"name": "rows_landed", "value": 3.0, "run_id": "r0"}],
        "runs": [
            {
                "run_id": "r0",
                "stage": stage,
                "status": "ok",
                "rows_in": 3,
                "rows_out": 3,
                "seconds": 1.0,
                "started_at": at,
            }
            for stage in ("ingest", "activity")
        ],
    }
    for name, of_table in rows.items():
        publish_with(other, name, BEFORE, [row | more for row in of_table])
    for name in names - rows.keys():
        other.staging(name)
    company.land(
        NIGHT,
        [sms(f"{uid}2", uid, f"{NIGHT}T10:00:00+08:00", offer="cash") for uid in ("ann", "bob", "dan")],
        [{"uid": "dan", "sms_consent": True, "city_tier": "1", "age": 40.0}],
    )


def run_night(company: Company) -> None:
    teach(company, BEFORE)
    load_history(company.context(), DateRange(NIGHT, NIGHT))
    score(company.context(), NIGHT)
    monitor(company.context(), NIGHT)


def scored(company: Company) -> dict[date, set[str]]:
    found: dict[date, set[str]] = {}
    for row in company.rows("user_scores"):
        found.setdefault(row["ds"], set()).add(row["user_id"])
    return found


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company(TRAINING, replace={'consent = "sms_consent"': 'consent = "sms_consent", updated_at = "1"'})


def test_a_company_of_the_release_before_is_read(company: Company, funnel: Callable[..., Ended]) -> None:
    begin(company, without_later, {name for name, columns in LATER.items() if columns})
    assert funnel("tables", "-c", company.config).code == 0
    for name in (*all_tables(company.settings), *all_views(company.settings)):
        ended = funnel("sql", f"SELECT * FROM {name}", "-c", company.config)
        assert ended.code == 0, f"{name}: {ended.err}"
    ended = funnel("sql", "SELECT path, withdrawn, landed_until FROM exports", "--format", "csv", "-c", company.config)
    assert ended.out.splitlines() == ['"path","withdrawn","landed_until"', '"a.csv",,']
    assert [row["consent_at"] for row in company.rows("users")] == [None] * 3


@pytest.mark.slow
def test_a_night_of_a_company_of_the_release_before(spark: None, company: Company) -> None:
    begin(company, without_later, {name for name, columns in LATER.items() if columns})
    run_night(company)
    # Bob has withdrawn consent, and Cal has completed, as the release before knew.
    assert scored(company) == {BEFORE: {"ann"}, NIGHT: {"ann", "dan"}}
    assert {row["user_id"]: row["consent_at"] is None for row in company.rows("users")} == {
        "ann": True,
        "bob": True,
        "cal": True,
        "dan": False,
    }
    runs = {(row["ds"], row["stage"]): row for row in company.rows("runs")}
    assert runs[BEFORE, "ingest"]["values_in"] is None
    assert dict(runs[NIGHT, "ingest"]["values_in"])["users.age"] == 1
    company.context().warehouse.append("exports", [{"ds": NIGHT, "path": "b.csv", "withdrawn": 2}])
    assert {row["path"]: row["withdrawn"] for row in company.rows("exports")} == {"a.csv": None, "b.csv": 2}


@pytest.mark.slow
def test_a_night_of_a_company_of_a_later_release(spark: None, company: Company, funnel: Callable[..., Ended]) -> None:
    begin(company, with_colour, set(all_tables(company.settings)), colour="red")
    run_night(company)
    assert scored(company) == {BEFORE: {"ann"}, NIGHT: {"ann", "dan"}}
    maintain(company.context(), now=datetime.now(UTC) + timedelta(days=1))
    # This release does not show what it does not know, and leaves it as it is.
    ended = funnel("sql", "SELECT * FROM user_scores", "--format", "csv", "-c", company.config)
    assert ended.code == 0 and len(ended.out.splitlines()) == 4 and "colour" not in ended.out
    for name in ("events", "users", "user_scores", "exports"):
        colours = {(row.get("landed_on", row.get("ds")), row["colour"]) for row in company.rows(name)}
        assert (BEFORE, "red") in colours and (BEFORE, None) not in colours
