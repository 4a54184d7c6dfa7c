"""A catalog that names another warehouse's tables, and files that another catalog names, are left alone."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.config.settings import load
from pipeline.errors import FunnelError
from pipeline.maintenance import maintain
from pipeline.runs.context import Context
from pipeline.warehouse.warehouse import Warehouse
from tests.pipeline.warehouse.test_warehouse import contents, publish, reasons_in, warehouse_at
from tests.support.commands import Ended
from tests.support.company import Company

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
LONG_AFTER = datetime.now(UTC) + timedelta(days=30)


def copy_of(company: Company, name: str = "copy") -> Path:
    """The configuration of a copy of the company's whole folder."""
    folder = company.folder.with_name(name)
    shutil.copytree(company.folder, folder)
    return folder / "funnel.toml"


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def run_maintenance(config: Path) -> list[str]:
    lines: list[str] = []
    maintain(Context(load(config), notify=lines.append), now=LONG_AFTER)
    return lines


@pytest.mark.parametrize(
    "command",
    [
        ("ingest", "--ds", "2026-03-03"),
        ("maintain",),
        ("maintain", "--dry-run"),
        ("rollback", "quarantine"),
        ("sql", "SELECT count(*) FROM quarantine"),
        ("tables",),
        ("report", "--ds", "2026-03-02"),
    ],
)
def test_a_copied_company_is_refused(company: Company, funnel: Callable[..., Ended], command: tuple[str, ...]) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D2, {D1: ["a"], D2: ["b"]})
    copied = copy_of(company)
    publish(warehouse, D2, D2, {D2: ["b, delivered late"]})
    before = files_below(company.folder), files_below(copied.parent)
    complaint = funnel(*command, "-c", copied).complaint
    assert f"{copied.parent}/warehouse" in complaint
    assert f"lies in {company.folder}/warehouse." in complaint
    assert "funnel warehouse relocate" in complaint
    assert (files_below(company.folder), files_below(copied.parent)) == before
    assert contents(warehouse) == {D1: ["a"], D2: ["b, delivered late"]}


def test_a_moved_company_is_refused_by_writers_and_readers(company: Company, funnel: Callable[..., Ended]) -> None:
    publish(warehouse_at(company.config), D1, D1, {D1: ["a"]})
    moved = company.folder.rename(company.folder.with_name("moved")) / "funnel.toml"
    for command in (("tables",), ("sql", "SELECT count(*) FROM quarantine"), ("maintain",)):
        complaint = funnel(*command, "-c", moved).complaint
        assert f"lies in {company.folder}/warehouse." in complaint
    assert "failed  warehouse" in funnel("doctor", "-c", moved).out


def test_a_link_to_the_new_place_keeps_the_old_one_good(company: Company) -> None:
    publish(warehouse_at(company.config), D1, D1, {D1: ["a"]})
    moved = company.folder.rename(company.folder.with_name("moved"))
    company.folder.symlink_to(moved)
    publish(warehouse_at(moved / "funnel.toml"), D2, D2, {D2: ["b"]})
    assert contents(warehouse_at(moved / "funnel.toml")) == {D1: ["a"], D2: ["b"]}


def test_a_configured_catalog_whose_tables_lie_elsewhere(make_company: Callable[..., Company], tmp_path: Path) -> None:
    catalog = '[warehouse]\ncatalog = {{ type = "sql", uri = "sqlite:///{0}/c.db", warehouse = "file://{0}/{1}" }}\n'
    first = make_company(catalog.format(tmp_path, "one"))
    publish(warehouse_at(first.config), D1, D1, {D1: ["a"]})
    second = make_company(catalog.format(tmp_path, "two"))
    with pytest.raises(FunnelError, match=f"lies in file://{tmp_path}/one/funnel"):
        publish(warehouse_at(second.config), D2, D2, {D2: ["b"]})
    assert contents(warehouse_at(first.config)) == {D1: ["a"]}


def restore_catalog(company: Company, copy: Path) -> None:
    shutil.copy(copy, company.folder / "warehouse" / "catalog.db")


def test_files_that_a_newer_state_of_the_catalog_names_are_kept(company: Company, tmp_path: Path) -> None:
    """Yesterday's catalog is restored over today's files: what was committed since is nobody's orphan."""
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    shutil.copy(company.folder / "warehouse" / "catalog.db", old)
    for n in range(3):
        publish(warehouse, D2, D2, {D2: [f"b{n}"]})
    newest = warehouse.pin("quarantine").files
    shutil.copy(company.folder / "warehouse" / "catalog.db", new)
    restore_catalog(company, old)
    (line,) = run_maintenance(company.config)
    assert "files kept" in line and "00004-" in line
    # The restored catalog goes its own way, past the number of commits of the other.
    for n in range(4):
        publish(warehouse_at(company.config), D3, D3, {D3: [f"c{n}"]})
    assert "files kept" in run_maintenance(company.config)[0]
    assert reasons_in(newest) == ["a", "b2"]
    restore_catalog(company, new)
    assert contents(warehouse_at(company.config)) == {D1: ["a"], D2: ["b2"]}


def test_one_commit_of_another_catalog_is_kept_and_one_that_lost_its_race_is_not(
    company: Company, tmp_path: Path
) -> None:
    warehouse, old = warehouse_at(company.config), tmp_path / "old.db"
    publish(warehouse, D1, D1, {D1: ["a"]})
    shutil.copy(company.folder / "warehouse" / "catalog.db", old)
    publish(warehouse, D2, D2, {D2: ["b"]})
    theirs = warehouse.pin("quarantine", first=D2).files
    metadata = max((company.folder / "warehouse").rglob("*.metadata.json"), key=lambda path: path.name)
    restore_catalog(company, old)
    publish(warehouse_at(company.config), D3, D3, {D3: ["c"]})
    at_once = metadata.read_text(encoding="utf-8")
    content = json.loads(at_once)
    content["last-updated-ms"] += 2 * 3_600_000
    metadata.write_text(json.dumps(content), encoding="utf-8")
    assert "files kept" in run_maintenance(company.config)[0]
    assert reasons_in(theirs) == ["b"]
    metadata.write_text(at_once, encoding="utf-8")
    assert "orphans removed" in run_maintenance(company.config)[0]
    assert not Path(theirs[0].removeprefix("file://")).exists()
    assert contents(warehouse_at(company.config)) == {D1: ["a"], D3: ["c"]}


def test_a_table_made_anew_over_files_does_not_take_them_for_orphans(company: Company) -> None:
    """An older release made tables anew when the catalog was gone; its maintenance removed what had been there."""
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D2, {D1: ["a"], D2: ["b"]})
    files = warehouse.pin("quarantine").files
    database, table = company.folder / "warehouse" / "catalog.db", company.folder / "warehouse" / "funnel"
    database.unlink()
    aside = table.rename(table.with_name("aside"))
    publish(warehouse_at(company.config), D3, D3, {D3: ["c"]})
    shutil.copytree(aside, table, dirs_exist_ok=True)
    days_ago = time.time() - 4 * 86_400
    for path in table.rglob("*"):
        os.utime(path, (days_ago, days_ago))
    assert "files kept" in run_maintenance(company.config)[0]
    assert reasons_in(files) == ["a", "b"]
    assert contents(warehouse_at(company.config)) == {D3: ["c"]}


def test_what_is_older_than_a_table_is_not_its_orphan(company: Company) -> None:
    """A catalog made anew over rows whose metadata is gone too."""
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    files = [Path(each.removeprefix("file://")) for each in warehouse.pin("quarantine").files]
    kept = [(path, path.read_bytes()) for path in files]
    shutil.rmtree(company.folder / "warehouse")
    publish(warehouse_at(company.config), D3, D3, {D3: ["c"]})
    left = [path.with_name(f"left-{path.name}") for path in files]
    for path, (_, content) in zip(left, kept, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert "1 orphans removed" in run_maintenance(company.config)[0]
    for path, (_, content) in zip(left, kept, strict=True):
        path.write_bytes(content)
        os.utime(path, (time.time() - 3_600, time.time() - 3_600))
    assert run_maintenance(company.config)[0].endswith(
        "1 files kept that are older than the table, though nothing names them"
    )
    assert all(path.exists() for path in left)


def empty(database: Path) -> None:
    database.write_bytes(b"")


def empty_table(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM iceberg_tables")


@pytest.mark.parametrize("lose", [Path.unlink, empty, empty_table])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_lost_catalog_is_not_made_anew(company: Company, lose: Callable[[Path], None], *, read_only: bool) -> None:
    publish(warehouse_at(company.config), D1, D1, {D1: ["a"]})
    before = files_below(company.folder / "warehouse" / "funnel")
    database = company.folder / "warehouse" / "catalog.db"
    lose(database)
    was = database.exists()
    with pytest.raises(FunnelError, match=r"no table 'quarantine'.*funnel warehouse recover") as raised:
        Warehouse.of(load(company.config), read_only=read_only).pin("quarantine")
    assert "\n" not in str(raised.value)
    assert database.exists() == was
    assert files_below(company.folder / "warehouse" / "funnel") == before
