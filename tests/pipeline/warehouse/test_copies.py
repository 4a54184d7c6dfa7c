"""Copies of the catalog, kept at each commit: a lost one is made again as it was, to the last commit."""

import json
import logging
import shutil
from datetime import date
from pathlib import Path
from uuid import uuid4

import pytest

from pipeline.warehouse.copies import FOLDER, KEPT, copied_entries
from pipeline.warehouse.damage import metadata_files
from pipeline.warehouse.local_catalog import read_entries
from tests.pipeline.relocation.test_recovery import fill_with_garbage
from tests.pipeline.relocation.test_relocation import ROWS, Funnel, fill
from tests.pipeline.warehouse.test_warehouse import contents, publish, warehouse_at
from tests.support.company import Company

D3 = date(2026, 3, 3)


def copies_of(company: Company) -> list[Path]:
    return sorted((company.folder / "warehouse" / FOLDER).iterdir())


def lose_a_race(table: Path) -> Path:
    """The metadata file of a commit upon the current one that no catalog names; its state is the one before."""
    current = metadata_files(table)[0]
    content = json.loads(current.read_text(encoding="utf-8"))
    first = min(content["snapshots"], key=lambda each: each["timestamp-ms"])["snapshot-id"]
    content |= {"last-updated-ms": content["last-updated-ms"] + 1_000, "current-snapshot-id": first}
    content["refs"]["main"]["snapshot-id"] = first
    content["metadata-log"].append({"metadata-file": f"file://{current}", "timestamp-ms": content["last-updated-ms"]})
    lost = current.with_name(f"{int(current.name[:5]) + 1:05}-{uuid4()}.metadata.json")
    lost.write_text(json.dumps(content), encoding="utf-8")
    return lost


def test_the_last_commits_are_copied(company: Company) -> None:
    fill(company)
    for text in "abcdef":
        publish(warehouse_at(company.config), D3, D3, {D3: [text]})
    copies = copies_of(company)
    assert len(copies) == KEPT
    database = company.folder / "warehouse" / "catalog.db"
    assert read_entries(copies[-1]) == read_entries(database) != read_entries(copies[-2])
    assert {copy.stat().st_mode for copy in copies} == {database.stat().st_mode}


def test_a_commit_that_lost_its_race_is_not_recovered(company: Company, funnel: Funnel) -> None:
    fill(company)
    lost = lose_a_race(company.folder / "warehouse" / "funnel" / "quarantine")
    (company.folder / "warehouse" / "catalog.db").unlink()
    said = funnel("warehouse", "recover", "-c", company.config).out
    assert contents(warehouse_at(company.config)) == ROWS
    (line,) = [line for line in said.splitlines() if "not registered" in line]
    assert str(lost) in line and "--metadata" in line
    assert funnel("warehouse", "recover", "--metadata", lost, "-c", company.config).code == 0
    assert contents(warehouse_at(company.config)) != ROWS, "unless it is asked for"


def test_a_damaged_copy_is_passed_over(company: Company, funnel: Funnel) -> None:
    fill(company)
    lose_a_race(company.folder / "warehouse" / "funnel" / "quarantine")
    database = company.folder / "warehouse" / "catalog.db"
    expected = read_entries(database)
    shutil.copy(database, copies_of(company)[-2])
    for damaged in (database, copies_of(company)[-1]):
        fill_with_garbage(damaged)
    assert set(copied_entries(database.parent)) >= set(expected)
    assert funnel("warehouse", "recover", "-c", company.config).code == 0
    assert read_entries(database) == expected


def test_what_was_committed_after_the_copies_is_recovered(company: Company, funnel: Funnel) -> None:
    fill(company)
    old = copies_of(company)
    kept = [(copy, copy.read_bytes()) for copy in old]
    for text in "abc":
        publish(warehouse_at(company.config), D3, D3, {D3: [text]})
    shutil.rmtree(company.folder / "warehouse" / FOLDER)
    (company.folder / "warehouse" / FOLDER).mkdir()
    for copy, content in kept:
        copy.write_bytes(content)
    (company.folder / "warehouse" / "catalog.db").unlink()
    assert funnel("warehouse", "recover", "-c", company.config).code == 0
    assert contents(warehouse_at(company.config)) == ROWS | {D3: ["c"]}


def test_a_relocated_company_has_no_copies_of_the_old_place(company: Company, funnel: Funnel) -> None:
    fill(company)
    moved = company.folder.rename(company.folder.with_name("moved")) / "funnel.toml"
    assert funnel("warehouse", "relocate", "-c", moved).code == 0
    entries = list(copied_entries(moved.parent / "warehouse"))
    assert entries == read_entries(moved.parent / "warehouse" / "catalog.db")
    assert all(str(moved.parent) in entry.metadata for entry in entries)


def test_a_commit_whose_copy_fails_is_done_and_told(company: Company, caplog: pytest.LogCaptureFixture) -> None:
    fill(company)
    folder = company.folder / "warehouse" / FOLDER
    shutil.rmtree(folder)
    folder.write_text("in the way", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        publish(warehouse_at(company.config), D3, D3, {D3: ["c"]})
    assert contents(warehouse_at(company.config)) == ROWS | {D3: ["c"]}
    assert "no copy of the catalog" in caplog.text and str(folder) in caplog.text
