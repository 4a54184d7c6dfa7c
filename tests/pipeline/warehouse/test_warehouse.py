"""The warehouse without Spark: tests write the files themselves; other processes publish and read at the same time."""

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.settings import load
from pipeline.errors import FunnelError
from pipeline.warehouse.retries import LockedError
from pipeline.warehouse.warehouse import Warehouse
from tests.support.company import Company
from tests.support.nights import put_file

D1, D2, D3, D4 = (date(2026, 3, 1) + timedelta(days=n) for n in range(4))
PROCESSES = multiprocessing.get_context("spawn")


def warehouse_at(config: Path) -> Warehouse:
    return Warehouse.of(load(config))


def staged(warehouse: Warehouse, day: date, reasons: Iterable[str]) -> str:
    """Write a file of `quarantine`, the narrowest table, to where Spark would stage it; its address."""
    rows = pa.Table.from_pylist(
        [{"reason": reason, "raw": "{}", "landed_on": day} for reason in reasons],
        schema=warehouse.tables["quarantine"].schema,
    )
    return put_file(warehouse, "quarantine", rows)


def publish(warehouse: Warehouse, first: date, last: date, rows: dict[date, list[str]]) -> int | None:
    files = [staged(warehouse, day, reasons) for day, reasons in rows.items()]
    return warehouse.publish("quarantine", files, first=first, last=last, summary={})


def contents(warehouse: Warehouse) -> dict[date, list[str]]:
    rows = warehouse.arrow("quarantine", first=date.min, last=date.max).to_pylist()
    days = sorted({row["landed_on"] for row in rows})
    return {day: sorted(row["reason"] for row in rows if row["landed_on"] == day) for day in days}


def reasons_in(files: Iterable[str]) -> list[str]:
    found: list[str] = []
    for path in files:
        found += pq.read_table(path.removeprefix("file://"), columns=["reason"]).column(0).to_pylist()
    return sorted(found)


def test_staged_files_are_invisible_and_go_when_discarded(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    folder = company.folder / "warehouse" / "funnel" / "quarantine" / "data"
    before = sorted(folder.rglob("*"))
    unfinished = Path(warehouse.staging("quarantine").removeprefix("file://")) / "_temporary" / "0"
    unfinished.mkdir(parents=True)
    (unfinished / "part").write_text("half a file", encoding="utf-8")
    staged(warehouse, D1, ["staged"])
    assert warehouse.staging("users"), "nothing was written into this one"
    assert contents(warehouse) == {D1: ["a"]}
    warehouse.discard_staged()
    assert sorted(folder.rglob("*")) == before
    assert contents(warehouse) == {D1: ["a"]}


def test_files_of_a_commit_that_failed_in_doubt_stay(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = warehouse_at(company.config)
    path = staged(warehouse, D1, ["a"])
    commit = warehouse._catalog.iceberg.commit_table

    def lose_the_answer(*given: Any) -> None:
        commit(*given)
        raise OSError("connection lost")

    monkeypatch.setattr(warehouse._catalog.iceberg, "commit_table", lose_the_answer)
    with pytest.raises(FunnelError, match="connection lost"):
        warehouse.publish("quarantine", [path], first=D1, last=D1, summary={})
    warehouse.discard_staged()
    assert contents(warehouse_at(company.config)) == {D1: ["a"]}


def test_a_location_that_cannot_be_written_is_one_line(make_company: Callable[..., Company]) -> None:
    company = make_company('[warehouse]\npath = "taken/warehouse"\n')
    (company.folder / "taken").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(FunnelError, match=r"the warehouse at .*taken/warehouse cannot be opened: Not a directory"):
        warehouse_at(company.config)


def test_an_unreachable_catalog_is_named_without_its_password(make_company: Callable[..., Company]) -> None:
    uri = "postgresql+psycopg2://funnel:s3cret@127.0.0.1:1/catalog"
    company = make_company(f'[warehouse]\ncatalog = {{ type = "sql", uri = "{uri}", warehouse = "file:///nowhere" }}\n')
    # Without Postgres's driver the reason is the missing driver; with it, the refused connection.
    address = r"the warehouse at postgresql\+psycopg2://\*\*\*@127\.0\.0\.1:1/catalog cannot be opened: "
    with pytest.raises(FunnelError, match=address) as raised:
        warehouse_at(company.config)
    assert "s3cret" not in str(raised.value)


def test_a_catalog_that_cannot_be_opened_is_not_retried(company: Company) -> None:
    (company.folder / "warehouse" / "catalog.db").mkdir(parents=True)
    started = time.monotonic()
    with pytest.raises(FunnelError, match=r"the warehouse at .* cannot be opened: unable to open database file"):
        warehouse_at(company.config)
    assert time.monotonic() - started < 5


def test_metadata_that_cannot_be_written_is_one_line(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    (company.folder / "warehouse" / "funnel").write_text("a file, not a folder", encoding="utf-8")
    with pytest.raises(FunnelError, match="the warehouse cannot be written: ") as raised:
        warehouse.staging("quarantine")
    assert "\n" not in str(raised.value)


def test_an_unknown_table_is_answered_with_the_known_ones(company: Company) -> None:
    for ask in (company.context().warehouse.pin, company.context().warehouse.rollback):
        with pytest.raises(FunnelError, match="no table 'scores'; the tables are events, quarantine, users"):
            ask("scores")


@pytest.mark.parametrize("name", ["with space", "plus+sign", "per%20cent", "ünï", "[1]{x}*"])
def test_a_folder_name_may_contain_other_characters(tmp_path: Path, company: Company, name: str) -> None:
    company.folder = company.folder.rename(tmp_path / name)
    company.config = company.folder / "funnel.toml"
    publish(warehouse_at(company.config), D1, D1, {D1: ["a"]})
    assert contents(warehouse_at(company.config)) == {D1: ["a"]}


@pytest.mark.parametrize("name", ["issue #7", "what?"])
def test_a_folder_that_a_location_cannot_name_is_refused(tmp_path: Path, company: Company, name: str) -> None:
    company.folder = company.folder.rename(tmp_path / name)
    with pytest.raises(FunnelError, match="the warehouse cannot lie in") as raised:
        publish(warehouse_at(company.folder / "funnel.toml"), D1, D1, {D1: ["a"]})
    assert name in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_locked_catalog_is_given_up_when_patience_ends(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.warehouse.catalog.LOCK_SECONDS", 1)
    monkeypatch.setattr("pipeline.warehouse.retries.PATIENCE_SECONDS", 1)
    publish(warehouse_at(company.config), D1, D1, {D1: ["a"]})
    with closing(sqlite3.connect(company.folder / "warehouse" / "catalog.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        with pytest.raises(LockedError, match="another program has locked"):
            publish(warehouse_at(company.config), D1, D1, {D1: ["b"]})
        assert time.monotonic() - begun < 15, "twenty attempts would take longer"
    assert contents(warehouse_at(company.config)) == {D1: ["a"]}
