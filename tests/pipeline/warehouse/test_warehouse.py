"""The warehouse without Spark: tests write the files themselves; other processes publish and read at the same time."""

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import date, timedelta
from multiprocessing.synchronize import Event
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
from tests.support.nights import publish_with, put_file

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


def test_a_publish_swaps_its_range_and_nothing_else(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D4, {D1: ["a"], D2: ["b", "b"], D3: ["c"], D4: ["d"]})
    others = {day: warehouse.pin("quarantine", first=day, last=day).files for day in (D1, D4)}
    publish(warehouse, D2, D3, {D2: ["new"], D3: ["new", "newer"]})
    assert contents(warehouse) == {D1: ["a"], D2: ["new"], D3: ["new", "newer"], D4: ["d"]}
    for day, files in others.items():
        assert warehouse.pin("quarantine", first=day, last=day).files == files


def test_a_day_without_rows_in_a_published_range_is_emptied(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D3, {D1: ["a"], D2: ["b"], D3: ["c"]})
    publish(warehouse, D2, D3, {D3: ["c"]})
    assert contents(warehouse) == {D1: ["a"], D3: ["c"]}
    publish(warehouse, D1, D3, {})
    assert contents(warehouse) == {}
    assert warehouse.pin("quarantine").files == ()


def test_publishing_nothing_into_a_new_table(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    assert publish(warehouse, D1, D1, {}) is None
    assert contents(warehouse) == {}
    assert warehouse.pin("quarantine").snapshot_id is None


def test_a_pinned_reader_keeps_its_files(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D2, {D1: ["old"], D2: ["old too"]})
    pinned = warehouse.pin("quarantine")
    published = publish(warehouse, D1, D1, {D1: ["new"]})
    assert reasons_in(pinned.files) == ["old", "old too"]
    now = warehouse.pin("quarantine")
    assert reasons_in(now.files) == ["new", "old too"]
    assert now.snapshot_id == published != pinned.snapshot_id


def test_a_pin_holds_only_the_files_of_its_dates(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D4, {D1: ["a"], D2: ["b"], D3: ["c"], D4: ["d"]})
    for first, last, found in ((None, D2, "ab"), (D2, D3, "bc"), (D3, None, "cd"), (None, None, "abcd")):
        assert reasons_in(warehouse.pin("quarantine", first=first, last=last).files) == list(found)


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


def test_a_rollback_restores_the_state_before_the_last_publish(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    first = publish(warehouse, D1, D2, {D1: ["a"], D2: ["b"]})
    publish(warehouse, D2, D2, {D2: ["wrong"]})
    assert warehouse.rollback("quarantine") == first
    assert contents(warehouse) == {D1: ["a"], D2: ["b"]}
    publish(warehouse, D2, D2, {D2: ["right"]})
    assert contents(warehouse) == {D1: ["a"], D2: ["right"]}, "a table goes on from where it was rolled back to"


def test_the_first_publish_cannot_be_rolled_back(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    with pytest.raises(FunnelError, match="table 'quarantine' has no state before snapshot"):
        warehouse.rollback("quarantine")
    with pytest.raises(FunnelError, match="table 'events' has nothing to roll back"):
        warehouse.rollback("events")
    assert contents(warehouse) == {D1: ["a"]}


def test_a_table_is_widened_when_the_configuration_gains_a_column(company: Company) -> None:
    publish_with(warehouse_at(company.config), "users", D1, [{"user_id": "ann", "age": 30.0}])
    text = company.config.read_text(encoding="utf-8").replace('numeric = ["age"]', 'numeric = ["age", "income"]')
    company.config.write_text(text, encoding="utf-8")
    widened = warehouse_at(company.config)
    assert widened.arrow("users", first=D1, last=D1).num_rows == 1, "it can be read before it is widened"
    publish_with(widened, "users", D2, [{"user_id": "bob", "age": 40.0, "income": 5.0}])
    rows = company.rows("users")
    assert [(row["user_id"], row["age"], row["income"]) for row in rows] == [("ann", 30.0, None), ("bob", 40.0, 5.0)]


def test_a_column_that_changes_its_type_is_one_line(company: Company) -> None:
    warehouse_at(company.config).staging("users")
    text = company.config.read_text(encoding="utf-8")
    text = text.replace('categorical = ["city_tier"]', "").replace('numeric = ["age"]', 'numeric = ["city_tier"]')
    company.config.write_text(text, encoding="utf-8")
    with pytest.raises(FunnelError, match=r"table 'users'.*city_tier") as raised:
        warehouse_at(company.config).staging("users")
    assert "\n" not in str(raised.value)


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


def republish_days(config: Path, writer: int, days: list[date]) -> None:
    warehouse = warehouse_at(config)
    for day in days:
        publish(warehouse, day, day, {day: [f"writer {writer}"] * 2})


@pytest.mark.slow
def test_publishers_of_different_dates_lose_nothing(company: Company) -> None:
    # The first publish also creates the catalog and the table, which all six try at once.
    writers, each = 6, 3
    days = {writer: [D1 + timedelta(days=writer + writers * n) for n in range(each)] for writer in range(writers)}
    with ProcessPoolExecutor(writers, mp_context=PROCESSES) as pool:
        running = [pool.submit(republish_days, company.config, writer, days[writer]) for writer in days]
        for each_run in running:
            each_run.result()
    expected = {day: [f"writer {writer}"] * 2 for writer in days for day in days[writer]}
    assert contents(warehouse_at(company.config)) == expected


def read_until(config: Path, started: Event, done: Event) -> list[list[str]]:
    """What each read of the table returns, pinned and through Arrow."""
    warehouse, seen = warehouse_at(config), []
    while not done.is_set():
        seen.append(reasons_in(warehouse.pin("quarantine", first=D2, last=D2).files))
        seen.append(contents(warehouse).get(D2, []))
        started.set()
    return seen


def test_a_reader_sees_the_old_rows_or_the_new_never_neither(company: Company) -> None:
    warehouse, rounds, rows = warehouse_at(company.config), 12, 50
    publish(warehouse, D1, D3, {D1: ["a"], D2: ["0"] * rows, D3: ["c"]})
    with PROCESSES.Manager() as manager, ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        started, done = manager.Event(), manager.Event()
        reader = pool.submit(read_until, company.config, started, done)
        started.wait(240)
        for n in range(1, rounds):
            publish(warehouse, D2, D2, {D2: [str(n)] * rows})
        done.set()
        looks = reader.result()
    versions = {look[0] for look in looks if look}
    assert all(len(look) == rows and len(set(look)) == 1 for look in looks), "an empty, a half or a mixed partition"
    assert len(versions) > 2, "the reader never met a publish"


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
