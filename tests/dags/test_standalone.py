"""`make airflow` listens on this machine alone, its files are the owner's alone, and it lives or dies as a whole."""

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dags.server import Airflow, descendants, listening
from tests.support.company import Company

pytestmark = pytest.mark.slow

LOCALHOST = "0100007F"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    company = Company.make(tmp_path_factory.mktemp("company"), "[operations]\nretry_minutes = 0.1\n")
    left = company.folder / "airflow" / "logs" / "of-an-earlier-release.log"
    left.parent.mkdir(parents=True)
    left.write_text("readable by all", encoding="utf-8")
    running = Airflow(company.config, tmp_path_factory.mktemp("home"), PYTHONWARNINGS="")
    yield running
    running.stop()
    assert not descendants(running.home)


def test_it_listens_on_this_machine_alone(started: Airflow) -> None:
    assert set(started.components()) == {"api-server", "scheduler", "dag-processor", "triggerer"}
    assert listening(started.processes()) == {LOCALHOST}


def test_a_task_s_log_can_be_read(started: Airflow) -> None:
    started.patch("/dags/funnel_maintenance", is_paused=False)
    started.post("/dags/funnel_maintenance/dagRuns", logical_date=None)
    (run, *_) = started.until(
        lambda: [run for run in started.runs("funnel_maintenance") if run["state"] in ("success", "failed")],
        seconds=300,
        what="the maintenance",
    )
    assert run["state"] == "success"
    log = started.log(run, "maintain")
    assert str(started.home / "logs") in log and '"logger": "task"' in log
    assert "served logs" not in log


def test_what_it_keeps_is_the_owner_s_alone(started: Airflow) -> None:
    assert stat.filemode(started.home.stat().st_mode) == "drwx------"
    kept = [path for path in started.home.rglob("*") if not path.is_dir()]
    assert {"airflow.db", "standalone.log", "simple_auth_manager_passwords.json.generated"} <= {p.name for p in kept}
    open_to_others = {str(path): stat.filemode(mode) for path in kept if (mode := _mode(path)) & 0o077}
    assert not open_to_others


def test_a_dead_component_ends_all_with_one_line(started: Airflow) -> None:
    processes = started.processes()
    os.kill(started.components()["triggerer"], signal.SIGKILL)
    assert started.wait(60) == 1
    line = started.printed.strip().splitlines()[-1]
    assert line.startswith("error: Airflow's triggerer has ended with exit code -9, so all is stopped: see ")
    assert not [pid for pid in processes if Path(f"/proc/{pid}/exe").exists()]


def _mode(path: Path) -> int:
    try:
        return 0 if path.is_symlink() else stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0
