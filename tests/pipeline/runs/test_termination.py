"""SIGTERM and Ctrl-C: the stage that was stopped is recorded, its night has a report, and the exit code says so."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from pipeline.dates import DateRange
from pipeline.errors import Terminated
from pipeline.runs.context import Context
from pipeline.runs.record import recorded
from pipeline.runs.termination import raise_on_sigterm
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.places import ROOT

DAY = date(2026, 3, 2)
NIGHT = DateRange(DAY, DAY)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts what runs in the background with its signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def statuses(company: Company) -> list[tuple[str, str, str]]:
    return [(row["stage"], row["status"], row["message"]) for row in company.rows("runs")]


def stop(stage: str, number: signal.Signals) -> Callable[[Context, DateRange], None]:
    """A stage that is stopped midway; Spark's JVM, which gets the signal too, then fails what still needs it."""

    def run(context: Context, dates: DateRange) -> None:
        with recorded(context, stage, dates):
            try:
                os.kill(os.getpid(), number)
                time.sleep(10)
            finally:
                if number is signal.SIGTERM:
                    raise ConnectionRefusedError("the JVM is gone")

    return run


def test_sigterm_leaves_a_record_and_a_report(
    company: Company, funnel: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.nights.ingest", stop("ingest", signal.SIGTERM))
    ended = funnel("nightly", "--ds", DAY, "-c", company.config)
    assert ended.code == 143 and ended.err == f"error: ingest {DAY}: stopped by SIGTERM\n"
    assert statuses(company) == [("ingest", "failed", "stopped by SIGTERM")]
    assert "stopped by SIGTERM" in (company.folder / "reports" / f"{DAY}.html").read_text(encoding="utf-8")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "a second one ends the process"


def test_ctrl_c_leaves_a_record(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        stop("score", signal.SIGINT)(company.context(), NIGHT)
    assert statuses(company) == [("score", "failed", "stopped by Ctrl-C")]


def test_ctrl_c_is_one_line(company: Company, funnel: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.nights.ingest", stop("ingest", signal.SIGINT))
    ended = funnel("nightly", "--ds", DAY, "-c", company.config)
    assert ended.code == 130 and ended.err == "error: stopped by Ctrl-C\n"
    assert "stopped by Ctrl-C" in (company.folder / "reports" / f"{DAY}.html").read_text(encoding="utf-8")


def test_what_was_set_for_sigterm_is_set_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raise_on_sigterm(), raise_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_sigterm_ends_the_process(tmp_path: Path) -> None:
    script = (
        "import os, signal, time\n"
        "from pipeline.errors import Terminated\n"
        "from pipeline.runs.termination import raise_on_sigterm\n"
        "try:\n"
        "    with raise_on_sigterm():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(30)\n"
        "except Terminated:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == -signal.SIGTERM


def test_a_forked_child_ends_as_it_would(company: Company) -> None:
    with raise_on_sigterm():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    with pytest.raises(Terminated), raise_on_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
