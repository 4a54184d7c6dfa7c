"""Connections to DuckDB: a command closes those it opens, whether it ends well or not; a notebook's stays open."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import duckdb
import pytest

from pipeline.analyst import connect
from tests.support.campaigns import D, campaign, make_night
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import record


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[duckdb.DuckDBPyConnection]]:
    """The connections that are opened during the test."""
    connections: list[duckdb.DuckDBPyConnection] = []
    connect_to_duckdb = duckdb.connect

    def noted() -> duckdb.DuckDBPyConnection:
        connections.append(connect_to_duckdb())
        return connections[-1]

    monkeypatch.setattr(duckdb, "connect", noted)
    yield connections
    for connection in connections:
        connection.close()


def is_open(connection: duckdb.DuckDBPyConnection) -> bool:
    try:
        connection.execute("SELECT 1")
    except duckdb.ConnectionException:
        return False
    return True


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sql", "SELECT user_id FROM user_scores"), 0),
        (("sql", "SELECT nothing FROM user_scores"), 1),
        (("sql", "SELECT 1", "--at", "2020-01-01"), 1),
        (("targets", "--ds", D, "--campaign", "spring"), 0),
        (("targets", "--ds", D, "--campaign", "unaffordable"), 1),
        (("export", "--ds", D, "--campaign", "spring"), 1),
        (("results", "--campaign", "spring"), 1),
        (("report", "--ds", D), 0),
        (("report", "--ds", "2026-02-01"), 1),
    ],
)
def test_a_command_closes_its_connections(
    make_company: Callable[..., Company],
    funnel: Callable[..., Ended],
    opened: list[duckdb.DuckDBPyConnection],
    command: tuple[object, ...],
    code: int,
) -> None:
    company = make_night(make_company, {"ann": 0.5}, campaign() + campaign("unaffordable", sms_cost=1000))
    record(company, D, "score", datetime(2026, 3, 1, 17, tzinfo=UTC))
    assert funnel(*command, "-c", company.config).code == code
    assert [is_open(connection) for connection in opened] == [False]


def test_a_notebook_closes_its_own(company: Company) -> None:
    with connect(company.settings) as connection:
        assert is_open(connection)
    assert not is_open(connection)
