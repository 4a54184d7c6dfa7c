"""Companies that are moved, copied, backed up and restored: their rows, their history and their models go with them."""

import json
import multiprocessing
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest
from pyiceberg.table import StaticTable

from pipeline.config.settings import load
from pipeline.maintenance import maintain
from pipeline.models.registry import Registry
from pipeline.relocation.company import back_up, relocate
from pipeline.runs.context import Context
from tests.pipeline.warehouse.test_ownership import LONG_AFTER, copy_of
from tests.pipeline.warehouse.test_warehouse import contents, publish, warehouse_at
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.kill_at import kill_at

D1, D2, D3, D4 = (date(2026, 3, 1) + timedelta(days=n) for n in range(4))
ROWS = {D1: ["a"], D2: ["b, delivered late"]}
PROCESSES = multiprocessing.get_context("spawn")
Funnel = Callable[..., Ended]


def fill(company: Company, publishes: int = 2) -> None:
    """Publish two days, again and again; after ten times, manifests have been merged."""
    warehouse = warehouse_at(company.config)
    for n in range(publishes):
        publish(warehouse, D1, D2, {D1: ["a"], D2: [f"b{n}"]})
    publish(warehouse, D2, D2, {D2: ["b, delivered late"]})


def train_by_hand(config: Path) -> str:
    """A registered and promoted model whose bundle is one small file."""
    registry = Registry(load(config))
    tracking = registry.tracking
    run = tracking.begin(D2, tags={}, parameters={})
    bundle = config.parent / "made" / run.version
    bundle.mkdir(parents=True)
    (bundle / "weights").write_text(run.version, encoding="utf-8")
    tracking.log_folder(run, bundle.parent, "bundle")
    tracking.finish(run)
    registry.register(run.version)
    registry.promote(run.version)
    shutil.rmtree(config.parent / "made")
    return run.version


def paths_named(config: Path) -> str:
    """All that the metadata, the lists and the manifests of `quarantine` say, as one text."""
    warehouse = config.parent / "warehouse"
    with closing(sqlite3.connect(warehouse / "catalog.db")) as connection:
        ((location,),) = connection.execute("SELECT metadata_location FROM iceberg_tables").fetchall()
    table = StaticTable.from_metadata(location)
    texts = [location, Path(location.removeprefix("file://")).read_text(encoding="utf-8")]
    for snapshot in table.snapshots():
        for manifest in snapshot.manifests(table.io):
            entries = manifest.fetch_manifest_entry(table.io, discard_deleted=False)
            texts += [manifest.manifest_path, *(entry.data_file.file_path for entry in entries)]
    return "\n".join(texts)


def test_a_copy_becomes_a_company_of_its_own(company: Company, funnel: Funnel) -> None:
    fill(company, publishes=11)
    copied = copy_of(company)
    before = funnel("sql", "SELECT * FROM quarantine", "-c", company.config).out
    assert "copied or moved" in funnel("tables", "-c", copied).complaint
    moved = funnel("warehouse", "relocate", "-c", copied)
    assert moved.code == 0 and f"{copied.parent}/warehouse" in moved.out and "verified" in moved.out
    assert "nothing to do" in funnel("warehouse", "relocate", "-c", copied).out
    assert str(company.folder) not in paths_named(copied)

    warehouse = warehouse_at(copied)
    publish(warehouse, D3, D3, {D3: ["of the copy"]})
    maintain(Context(load(copied), notify=lambda _: None), now=LONG_AFTER)
    assert funnel("sql", "SELECT * FROM quarantine", "-c", company.config).out == before
    shutil.rmtree(company.folder)
    assert contents(warehouse) == ROWS | {D3: ["of the copy"]}
    warehouse.rollback("quarantine")
    warehouse.rollback("quarantine")
    assert contents(warehouse) == {D1: ["a"], D2: ["b10"]}, "its history has come along"


def test_a_company_that_was_renamed(company: Company, funnel: Funnel) -> None:
    fill(company)
    names = warehouse_at(company.config).pin("quarantine").names
    moved = company.folder.rename(company.folder.with_name("renamed company")) / "funnel.toml"
    assert funnel("warehouse", "relocate", "-c", moved).code == 0
    assert warehouse_at(moved).pin("quarantine").names == names, "what was made from these files is still good"
    assert contents(warehouse_at(moved)) == ROWS
    back = moved.parent.rename(company.folder) / "funnel.toml"
    assert funnel("warehouse", "relocate", "-c", back).code == 0
    assert contents(warehouse_at(back)) == ROWS
    assert "every file of" in funnel("doctor", "--deep", "-c", back).out


def test_a_company_is_moved_to_another_folder(company: Company, funnel: Funnel) -> None:
    fill(company)
    (company.folder / "reports").mkdir()
    (company.folder / "reports" / "2026-03-02.html").write_text("a night's report", encoding="utf-8")
    new = company.folder.with_name("new place")
    new.mkdir()
    (new / "theirs").write_text("somebody's", encoding="utf-8")
    assert "is not empty" in funnel("warehouse", "relocate", "--to", new, "-c", company.config).complaint
    (new / "theirs").unlink()
    assert funnel("warehouse", "relocate", "--to", new, "-c", company.config).code == 0
    assert contents(warehouse_at(new / "funnel.toml")) == ROWS
    assert (new / "reports" / "2026-03-02.html").read_text(encoding="utf-8") == "a night's report"
    for command in (("tables",), ("maintain",)):
        assert f"was moved to {new}/warehouse" in funnel(*command, "-c", company.config).complaint


def test_a_backup_is_whole_and_can_be_restored(company: Company, funnel: Funnel) -> None:
    fill(company)
    version = train_by_hand(company.config)
    backup = company.folder.with_name("backup")
    assert funnel("warehouse", "backup", backup, "-c", company.config).code == 0
    publish(warehouse_at(company.config), D3, D3, {D3: ["after the backup"]})
    assert "is not empty" in funnel("warehouse", "restore", backup, "-c", company.config).complaint
    assert contents(warehouse_at(backup / "funnel.toml")) == ROWS, "a backup can be read where it is"

    inside, blocked = company.folder / "models" / "b", company.config / "b"
    assert "lies inside" in funnel("warehouse", "backup", inside, "-c", company.config).complaint
    assert str(company.config) in funnel("warehouse", "backup", blocked, "-c", company.config).complaint

    kept = backup.rename(backup.with_name("on another disk"))
    for name in ("warehouse", "models"):
        shutil.rmtree(company.folder / name)
    (damaged,) = kept.rglob("weights")
    damaged.write_text("changed", encoding="utf-8")
    complaint = funnel("warehouse", "restore", kept, "-c", company.config).complaint
    assert f"{damaged} was changed" in complaint and not (company.folder / "warehouse").exists()
    damaged.write_text(version, encoding="utf-8")
    assert funnel("warehouse", "restore", kept, "-c", company.config).code == 0
    assert contents(warehouse_at(company.config)) == ROWS
    shutil.rmtree(kept)
    assert contents(warehouse_at(company.config)) == ROWS
    assert (Registry(load(company.config)).bundle_path(version) / "weights").read_text(encoding="utf-8") == version
    assert "no complete backup" in funnel("warehouse", "restore", company.folder, "-c", company.config).complaint

    renamed = company.folder.rename(company.folder.with_name("renamed")) / "funnel.toml"
    assert f"{renamed.parent}/models was copied or moved" in funnel("models", "-c", renamed).complaint
    assert funnel("warehouse", "relocate", "-c", renamed).code == 0
    assert Registry(load(renamed)).bundle_path(version).is_relative_to(renamed.parent)
    assert version in funnel("models", "-c", renamed).out


def test_a_copy_that_lacks_a_file_stays_as_it_is(company: Company, funnel: Funnel) -> None:
    fill(company)
    moved = company.folder.rename(company.folder.with_name("moved")) / "funnel.toml"
    lost = sorted((moved.parent / "warehouse").rglob("*.parquet"))[0]
    content = lost.read_bytes()
    catalog = (moved.parent / "warehouse" / "catalog.db").read_bytes()
    for damage in (None, content[:100], b"x" * len(content)):
        lost.unlink() if damage is None else lost.write_bytes(damage)
        complaint = funnel("warehouse", "relocate", "-c", moved).complaint
        assert str(lost) in complaint and "Nothing was switched" in complaint
        assert (moved.parent / "warehouse" / "catalog.db").read_bytes() == catalog
    lost.write_bytes(content)
    assert funnel("warehouse", "relocate", "-c", moved).code == 0
    assert contents(warehouse_at(moved)) == ROWS


def test_a_copy_that_was_written_through_before_gets_its_newest_files(company: Company, funnel: Funnel) -> None:
    """An older release let a copy write into the original's folders: what it wrote is fetched from there."""
    fill(company)
    copied = copy_of(company)
    publish(warehouse_at(company.config), D3, D3, {D3: ["by the copy"]})
    shutil.copy(company.folder / "warehouse" / "catalog.db", copied.parent / "warehouse" / "catalog.db")
    assert funnel("warehouse", "relocate", "-c", copied).code == 0
    shutil.rmtree(company.folder)
    assert contents(warehouse_at(copied)) == ROWS | {D3: ["by the copy"]}


def act_and_be_killed(config: Path, backup: Path | None, point: str, times: int) -> None:
    kill_at(point, times)
    if backup:
        back_up(load(config), config, backup)
    else:
        relocate(load(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "times"),
    [("pipeline.relocation.tables:_rewrite_manifest", 3), ("pipeline.relocation.warehouse:_switch", 1)],
)
def test_killed_midway_it_is_run_again(company: Company, point: str, times: int) -> None:
    fill(company)
    moved = company.folder.rename(company.folder.with_name("moved")) / "funnel.toml"
    backup = company.folder.with_name("backup")
    for place in (None, backup):
        killed = PROCESSES.Process(target=act_and_be_killed, args=(moved, place, point, times))
        killed.start()
        killed.join(60)
        assert killed.exitcode == -signal.SIGKILL
        if place is None:
            relocate(load(moved))
            assert contents(warehouse_at(moved)) == ROWS
    back_up(load(moved), moved, backup)
    assert contents(warehouse_at(backup / "funnel.toml")) == ROWS
    files = json.loads((backup / "backup.json").read_text(encoding="utf-8"))["files"]
    assert {backup / name for name in files} <= {path for path in backup.rglob("*") if path.is_file()}
