"""Lost or damaged catalogs, metadata, manifests and data files: one line each, and the way back."""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from pyiceberg.manifest import clear_manifest_cache

from tests.pipeline.relocation.test_relocation import ROWS, Funnel, fill
from tests.pipeline.warehouse.test_ownership import empty, empty_table
from tests.pipeline.warehouse.test_warehouse import contents, publish, warehouse_at
from tests.support.company import Company

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))


def fill_with_garbage(file: Path) -> None:
    file.write_bytes(b"garbage, and longer than the header of a database " * 40)


def newest(company: Company, pattern: str) -> Path:
    found = (company.folder / "warehouse" / "funnel" / "quarantine").rglob(pattern)
    return max(found, key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("lose", [Path.unlink, empty, empty_table, fill_with_garbage])
def test_a_lost_catalog_is_made_again_from_the_tables(
    company: Company, funnel: Funnel, lose: Callable[[Path], None]
) -> None:
    fill(company)
    lose(company.folder / "warehouse" / "catalog.db")
    for command in (("tables",), ("maintain",), ("sql", "SELECT * FROM quarantine")):
        assert "funnel warehouse recover" in funnel(*command, "-c", company.config).complaint
    recovered = funnel("warehouse", "recover", "-c", company.config)
    assert recovered.code == 0 and "2 rows" in recovered.out
    assert contents(warehouse_at(company.config)) == ROWS
    warehouse_at(company.config).rollback("quarantine")
    assert contents(warehouse_at(company.config)) != ROWS, "with its history"
    assert "as it was" in funnel("warehouse", "recover", "-c", company.config).out


@pytest.mark.parametrize(
    ("pattern", "kind", "lose"),
    [
        ("*.metadata.json", "metadata file", Path.unlink),
        ("*.metadata.json", "metadata file", fill_with_garbage),
        ("snap-*.avro", "manifest list", empty),
        ("*-m*.avro", "manifest", Path.unlink),
        ("*-m*.avro", "manifest", fill_with_garbage),
    ],
)
def test_damaged_metadata_is_named_and_the_last_whole_state_is_registered(
    company: Company, funnel: Funnel, pattern: str, kind: str, lose: Callable[[Path], None]
) -> None:
    fill(company)
    lost = newest(company, pattern)
    lose(lost)
    clear_manifest_cache()
    for command in (("tables",), ("maintain",), ("sql", "SELECT * FROM quarantine"), ("rollback", "quarantine")):
        # A rollback goes by metadata alone.
        if command[0] != "rollback" or kind == "metadata file":
            complaint = funnel(*command, "-c", company.config).complaint
            assert kind in complaint and str(lost) in complaint and "funnel warehouse recover" in complaint
    assert str(lost) in funnel("doctor", "--deep", "-c", company.config).out
    assert "registered" in funnel("warehouse", "recover", "-c", company.config).out
    assert contents(warehouse_at(company.config))[D1] == ["a"], "an earlier state, if need be"
    publish(warehouse_at(company.config), D3, D3, {D3: ["and on it goes"]})
    assert contents(warehouse_at(company.config))[D3] == ["and on it goes"]


def test_lost_data_is_named_with_its_night(company: Company, funnel: Funnel) -> None:
    fill(company)
    (file,) = warehouse_at(company.config).pin("quarantine", first=D2, last=D2).files
    lost = Path(file.removeprefix("file://"))
    content = lost.read_bytes()
    for damage in (None, content[:-5], b""):
        lost.unlink() if damage is None else lost.write_bytes(damage)
        complaint = funnel("sql", "SELECT count(*) FROM quarantine", "-c", company.config).complaint
        assert f"{lost} with 1 rows of {D2}" in complaint and "backup" in complaint
        (line,) = [line for line in funnel("doctor", "-c", company.config).out.splitlines() if " warehouse " in line]
        assert line.startswith("failed") and str(lost) in line
    lost.write_bytes(b"x" * len(content))
    assert str(lost) in funnel("sql", "SELECT * FROM quarantine", "-c", company.config).complaint
    checked = funnel("doctor", "--deep", "-c", company.config).out
    (line,) = [line for line in checked.splitlines() if line.startswith("failed  quarantine")]
    assert str(lost) in line and f"1 rows of {D2}" in line
    assert "warning" not in funnel("warehouse", "recover", "-c", company.config).out
    publish(warehouse_at(company.config), D2, D2, {D2: ["made again"]})
    assert contents(warehouse_at(company.config)) == {D1: ["a"], D2: ["made again"]}


def test_a_named_metadata_file_is_registered(company: Company, funnel: Funnel) -> None:
    """A table was made anew over another's files: both can be had."""
    fill(company)
    table, database = (
        company.folder / "warehouse" / "funnel" / "quarantine",
        company.folder / "warehouse" / "catalog.db",
    )
    whole = newest(company, "*.metadata.json")
    aside = table.rename(table.with_name("aside"))
    database.unlink()
    publish(warehouse_at(company.config), D3, D3, {D3: ["made anew"]})
    shutil.copytree(aside, table, dirs_exist_ok=True)
    shutil.rmtree(aside)
    assert contents(warehouse_at(company.config)) == {D3: ["made anew"]}
    chosen = ("warehouse", "recover", "--metadata", whole, "-c", company.config)
    assert "registered: 2 rows" in funnel(*chosen).out
    assert contents(warehouse_at(company.config)) == ROWS


def test_a_copy_without_its_catalog_is_recovered_then_relocated(company: Company, funnel: Funnel) -> None:
    fill(company)
    moved = company.folder.rename(company.folder.with_name("moved")) / "funnel.toml"
    (moved.parent / "warehouse" / "catalog.db").unlink()
    assert funnel("warehouse", "recover", "-c", moved).code == 0
    assert "funnel warehouse relocate" in funnel("tables", "-c", moved).complaint
    assert funnel("warehouse", "relocate", "-c", moved).code == 0
    assert contents(warehouse_at(moved)) == ROWS
