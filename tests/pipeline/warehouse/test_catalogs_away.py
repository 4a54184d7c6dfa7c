"""A catalog on a server that is away, restarts, dies amid a commit, or refuses us: one line, and nothing half done."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import FunnelError, TransientError
from pipeline.warehouse.failures import UnreachableError
from tests.pipeline.warehouse.test_warehouse import D1, D2, contents, publish, staged, warehouse_at
from tests.support.catalogs import in_catalog, on_postgres, on_rest
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.postgres import Postgres
from tests.support.rest_catalog import RestCatalog

Server = Postgres | RestCatalog
RUN = {"run_id": "one", "stage": "score", "status": "ok"}


@pytest.fixture(params=["postgres", "rest"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that runs again after the test."""
    found: Server = request.getfixturevalue("postgres" if request.param == "postgres" else "rest_catalog")
    yield found
    found.start()


@pytest.fixture
def company(server: Server, make_company: Callable[..., Company], tmp_path: Path) -> Company:
    return make_company(on_postgres(server, tmp_path / "tables") if isinstance(server, Postgres) else on_rest(server))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.warehouse.retries.PATIENCE_SECONDS", 1)


def fails_soon(act: Callable[[], object]) -> str:
    """The line of a catalog that does not answer; what is not said within seconds fails the test."""
    begun = time.monotonic()
    with pytest.raises(UnreachableError) as raised:
        act()
    assert time.monotonic() - begun < 10
    assert "\n" not in str(raised.value)
    return str(raised.value)


def count_runs(company: Company) -> int:
    return len(company.rows("runs"))


@pytest.mark.services
def test_a_catalog_that_is_away_is_told_in_one_line(
    server: Server, company: Company, funnel: Callable[..., Ended]
) -> None:
    publish(warehouse_at(company.config), D1, D1, {D1: ["a"]})
    server.stop()
    told = fails_soon(lambda: warehouse_at(company.config))
    assert "127.0.0.1" in told
    assert "Connection refused" in told
    assert "s3cret" not in told
    assert "Connection refused" in funnel("tables", "-c", company.config).complaint
    server.start()
    assert contents(warehouse_at(company.config)) == {D1: ["a"]}


@pytest.mark.services
def test_a_catalog_lost_between_reading_and_publishing(server: Server, company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    path = staged(warehouse, D1, ["b"])
    server.stop()
    for act in (
        lambda: warehouse.pin("quarantine"),
        lambda: warehouse.row_counts("quarantine", first=D1, last=D2),
        lambda: warehouse.publish("quarantine", [path], first=D1, last=D1, summary={}),
        lambda: warehouse.append("runs", [RUN | {"ds": D1}]),
        lambda: warehouse.staging("users"),
        lambda: warehouse.rollback("quarantine"),
        lambda: warehouse.compact("quarantine", more_than=1, dry_run=False),
    ):
        fails_soon(act)
    server.start()
    assert contents(warehouse) == {D1: ["a"]}
    warehouse.publish("quarantine", [path], first=D1, last=D1, summary={})
    assert contents(warehouse) == {D1: ["b"]}


@pytest.mark.services
def test_a_catalog_that_restarted_meanwhile_goes_unnoticed(server: Server, company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    server.stop()
    server.start()
    assert contents(warehouse) == {D1: ["a"]}
    server.stop()
    server.start()
    publish(warehouse, D1, D1, {D1: ["b"]})
    assert contents(warehouse) == {D1: ["b"]}


@pytest.mark.services
@pytest.mark.parametrize("is_made", [False, True])
def test_a_catalog_that_dies_amid_a_commit_and_comes_back(
    server: Server, company: Company, monkeypatch: pytest.MonkeyPatch, *, is_made: bool
) -> None:
    """Whether the commit was made or not, it is there once."""
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    warehouse.append("runs", [RUN | {"ds": D1}])
    monkeypatch.setattr("pipeline.warehouse.retries.PATIENCE_SECONDS", 30)
    commit = warehouse._catalog.iceberg.commit_table
    deaths = []

    def die_once(*given: Any) -> Any:
        if deaths:
            return commit(*given)
        deaths.append(1)
        if is_made:
            commit(*given)
        server.stop()
        try:
            return commit(*given)
        finally:
            server.start()

    monkeypatch.setattr(warehouse._catalog.iceberg, "commit_table", die_once)
    warehouse.append("runs", [RUN | {"ds": D2}])
    assert count_runs(company) == 2
    deaths.clear()
    publish(warehouse, D1, D1, {D1: ["b"]})
    assert contents(warehouse) == {D1: ["b"]}
    warehouse.rollback("quarantine")
    assert contents(warehouse) == {D1: ["a"]}


@pytest.mark.services
def test_a_catalog_that_dies_amid_a_commit_and_stays_away(
    server: Server, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    path = staged(warehouse, D1, ["b"])
    commit = warehouse._catalog.iceberg.commit_table

    def die(*given: Any) -> Any:
        server.stop()
        return commit(*given)

    monkeypatch.setattr(warehouse._catalog.iceberg, "commit_table", die)
    fails_soon(lambda: warehouse.publish("quarantine", [path], first=D1, last=D1, summary={}))
    server.start()
    assert contents(warehouse_at(company.config)) == {D1: ["a"]}
    publish(warehouse_at(company.config), D1, D1, {D1: ["the next run"]})
    assert contents(warehouse_at(company.config)) == {D1: ["the next run"]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"credential": ""}, "token"),
        ({"credential": "funnel:wrong-secret"}, "token or credential"),
        ({"credential": "", "token": "a.stale.token"}, "token or credential"),
    ],
)
def test_a_rest_catalog_refuses_whoever_it_does_not_know(
    rest_catalog: RestCatalog,
    make_company: Callable[..., Company],
    funnel: Callable[..., Ended],
    changes: dict[str, str],
    told: str,
) -> None:
    properties = {name: value for name, value in rest_catalog.properties(**changes).items() if value}
    company = make_company(in_catalog(properties))
    complaint = funnel("tables", "-c", company.config).complaint
    assert told in complaint
    assert rest_catalog.uri in complaint
    for secret in ("wrong-secret", "a.stale.token"):
        assert secret not in complaint
    with pytest.raises(FunnelError) as raised:
        warehouse_at(company.config)
    assert not isinstance(raised.value, TransientError)


def test_a_token_that_expires_is_renewed_by_the_credential(
    rest_catalog: RestCatalog, make_company: Callable[..., Company]
) -> None:
    warehouse = warehouse_at(make_company(on_rest(rest_catalog)).config)
    for reason in ("a", "b"):
        warehouse._catalog.iceberg._auth_manager._token = "expired"  # type: ignore[attr-defined]
        publish(warehouse, D1, D1, {D1: [reason]})
        assert contents(warehouse) == {D1: [reason]}


@pytest.mark.parametrize("wrong", ["password", "database"])
def test_a_postgres_refuses_whoever_it_does_not_know(
    postgres: Postgres, make_company: Callable[..., Company], tmp_path: Path, wrong: str
) -> None:
    uri = postgres.uri("postgres", password="wrong") if wrong == "password" else postgres.uri("nowhere")
    begun = time.monotonic()
    with pytest.raises(FunnelError, match=wrong) as raised:
        warehouse_at(make_company(on_postgres(postgres, tmp_path, uri)).config)
    assert time.monotonic() - begun < 10
    assert not isinstance(raised.value, TransientError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("driver", ["", "+psycopg2"])
def test_a_driver_that_is_not_installed_is_named_with_its_extra(
    make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    catalog = {"type": "sql", "uri": f"postgresql{driver}://funnel@127.0.0.1:1/catalog", "warehouse": "file:///nowhere"}
    with pytest.raises(FunnelError, match=r"psycopg2.*funnelcast\[postgres\]") as raised:
        warehouse_at(make_company(in_catalog(catalog)).config)
    assert "\n" not in str(raised.value)
