"""Maintenance next to readers, writers and rollbacks: what they need stays, and a kill midway loses nothing."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.expressions import visitors
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Transaction

from pipeline.config.settings import load
from pipeline.errors import FunnelError
from pipeline.maintenance import maintain
from pipeline.runs.context import Context
from pipeline.warehouse import upkeep
from pipeline.warehouse.warehouse import Warehouse
from tests.pipeline.warehouse.test_warehouse import contents, reasons_in, staged, warehouse_at
from tests.support import nights
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.kill_at import kill_at

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
PROCESSES = multiprocessing.get_context("spawn")
LONG_AFTER = datetime.now(UTC) + timedelta(days=30)
"""A month on, everything a test makes is past every age limit of the configuration."""
NOTHING = ["nothing to clear away"]


def publish(warehouse: Warehouse, rows: Mapping[date, list[str]]) -> int | None:
    """Publish to `quarantine` once, each row in its own file."""
    files = [staged(warehouse, day, [reason]) for day, reasons in rows.items() for reason in reasons]
    return warehouse.publish("quarantine", files, first=min(rows), last=max(rows), summary={})


def record(warehouse: Warehouse, day: date, stage: str) -> None:
    row = {"ds": day, "run_id": "run", "stage": stage, "inputs": [("events", 7)], "started_at": datetime.now(UTC)}
    warehouse.append("runs", [row])


def files_of(warehouse: Warehouse, name: str, day: date) -> tuple[str, ...]:
    return warehouse.pin(name, first=day, last=day).files


def files_below(company: Company) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (company.folder / "warehouse").rglob("*") if path.is_file()}


def run_maintenance(company: Company, **options: Any) -> list[str]:
    """Run maintenance; return the lines it prints."""
    lines: list[str] = []
    maintain(Context(company.settings, notify=lines.append), **options)
    return lines


def stages(company: Company) -> list[str]:
    return sorted(row["stage"] for row in company.rows("runs"))


@contextmanager
def once_before(patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]) -> Iterator[list[str]]:
    """Call `act` once, just before the first call of a function; fails if the function is never called."""
    real, done = getattr(owner, name), []

    def wrapped(*args: Any, **options: Any) -> Any:
        if not done:
            done.append(name)
            act()
        return real(*args, **options)

    with patch.context() as inner:
        inner.setattr(owner, name, wrapped)
        yield done
    assert done, f"{name} was never called"


def test_crowded_partitions_become_one_file_of_the_same_rows(company: Company, funnel: Callable[..., Ended]) -> None:
    warehouse = warehouse_at(company.config)
    for n in range(9):
        record(warehouse, D1, f"stage {n}")
        record(warehouse, D2, f"stage {n}")
    record(warehouse, D3, "alone")
    publish(warehouse, {D1: [f"reason {n}" for n in range(9)], D2: ["few", "files"]})
    before = {name: company.rows(name) for name in ("runs", "quarantine")}
    alone = files_of(warehouse, "runs", D3), files_of(warehouse, "quarantine", D2)

    assert run_maintenance(company) == ["quarantine  9 files compacted into 1", "runs        18 files compacted into 2"]
    assert {name: company.rows(name) for name in before} == before
    assert [len(files_of(warehouse, "runs", day)) for day in (D1, D2, D3)] == [1, 1, 1]
    assert len(files_of(warehouse, "quarantine", D1)) == 1
    assert (files_of(warehouse, "runs", D3), files_of(warehouse, "quarantine", D2)) == alone
    assert run_maintenance(company) == NOTHING

    record(warehouse, D1, "later")
    query = "SELECT count(*), min(inputs['events']), max(started_at) IS NOT NULL FROM runs"
    found = funnel("sql", query, "--format", "csv", "--config", company.config).out.splitlines()
    assert found[1] == "20,7,true", "analysts read old, new and compacted files as one table"
    assert stages(company) == sorted([*(row["stage"] for row in before["runs"]), "later"])


def test_a_dry_run_reports_and_changes_nothing(company: Company, funnel: Callable[..., Ended]) -> None:
    warehouse = warehouse_at(company.config)
    for n in range(9):
        record(warehouse, D1, f"stage {n}")
    before = files_below(company)
    run = funnel("maintain", "--dry-run", "--config", company.config)
    assert (run.code, run.out) == (0, "runs        9 files would be compacted into 1\n")
    (line,) = run_maintenance(company, dry_run=True, now=LONG_AFTER)
    # Five snapshots stay; each of the other four has a manifest list that no other snapshot uses.
    assert line.startswith(
        "runs        9 files would be compacted into 1, 4 snapshots would be expired, 4 orphans would"
    )
    assert files_below(company) == before
    assert funnel("maintain", "--config", company.config).out == "runs        9 files compacted into 1\n"
    assert funnel("maintain", "--config", company.config).out == "nothing to clear away\n"


def test_old_snapshots_go_with_their_files_and_the_last_publishes_stay(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    for n in range(8):
        publish(warehouse, {D1: [f"version {n}"], D2: ["always"]} if n == 0 else {D1: [f"version {n}"]})
    oldest, now = warehouse.pin("quarantine"), company.rows("quarantine")
    publish(warehouse, {D3: ["wrong"]})
    warehouse.rollback("quarantine")
    (line,) = run_maintenance(company, now=LONG_AFTER)
    assert line.startswith("quarantine  ") and "snapshots expired" in line and "orphans removed" in line
    assert company.rows("quarantine") == now
    assert reasons_in(oldest.files) == ["always", "version 7"]
    assert run_maintenance(company, now=LONG_AFTER) == NOTHING

    for n in (6, 5, 4, 3):
        warehouse.rollback("quarantine")
        assert contents(warehouse) == {D1: [f"version {n}"], D2: ["always"]}
    with pytest.raises(FunnelError, match="table 'quarantine' has no state before snapshot") as raised:
        warehouse.rollback("quarantine")
    assert "\n" not in str(raised.value)
    publish(warehouse, {D1: ["a new beginning"]})
    assert contents(warehouse) == {D1: ["a new beginning"], D2: ["always"]}


def test_files_of_expired_snapshots_are_removed(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, {D1: ["first"]})
    first = warehouse.pin("quarantine")
    for n in range(5):
        publish(warehouse, {D1: [f"version {n}"]})
    assert run_maintenance(company) == NOTHING
    assert reasons_in(first.files) == ["first"], "within keep_days a pinned snapshot can be read"
    run_maintenance(company, now=LONG_AFTER)
    with pytest.raises(FileNotFoundError):
        reasons_in(first.files)


def test_a_reader_of_an_old_snapshot_that_was_current_until_just_now_keeps_it(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, {D1: ["older"]})
    publish(warehouse, {D1: ["old"]})
    time.sleep(0.01)
    came = datetime.now(UTC)
    pinned = warehouse.pin("quarantine")
    for n in range(4):
        publish(warehouse, {D1: [f"version {n}"]})
    cleaned = warehouse.clean("quarantine", since=came, publishes=2, older_than=LONG_AFTER, dry_run=False)
    assert cleaned.snapshots == 2, "of the first publish, and the delete half of the second"
    assert reasons_in(pinned.files) == ["old"]
    assert contents(warehouse) == {D1: ["version 3"]}


def test_a_rollback_after_compaction_takes_back_the_publish(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    many = [f"reason {n}" for n in range(9)]
    publish(warehouse, {D1: many})
    publish(warehouse, {D2: many})
    assert run_maintenance(company) == ["quarantine  18 files compacted into 2"]
    warehouse.rollback("quarantine")
    assert contents(warehouse) == {D1: many}


def test_a_compaction_finds_its_files_in_whichever_order_threads_look(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = warehouse_at(company.config)
    for day in (D3 - timedelta(days=n) for n in range(6)):
        files = [staged(warehouse, day, [f"{day} {n}"]) for n in range(3 if day == D2 else 1)]
        warehouse.publish("quarantine", files, first=day, last=day, summary={})
    before = contents(warehouse)

    def evaluate(visitor: Any, manifest: ManifestFile) -> bool:
        visitor.partition_fields = manifest.partitions
        # PyIceberg's own, but for a pause in which another thread asks.
        time.sleep(0.01)
        return visitors.visit(visitor.partition_filter, visitor)

    monkeypatch.setattr(visitors._ManifestEvalVisitor, "eval", evaluate)
    assert warehouse.compact("quarantine", more_than=2, dry_run=False) == upkeep.Compacted(3, 1)
    assert contents(warehouse) == before


def test_orphans_are_removed_once_old(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, {D1: ["live"]})
    (live,) = (Path(path.removeprefix("file://")) for path in warehouse.pin("quarantine").files)
    table = company.folder / "warehouse" / "funnel" / "quarantine"
    young, old = (Path(staged(warehouse, D2, [age]).removeprefix("file://")) for age in ("young", "old"))
    checksums = [each.with_name(f".{each.name}.crc") for each in (live, young, old)]
    lost_metadata = [table / "metadata" / name for name in ("00009-lost.metadata.json", "lost-m0.avro")]
    for path in (*checksums, *lost_metadata):
        path.write_text("x", encoding="utf-8")
    later = datetime.now(UTC) + timedelta(days=4)
    for path in (young, checksums[1]):
        os.utime(path, (later.timestamp(), later.timestamp()))
    size = old.stat().st_size + 3

    before = set(files_below(company))
    (line,) = run_maintenance(company, now=later)
    assert line.startswith("quarantine  4 orphans removed (") and before - set(files_below(company)) == {
        old,
        checksums[2],
        *lost_metadata,
    }
    assert line.endswith(f"({size / 1000:.3g} kB)" if size >= 1000 else f"({size:.3g} B)")
    assert contents(warehouse) == {D1: ["live"]}
    warehouse.publish("quarantine", [f"file://{young}"], first=D2, last=D2, summary={})
    assert contents(warehouse) == {D1: ["live"], D2: ["young"]}


def test_rows_appended_during_compaction_are_kept(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = warehouse_at(company.config)
    for n in range(9):
        record(warehouse, D1, f"stage {n}")
    with once_before(monkeypatch, upkeep, "_write_as_one", lambda: record(warehouse, D1, "meanwhile")):
        lines = run_maintenance(company)
    assert lines == ["runs        10 files compacted into 1"]
    assert stages(company) == sorted([*(f"stage {n}" for n in range(9)), "meanwhile"])


def test_rows_replaced_during_compaction_do_not_return(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, {D1: ["old"] * 9, D2: ["kept"] * 9})
    with once_before(monkeypatch, upkeep, "_write_as_one", lambda: publish(warehouse, {D1: ["new"]})):
        run_maintenance(company)
    assert contents(warehouse) == {D1: ["new"], D2: ["kept"] * 9}


@pytest.mark.parametrize("meanwhile", ["compaction", "another publish"])
def test_a_publish_that_loses_a_race_for_its_own_date_replaces_it_whole(
    company: Company, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    warehouse = warehouse_at(company.config)
    if meanwhile == "compaction":
        publish(warehouse, {D1: ["old"] * 9})
        race: Callable[[], object] = lambda: run_maintenance(company)  # noqa: E731
    else:
        warehouse.staging("quarantine")
        race = lambda: publish(warehouse, {D1: ["the other's"]})  # noqa: E731
    with once_before(monkeypatch, Transaction, "add_files", race):
        publish(warehouse, {D1: ["mine"]})
    assert contents(warehouse) == {D1: ["mine"]}


def test_a_rollback_while_snapshots_expire_keeps_its_table(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = warehouse_at(company.config)
    for n in range(7):
        publish(warehouse, {D1: [f"version {n}"]})

    def roll_back_beyond_what_is_kept() -> None:
        for _ in range(5):
            warehouse.rollback("quarantine")

    with once_before(monkeypatch, upkeep, "_expire", roll_back_beyond_what_is_kept):
        run_maintenance(company, now=LONG_AFTER)
    assert contents(warehouse) == {D1: ["version 1"]}


def test_old_states_are_dropped_except_one_to_start_from(company: Company) -> None:
    days = [date(2026, 1, 1) + timedelta(days=7 * n) for n in range(20)]
    for day in days:
        nights.publish(company, "known_users", day, [{"user_id": "ann"}])
    kept = [day for day in days if day > days[-1] - timedelta(days=90)]
    dropped = days[: -len(kept) - 1]
    assert run_maintenance(company) == [f"known_users {len(dropped)} states until {dropped[-1]} dropped"]
    assert sorted(row["as_of"] for row in company.rows("known_users")) == [days[len(dropped)], *kept]
    assert run_maintenance(company) == NOTHING


def test_old_feature_samples_are_dropped(company: Company) -> None:
    days = [date(2026, 1, 1) + timedelta(days=n) for n in (0, 1, 2, 90, 91)]
    for day in days:
        nights.publish(company, "feature_samples", day, [{"user_id": "ann"}])
    assert run_maintenance(company, dry_run=True) == ["feature_samples 2 samples until 2026-01-02 would be dropped"]
    assert run_maintenance(company) == ["feature_samples 2 samples until 2026-01-02 dropped"]
    assert [row["ds"] for row in company.rows("feature_samples")] == days[2:]


def append_many(config: Path, number: int) -> None:
    warehouse = warehouse_at(config)
    for n in range(number):
        record(warehouse, D1, f"other {n}")


@pytest.mark.slow
def test_two_writers_during_compactions_lose_nothing(company: Company) -> None:
    each = 12
    with ProcessPoolExecutor(2, mp_context=PROCESSES) as pool:
        writers = [pool.submit(append_many, company.config, each) for _ in range(2)]
        rounds = 0
        while not all(writer.done() for writer in writers):
            company.context().warehouse.compact("runs", more_than=2, dry_run=False)
            rounds += 1
        for writer in writers:
            writer.result()
    assert rounds > 2
    assert stages(company) == sorted([f"other {n}" for n in range(each)] * 2)


KILLS = {
    "its file written": ("pipeline.warehouse.upkeep:parquet_files_to_data_files", 1),
    "compaction committed": ("pipeline.warehouse.upkeep:_list_files", 1),
    "snapshots expired": ("pipeline.warehouse.upkeep:_referenced_files", 1),
    "some files removed": ("pipeline.warehouse.upkeep:_remove", 3),
}


def maintain_and_be_killed(config: Path, point: str) -> None:
    kill_at(*KILLS[point])
    maintain(Context(load(config)), now=LONG_AFTER)


@pytest.mark.slow
def test_killed_anywhere_it_keeps_all_rows_and_the_next_run_finishes(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    for point in KILLS:
        for n in range(8):
            publish(warehouse, {D1: [f"{point} {n}"] * 9, D2: ["two"] * 9})
        before = contents(warehouse)
        killed = PROCESSES.Process(target=maintain_and_be_killed, args=(company.config, point))
        killed.start()
        killed.join(60)
        assert killed.exitcode == -signal.SIGKILL, point
        assert contents(warehouse_at(company.config)) == before
        assert run_maintenance(company, now=LONG_AFTER) != NOTHING, point
        assert run_maintenance(company, now=LONG_AFTER) == NOTHING, point
        assert contents(warehouse_at(company.config)) == before
        named = {Path(path.removeprefix("file://")) for path in warehouse.pin("quarantine").files}
        assert named <= set(files_below(company))
