"""Real nights through Airflow: its own metadata database, our DAG, a small simulated company with a trained model."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import Settings, load
from pipeline.context import Context
from pipeline.dates import DateRange
from pipeline.nights import load as load_history
from pipeline.nights import nightly
from pipeline.scoring import score
from pipeline.simulate import Simulation, simulate
from pipeline.training import train
from tests.dags.conftest import clean_environment

pytestmark = pytest.mark.slow

START = date(2026, 1, 1)
USERS, DAYS = 1_500, 45
TRAINED = START + timedelta(days=DAYS - 3)
NIGHT = TRAINED + timedelta(days=1)
BROKEN_NIGHT = NIGHT + timedelta(days=1)
TABLES = ("events", "users", "quarantine", "activity", "examples", "user_scores")
SETTINGS = """
[training]
epochs = 2
min_positives = 1
[spark]
conf = { "spark.sql.shuffle.partitions" = "2", "spark.default.parallelism" = "2" }
"""


class AirflowRun:
    """What one run of the DAG came to, and all it printed."""

    def __init__(self, ran: subprocess.CompletedProcess[str]) -> None:
        self.output = ran.stdout + ran.stderr
        assert ran.returncode == 0, self.output
        told = json.loads(ran.stdout.splitlines()[-1])
        self.state: str = told["state"]
        self.run_id: str = told["run_id"]
        self.tasks: dict[str, dict[str, Any]] = told["tasks"]


RunDag = Callable[[date], AirflowRun]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A company with its history landed, a model trained, and one night scored by hand: the one it was trained on."""
    folder = tmp_path_factory.mktemp("company")
    simulate(Simulation(users=USERS, days=DAYS, start=START, seed=3), folder / "source")
    path = folder / "funnel.toml"
    path.write_text(files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8") + SETTINGS, encoding="utf-8")
    load_history(Context(load(path)), DateRange(START, TRAINED))
    train(Context(load(path)), TRAINED)
    score(Context(load(path)), TRAINED)
    return path


@pytest.fixture(scope="module")
def settings(config: Path) -> Settings:
    return load(config)


@pytest.fixture(scope="module")
def run_dag(config: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDag:
    """Run the DAG for a night, in a process and a new Airflow home of its own."""
    environment = clean_environment(tmp_path_factory.mktemp("home"), FUNNEL_CONFIG=str(config))
    airflow = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
    migrated = subprocess.run(airflow, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert migrated.returncode == 0, migrated.stderr

    def run(night: date) -> AirflowRun:
        # A run by hand is for the last day that has ended by its logical date.
        logical_date = datetime.combine(night + timedelta(days=1), time(1), load(config).zone)
        command = [sys.executable, "-m", "tests.dags.run_dag", logical_date.isoformat()]
        return AirflowRun(
            subprocess.run(
                command,
                env=environment,
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
        )

    return run


@pytest.fixture(scope="module")
def night_run(run_dag: RunDag, settings: Settings) -> tuple[AirflowRun, pa.Table, pa.Table]:
    """The run of a night, the partition it gave, and the night before's as it was then."""
    before = scores(settings, TRAINED)
    run = run_dag(NIGHT)
    assert scores(settings, TRAINED).equals(before)
    return run, scores(settings, NIGHT), before


def test_a_night_through_airflow_gives_what_a_night_by_hand_gives(
    night_run: tuple[AirflowRun, pa.Table, pa.Table], settings: Settings
) -> None:
    run, by_airflow, night_before = night_run
    assert run.state == "success", run.output
    assert {name: task["state"] for name, task in run.tasks.items()} == dict.fromkeys(run.tasks, "success")
    assert by_airflow.num_rows > 0.5 * USERS
    assert set(by_airflow["run_id"].to_pylist()) == {run.run_id}
    assert f"score     {NIGHT}" in run.output

    landed = rows(settings, "events"), rows(settings, "activity")
    nightly(Context(settings), NIGHT)
    by_hand = scores(settings, NIGHT)
    assert set(by_hand["run_id"].to_pylist()).isdisjoint({run.run_id})
    assert what_was_scored(by_hand).equals(what_was_scored(by_airflow))
    assert (rows(settings, "events"), rows(settings, "activity")) == landed
    assert scores(settings, TRAINED).equals(night_before)


def test_a_task_run_again_gives_the_same_partition_and_touches_no_other(
    night_run: tuple[AirflowRun, pa.Table, pa.Table],
    import_nightly: Callable[[Path], ModuleType],
    config: Path,
    settings: Settings,
) -> None:
    run, by_airflow, night_before = night_run
    import_nightly(config).score.function(NIGHT.isoformat(), run.run_id)
    again = scores(settings, NIGHT)
    assert again["scored_at"][0].as_py() > by_airflow["scored_at"][0].as_py()
    assert what_was_scored(again).equals(what_was_scored(by_airflow))
    assert scores(settings, TRAINED).equals(night_before)


def test_a_failing_night_is_not_retried_and_changes_nothing(
    night_run: tuple[AirflowRun, pa.Table, pa.Table], run_dag: RunDag, config: Path, settings: Settings
) -> None:
    delivered = config.parent / "source" / "events" / BROKEN_NIGHT.isoformat()
    delivered.rename(delivered.with_name("not-yet"))
    snapshots = [Context(settings).warehouse.pin(name).snapshot_id for name in TABLES]
    run = run_dag(BROKEN_NIGHT)

    assert run.state == "failed"
    assert run.tasks["ingest"] == {"state": "failed", "tries": 1}
    assert {run.tasks[name]["state"] for name in ("activity", "score")} == {"upstream_failed"}
    (line,) = [line for line in run.output.splitlines() if "AirflowFailException: " in line]
    assert f"AirflowFailException: ingest {BROKEN_NIGHT}: source.events.path: nothing at {delivered}" in line
    assert run.output.count("Traceback") == 1
    assert [Context(settings).warehouse.pin(name).snapshot_id for name in TABLES] == snapshots
    last = rows(settings, "runs").sort_by("started_at").to_pylist()[-1]
    assert (last["ds"], last["stage"], last["status"]) == (BROKEN_NIGHT, "ingest", "failed")


def scores(settings: Settings, ds: date) -> pa.Table:
    """A partition of `user_scores`, by user."""
    return Context(settings).warehouse.arrow("user_scores", first=ds, last=ds).sort_by("user_id")


def what_was_scored(partition: pa.Table) -> pa.Table:
    """A partition without what differs from run to run."""
    return partition.drop_columns(["run_id", "scored_at"])


def rows(settings: Settings, table: str) -> pa.Table:
    found = Context(settings).warehouse.arrow(table, first=date.min, last=date.max)
    plain = [
        name for name, kind in zip(found.column_names, found.schema.types, strict=True) if not pa.types.is_nested(kind)
    ]
    return found.select(plain).sort_by([(name, "ascending") for name in plain])
