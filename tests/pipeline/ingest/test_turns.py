"""Runs that land days at the same time take turns, in the order of their days."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.dates import DateRange
from pipeline.ingest import turns
from pipeline.ingest.turns import take_turn, wait_for_earlier
from tests.support.company import Company
from tests.support.places import ROOT

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
HOLD = """
import sys
from datetime import date
from pathlib import Path
from pipeline.config.settings import load
from pipeline.dates import DateRange
from pipeline.ingest.turns import take_turn
from pipeline.runs.context import Context
day = date.fromisoformat(sys.argv[2])
with take_turn(Context(load(Path(sys.argv[1]))), DateRange(day, day)):
    print("landing", flush=True)
    sys.stdin.read()
"""


def hold(company: Company, day: date) -> "subprocess.Popen[str]":
    """Another run that is landing a day until it is told to end."""
    command = [sys.executable, "-c", HOLD, str(company.config), str(day)]
    run = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "landing\n"
    return run


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "POLL_SECONDS", 0.01)


def lands_at_once(company: Company, day: date) -> bool:
    landed = threading.Event()

    def land() -> None:
        with take_turn(company.context(), DateRange(day, day)):
            landed.set()

    threading.Thread(target=land, daemon=True).start()
    return landed.wait(0.5)


def test_a_later_day_waits_and_no_other(company: Company) -> None:
    other = hold(company, D2)
    try:
        assert lands_at_once(company, D1)
        assert lands_at_once(company, D2), "one that lands the same day waits for nobody"
        assert lands_at_once(company, D2 + timedelta(days=31)), "nothing of that day is looked back on"
        assert not lands_at_once(company, D3)
        assert company.lines == [f"waiting for another run that is landing {D2}"]
    finally:
        other.communicate("")
    wait_for_earlier(company.context(), DateRange(D3, D3))


def test_a_run_that_was_killed_holds_nobody_up(company: Company) -> None:
    other = hold(company, D1)
    other.kill()
    other.communicate()
    folder = Path(company.settings.resolve("warehouse")) / turns.FOLDER
    assert len(list(folder.iterdir())) == 1
    assert lands_at_once(company, D2)
    assert not list(folder.glob(f"{D1}*"))


def test_a_stage_within_its_own_turn_does_not_wait_for_it(company: Company) -> None:
    with take_turn(company.context(), DateRange(D2, D3)), take_turn(company.context(), DateRange(D2, D2)):
        assert lands_at_once(company, D1)


def test_another_catalog_has_no_folder_to_announce_in(make_company: Callable[..., Company]) -> None:
    company = make_company('[warehouse]\ncatalog = { type = "rest", uri = "http://nowhere" }\n')
    with take_turn(company.context(), DateRange(D1, D1)):
        assert lands_at_once(company, D2)
