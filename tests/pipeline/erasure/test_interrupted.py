"""Bad input to an erasure, an erasure beside other runs, and one that is killed."""

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from pipeline.dates import DateRange
from pipeline.erasure.ids import read_ids
from pipeline.maintenance import maintain
from pipeline.runs.erasures import read_erased
from pipeline.runs.record import recorded
from tests.pipeline.erasure.conftest import ANN, BEN, CAT, D1
from tests.pipeline.erasure.test_erase import Funnel, places_of, users_in
from tests.support.company import Company
from tests.support.kill_at import kill_at

PROCESSES = multiprocessing.get_context("spawn")


def files_below(company: Company) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in company.folder.rglob("*") if path.is_file()}


def test_nobody_to_erase(full: Company, funnel: Funnel) -> None:
    before = files_below(full)
    assert "--user" in funnel("erase", "-c", full.config).complaint
    assert "empty id" in funnel("erase", "--user", " ", "-c", full.config).complaint
    assert files_below(full) == before


def test_a_user_who_is_not_there(full: Company, funnel: Funnel) -> None:
    before = files_below(full)
    ended = funnel("erase", "--user", "nobody", "-c", full.config)
    assert (ended.code, ended.err) == (0, "")
    assert "not there: 'nobody'" in ended.out
    assert files_below(full) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "has no id; it takes UTF-8 text with one id a line"),
        (b"user_id\n\n", "has no id; it takes UTF-8 text with one id a line"),
        (b"\xff\xfe\nu\x00\n", "has no id: none of its 2 lines can be read"),
    ],
)
def test_a_list_without_an_id(full: Company, funnel: Funnel, content: bytes | None, reason: str) -> None:
    ids = full.folder / "ids.txt"
    if content is not None:
        ids.write_bytes(content)
    before = files_below(full)
    complaint = funnel("erase", "--file", ids, "-c", full.config).complaint
    assert str(ids) in complaint and reason in complaint
    assert files_below(full) == before


def test_ids_are_read_as_ingest_reads_them(tmp_path: Path) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text('\ufeffuser_id\r\n"a ""b"""\r\n\u00a0c \r\n007\r\n', encoding="utf-8")
    assert read_ids([" d "], ids, notify=pytest.fail) == ["007", 'a "b"', "c", "d"]


def test_an_erasure_refuses_beside_a_running_night(full: Company, funnel: Funnel) -> None:
    before = files_below(full)
    with recorded(full.context(), "score", DateRange(D1, D1)):
        complaint = funnel("erase", "--user", ANN, "-c", full.config).complaint
        assert "writing to" in complaint and "nothing was erased" in complaint
        assert files_below(full) == before
    assert funnel("erase", "--user", ANN, "-c", full.config).code == 0


def test_runs_wait_for_an_erasure(full: Company) -> None:
    descriptor = os.open(full.folder / "warehouse", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    told = threading.Event()
    context = full.context()
    context.notify = lambda line: told.set() if "waiting" in line else None
    run = threading.Thread(target=maintain, args=[context], kwargs={"dry_run": True})
    run.start()
    try:
        assert told.wait(10)
        assert run.is_alive()
    finally:
        os.close(descriptor)
        run.join(30)
    assert not run.is_alive()


def _erase_and_die(config: Path, function: str, call: int) -> None:
    from pipeline.__main__ import main

    kill_at(function, call)
    sys.argv = ["funnel", "erase", "--user", ANN, "--config", str(config)]
    main()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("pipeline.erasure.erase:write_pending", 1),
        ("pipeline.warehouse.warehouse:Warehouse.append", 1),
        ("pipeline.warehouse.warehouse:Warehouse.erase", 2),
        ("pipeline.warehouse.erasure:_expire", 1),
        ("pipeline.warehouse.erasure:_remove", 2),
        ("pipeline.warehouse.warehouse:Warehouse.append", 2),
        ("pipeline.erasure.erase:drop_pending", 1),
    ],
)
def test_an_erasure_that_is_killed_is_finished_by_the_next(
    full: Company, funnel: Funnel, function: str, call: int
) -> None:
    victim = PROCESSES.Process(target=_erase_and_die, args=(full.config, function, call))
    victim.start()
    victim.join(120)
    assert victim.exitcode == -signal.SIGKILL
    assert users_in(full, "events") >= {BEN, CAT}
    if function.endswith("write_pending"):
        assert len(users_in(full, "events")) == 3, "nothing had begun"
        again = funnel("erase", "--user", ANN, "-c", full.config)
    else:
        with recorded(full.context(), "score", DateRange(D1, D1)):
            assert full.lines[-1].startswith("warning: the erasure of 1 user begun on")
        assert "is not finished: run `funnel erase`" in funnel("doctor", "-c", full.config).out
        again = funnel("erase", "-c", full.config)
        assert "finishing the erasure of 1 user" in again.out
    assert again.code == 0, again.err
    assert places_of(full, ANN) == []
    assert users_in(full, "events") == {BEN, CAT}
    assert sorted(row["status"] for row in full.rows("erasures")) == ["begun", "done"]
    assert len(read_erased(full.context().warehouse).hashes) == 1


def test_an_unfinished_erasure_that_cannot_be_read(full: Company, funnel: Funnel) -> None:
    (full.folder / "warehouse" / "erasing.json").write_text("{", encoding="utf-8")
    complaint = funnel("erase", "--user", ANN, "-c", full.config).complaint
    assert "erasing.json cannot be read" in complaint
