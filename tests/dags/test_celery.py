"""A company's Airflow: Postgres, Celery over Redis, a worker for training of its own, and a worker that dies."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.settings import load
from pipeline.dates import DateRange
from pipeline.nights import backfill, load_history
from pipeline.runs.context import Context
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from pipeline.training.manually import promote_manually
from pipeline.training.steps import train
from tests.dags.distributed import DistributedAirflow, Redis
from tests.dags.operator import NIGHT_ID, ZONE, browse, fill_backfill_form, runs_of_nights, shot, start_backfill
from tests.support.company import SMALL_SPARK
from tests.support.postgres import Postgres

pytestmark = pytest.mark.slow

USERS, DAYS, MISSED = 800, 30, 3
SETTINGS = (
    SMALL_SPARK
    + """
[training]
epochs = 1
min_positives = 1
[operations]
poke_seconds = 10
retry_minutes = 0.1
training_queue = "gpu"
"""
)
OF_A_RUN = {"run_id", "scored_at"}


@dataclass(frozen=True)
class Lender:
    """A company with its history landed and a model trained, both up to the first missed night."""

    config: Path
    yesterday: date

    @property
    def missed(self) -> DateRange:
        return DateRange(self.yesterday - timedelta(days=MISSED), self.yesterday - timedelta(days=1))

    @property
    def trained(self) -> date:
        return self.missed.first - timedelta(days=1)

    def scores(self) -> pa.Table:
        rows = Context(load(self.config)).warehouse.arrow("user_scores", first=self.missed.first, last=self.missed.last)
        kept = rows.select([name for name in rows.column_names if name not in OF_A_RUN])
        return kept.sort_by([("ds", "ascending"), ("user_id", "ascending")])


@pytest.fixture(scope="module")
def lender(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Lender:
    folder = tmp_path_factory.mktemp("company")
    yesterday = datetime.now(ZONE).date() - timedelta(days=1)
    start = yesterday - timedelta(days=DAYS - 1)
    simulate(Simulation(users=USERS, days=DAYS, start=start, seed=3), folder / "source")
    config = folder / "funnel.toml"
    config.write_text(files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8") + SETTINGS, encoding="utf-8")
    made = Lender(config, yesterday)
    load_history(Context(load(config)), DateRange(start, made.trained))
    promote_manually(Context(load(config)), train(Context(load(config)), made.trained), reason="a test")
    return made


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    server = Redis()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def airflow(
    lender: Lender, postgres: Postgres, redis: Redis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DistributedAirflow]:
    running = DistributedAirflow(
        lender.config,
        tmp_path_factory.mktemp("hosts"),
        database=postgres.create_database(),
        broker=redis.address,
        zone=ZONE.key,
        workers={"worker": "default", "gpu-worker": "gpu"},
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def backfilled(airflow: DistributedAirflow, lender: Lender) -> list[dict[str, Any]]:
    """The runs of the missed nights, started from the form, finished, although the worker's host died amid them."""
    with browse(airflow) as page:
        page.goto(f"{airflow.address}/dags/{NIGHT_ID}")
        fill_backfill_form(page, lender.missed, at_once=MISSED)
        start_backfill(page)
        airflow.until(
            lambda: "ingest" in airflow.tasks_of("worker"), seconds=400, what="the first task of a night to land"
        )
        shot(page, "celery-backfill-running")
    airflow.kill_worker("worker")
    airflow.start_worker("worker")
    airflow.until(
        lambda: all(run["state"] in ("success", "failed") for run in runs_of_nights(airflow, lender.missed)),
        seconds=1500,
        what="the backfill's end",
    )
    return runs_of_nights(airflow, lender.missed)


def test_a_backfill_from_the_form_outlives_its_worker(
    airflow: DistributedAirflow, backfilled: list[dict[str, Any]], lender: Lender
) -> None:
    assert [run["state"] for run in backfilled] == ["success"] * MISSED
    tries = {name: task["try_number"] for run in backfilled for name, task in airflow.tasks(run).items()}
    assert max(tries.values()) == 2, tries
    by_airflow = lender.scores()
    assert by_airflow.num_rows > MISSED * USERS // 2
    backfill(Context(load(lender.config)), lender.missed)
    assert lender.scores().equals(by_airflow)


def test_the_log_of_a_task_comes_from_the_worker_s_host(
    airflow: DistributedAirflow, backfilled: list[dict[str, Any]], lender: Lender
) -> None:
    assert f"score     {lender.missed.last}  " in airflow.log(backfilled[-1], "score")
    assert airflow.tasks_of("api-server") == set()


def test_training_runs_on_the_worker_of_its_queue(
    airflow: DistributedAirflow, backfilled: list[dict[str, Any]], lender: Lender
) -> None:
    airflow.patch("/dags/funnel_training", is_paused=False)
    airflow.post("/dags/funnel_training/dagRuns", logical_date=None, conf={"as_of": str(lender.trained)})
    (run, *_) = airflow.until(
        lambda: [run for run in airflow.runs("funnel_training") if run["state"] in ("success", "failed")],
        seconds=900,
        what="the training",
    )
    tasks = airflow.tasks(run)
    assert run["state"] == "success", {name: task["state"] for name, task in tasks.items()}
    assert tasks["train"]["queue"] == "gpu" and "train" in airflow.tasks_of("gpu-worker")
    assert "train" not in airflow.tasks_of("worker")
