"""An operator's day in a real browser on a real Airflow: a backfill, a scheduled night, a failure, a killed worker.

The company's last day is yesterday, so the scheduler has a night to run. Screenshots go to `build/airflow`.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from pipeline.config.settings import Settings, load
from pipeline.dates import DateRange
from pipeline.nights import backfill, load_history
from pipeline.runs.context import Context
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from pipeline.training.manually import promote_manually
from pipeline.training.steps import train
from tests.dags.operator import (
    NIGHT_ID,
    ZONE,
    browse,
    fill_backfill_form,
    night_of,
    runs_of_nights,
    shot,
    start_backfill,
)
from tests.dags.server import Airflow, Webhook, descendants
from tests.support.company import SMALL_SPARK

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

USERS, DAYS, MISSED = 1_200, 45, 2
# No missed night is late here: on SQLite, the scheduler dies if it alerts on a late run while Airflow rolls back half
# of a refused backfill. The night before the first data is late, and no alert is sent.
SETTINGS = (
    SMALL_SPARK
    + """
[training]
epochs = 2
min_positives = 1
[promotion]
min_positives = 1
[operations]
poke_seconds = 15
retry_minutes = 0.1
scores_due_hours = 120
webhook_connection = "funnel_webhook"
"""
)
RUN_COLUMNS = ["run_id", "scored_at"]


@dataclass(frozen=True)
class Lender:
    """A company with its history landed and a model trained, both up to the first missed night."""

    config: Path
    settings: Settings
    yesterday: date

    @property
    def missed(self) -> DateRange:
        """The nights before last night, which have not run."""
        return DateRange(self.yesterday - timedelta(days=MISSED), self.yesterday - timedelta(days=1))

    @property
    def first_day(self) -> date:
        return self.yesterday - timedelta(days=DAYS - 1)

    def rows(self, table: str, dates: DateRange) -> pa.Table:
        found = Context(self.settings).warehouse.arrow(table, first=dates.first, last=dates.last)
        flat = [field.name for field in found.schema if not pa.types.is_nested(field.type)]
        kept = found.select([name for name in flat if name not in RUN_COLUMNS])
        return kept.sort_by([(name, "ascending") for name in kept.column_names])


@pytest.fixture(scope="module")
def lender(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Lender:
    folder = tmp_path_factory.mktemp("company")
    yesterday = datetime.now(ZONE).date() - timedelta(days=1)
    start = yesterday - timedelta(days=DAYS - 1)
    simulate(Simulation(users=USERS, days=DAYS, start=start, seed=3), folder / "source")
    config = folder / "funnel.toml"
    config.write_text(files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8") + SETTINGS, encoding="utf-8")
    trained = yesterday - timedelta(days=MISSED + 1)
    load_history(Context(load(config)), DateRange(start, trained))
    version = train(Context(load(config)), trained)
    # Whether so few users' outcomes beat a constant changes with the dates, which are today's.
    promote_manually(Context(load(config)), version, reason="the operator's tests")
    return Lender(config, load(config), yesterday)


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    yield hook
    hook.close()


@pytest.fixture(scope="module")
def airflow(lender: Lender, webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    running = Airflow(
        lender.config, tmp_path_factory.mktemp("home"), AIRFLOW_CONN_FUNNEL_WEBHOOK=webhook.address, PYTHONWARNINGS=""
    )
    yield running
    running.stop()
    assert not descendants(running.home)


@pytest.fixture(scope="module")
def page(airflow: Airflow) -> "Iterator[Page]":
    """A browser in the funnel's time zone, logged in as an operator."""
    with browse(airflow) as page:
        yield page


@pytest.fixture(scope="module")
def backfilled(airflow: Airflow, page: "Page", lender: Lender) -> list[dict[str, Any]]:
    """The runs of the missed nights, started from the form and finished."""
    page.goto(f"{airflow.address}/dags/{NIGHT_ID}")
    fill_backfill_form(page, lender.missed, at_once=MISSED)
    shot(page, "backfill-form")
    start_backfill(page)
    airflow.until(
        lambda: len(runs_of_nights(airflow, lender.missed)) == MISSED, seconds=300, what="the backfill's runs"
    )
    page.goto(f"{airflow.address}/dags/{NIGHT_ID}/backfills")
    shot(page, "backfill-running", wait=10)
    # A page that polls the runs would take CPU from them.
    page.goto("about:blank")
    kill_first_worker(airflow)
    airflow.until(
        lambda: all(run["state"] in ("success", "failed") for run in runs_of_nights(airflow, lender.missed)),
        seconds=1200,
        what="the backfill's end",
    )
    page.goto(f"{airflow.address}/dags/{NIGHT_ID}/runs")
    shot(page, "backfill-done", wait=5)
    return runs_of_nights(airflow, lender.missed)


def test_the_dags_load_without_errors(airflow: Airflow, page: "Page") -> None:
    dags = airflow.get("/dags")["dags"]
    assert {dag["dag_id"] for dag in dags} == {"funnel_nightly", "funnel_training", "funnel_maintenance"}
    assert all(dag["is_paused"] and not dag["has_import_errors"] for dag in dags)
    assert {dag["dag_id"] for dag in dags if dag["is_backfillable"]} == {"funnel_nightly"}
    assert airflow.get("/importErrors")["total_entries"] == 0
    pools = {pool["name"] for pool in airflow.get("/pools")["pools"]}
    assert {"funnel_spark", "funnel_gpu", "funnel_publish"} <= pools
    page.goto(f"{airflow.address}/dags")
    page.get_by_role("link", name="funnel_nightly").wait_for()
    shot(page, "dags", wait=2)


def test_a_backfill_from_the_form_runs_each_date_once(
    airflow: Airflow, backfilled: list[dict[str, Any]], lender: Lender
) -> None:
    assert [(night_of(run), run["state"]) for run in backfilled] == [(day, "success") for day in lender.missed]
    assert {run["run_type"] for run in backfilled} == {"backfill"}
    for run in backfilled:
        states = {name: task["state"] for name, task in airflow.tasks(run).items()}
        assert states.pop("announce") == "skipped"
        assert set(states.values()) == {"success"}
    scored = Context(lender.settings).warehouse.arrow("user_scores", first=lender.missed.first, last=lender.missed.last)
    assert {(row["ds"], row["run_id"]) for row in scored.select(["ds", "run_id"]).to_pylist()} == {
        (night_of(run), run["dag_run_id"]) for run in backfilled
    }


def test_the_same_dates_by_the_command_line_give_the_same_tables(
    backfilled: list[dict[str, Any]], last_night: dict[str, Any], lender: Lender
) -> None:
    tables = ("events", "users", "quarantine", "activity", "user_scores")
    by_airflow = {name: lender.rows(name, lender.missed) for name in tables}
    assert by_airflow["user_scores"].num_rows > MISSED * USERS // 2
    backfill(Context(lender.settings), lender.missed)
    for name in tables:
        assert lender.rows(name, lender.missed).equals(by_airflow[name]), name


@pytest.fixture(scope="module")
def last_night(airflow: Airflow, backfilled: list[dict[str, Any]], lender: Lender) -> dict[str, Any]:
    """The run that the scheduler created when the form unpaused the DAG, during the backfill."""
    only = DateRange(lender.yesterday, lender.yesterday)
    (run,) = airflow.until(
        lambda: [run for run in runs_of_nights(airflow, only) if run["state"] in ("success", "failed")],
        seconds=900,
        what="last night's end",
    )
    found: dict[str, Any] = run
    return found


def test_the_scheduler_runs_last_night_during_the_backfill(
    airflow: Airflow, last_night: dict[str, Any], backfilled: list[dict[str, Any]], lender: Lender
) -> None:
    assert (last_night["state"], last_night["run_type"]) == ("success", "scheduled")
    assert last_night["start_date"] < max(run["end_date"] for run in backfilled)
    assert lender.rows("user_scores", DateRange(lender.yesterday, lender.yesterday)).num_rows > USERS // 2
    events = airflow.get("/assets/events")["asset_events"]
    assert [(event["extra"]["ds"], event["source_run_id"]) for event in events] == [
        (lender.yesterday.isoformat(), last_night["dag_run_id"])
    ]


def test_a_date_before_the_first_data_fails_at_once_and_the_log_says_why(
    airflow: Airflow, page: "Page", last_night: dict[str, Any], lender: Lender, webhook: Webhook
) -> None:
    day = lender.first_day - timedelta(days=2)
    early = DateRange(day, day)
    page.goto(f"{airflow.address}/dags/{NIGHT_ID}")
    fill_backfill_form(page, early)
    start_backfill(page)
    (run,) = airflow.until(
        lambda: [run for run in runs_of_nights(airflow, early) if run["state"] == "failed"],
        seconds=400,
        what="the failure",
    )
    tasks = airflow.tasks(run)
    assert (tasks["wait"]["state"], tasks["wait"]["try_number"]) == ("failed", 1)
    assert tasks["report"]["state"] == "success"
    assert {tasks[name]["state"] for name in ("ingest", "score", "publish", "announce")} == {"upstream_failed"}

    path = lender.config.parent / "source" / "events" / day.isoformat()
    cause = f"wait {day}: source.events.path: nothing at {path}; waited until "
    page.goto(f"{airflow.address}/dags/{NIGHT_ID}/runs/{run['dag_run_id']}/tasks/wait")
    page.get_by_text(cause).first.wait_for()
    shot(page, "failed-log", wait=2)
    (line,) = [line for line in webhook.received if str(day) in line]
    assert line.startswith(f"funnel_nightly failed: {cause}")
    assert f" {lender.first_day} | report: {airflow.address}/funnelcast/reports/{day} | " in line
    assert "\n" not in line
    assert lender.rows("events", early).num_rows == 0

    page.goto(f"{airflow.address}/dags/{NIGHT_ID}/runs/{run['dag_run_id']}")
    page.get_by_role("link", name="Report", exact=True).click()
    page.frame_locator("iframe").get_by_text(f"nothing at {path}").first.wait_for()
    shot(page, "failed-report")


def test_a_report_needs_a_login(airflow: Airflow, page: "Page", last_night: dict[str, Any], lender: Lender) -> None:
    import httpx

    address = f"{airflow.address}/funnelcast/reports/{lender.yesterday}"
    assert httpx.get(address, timeout=60).status_code == 401
    page.goto(f"{airflow.address}/funnelcast/reports")
    page.get_by_role("link", name=lender.yesterday.isoformat()).click()
    page.get_by_text("user_scores").first.wait_for()
    shot(page, "report")


def test_a_killed_worker_is_retried(
    airflow: Airflow, backfilled: list[dict[str, Any]], last_night: dict[str, Any], webhook: Webhook
) -> None:
    runs = [*backfilled, last_night]
    # Which stage had the first Spark depends on how long the form took.
    tries = [airflow.tasks(run)[stage]["try_number"] for run in runs for stage in ("ingest", "activity", "score")]
    assert sorted(tries) == [1] * (len(tries) - 1) + [2]
    alerts = [line for run in runs for line in webhook.received if " failed: " in line and str(night_of(run)) in line]
    assert not alerts, "no alert for what a retry fixes"


def test_maintenance_changes_no_scores(airflow: Airflow, last_night: dict[str, Any], lender: Lender) -> None:
    before = lender.rows("user_scores", lender.missed)
    airflow.patch("/dags/funnel_maintenance", is_paused=False)
    airflow.post("/dags/funnel_maintenance/dagRuns", logical_date=None)
    (run, *_) = airflow.until(
        lambda: [run for run in airflow.runs("funnel_maintenance") if run["state"] in ("success", "failed")],
        seconds=400,
        what="the maintenance",
    )
    assert run["state"] == "success"
    assert "files compacted into" in airflow.log(run, "maintain")
    assert lender.rows("user_scores", lender.missed).equals(before)


def test_a_training_for_a_day_that_is_not_over_fails_in_one_line(airflow: Airflow, last_night: dict[str, Any]) -> None:
    airflow.patch("/dags/funnel_training", is_paused=False)
    airflow.post("/dags/funnel_training/dagRuns", logical_date=None, conf={"as_of": "2100-01-01"})
    (run, *_) = airflow.until(
        lambda: [run for run in airflow.runs("funnel_training") if run["state"] == "failed"],
        seconds=400,
        what="the refusal",
    )
    assert airflow.tasks(run)["examples"]["try_number"] == 1
    assert "examples 2100-01-01: as_of 2100-01-01 is not over yet in Asia/Shanghai" in airflow.log(run, "examples")


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"from_date": "2100-01-01T00:00:00", "to_date": "2100-01-02T00:00:00"}, "future"),
        ({"from_date": "2026-01-02T00:00:00", "to_date": "2026-01-01T00:00:00"}, "must not be after"),
        ({"dag_run_conf": {"model": 3}}, "Invalid input for param model"),
        ({"dag_id": "funnel_training"}, "does not allow"),
    ],
)
def test_an_impossible_backfill_is_refused(airflow: Airflow, body: dict[str, Any], complaint: str) -> None:
    asked = {"dag_id": NIGHT_ID, "from_date": "2026-01-01T00:00:00", "to_date": "2026-01-02T00:00:00"} | body
    airflow.until(
        lambda: all(one["completed_at"] for one in airflow.get("/backfills", dag_id=NIGHT_ID)["backfills"]),
        seconds=200,
        what="the end of earlier backfills, during which Airflow refuses others",
    )
    assert complaint in str(airflow.post("/backfills", **asked))


def kill_first_worker(airflow: Airflow) -> None:
    """Kill the first task process that has started Spark, and check that its JVM ends with it."""
    jvm = airflow.until(
        lambda: next((pid for pid in descendants(airflow.home) if b"SparkSubmit" in command(pid)), None),
        seconds=400,
        what="the first task's Spark",
    )
    os.kill(parent(jvm), signal.SIGKILL)
    airflow.until(lambda: not Path(f"/proc/{jvm}").exists(), seconds=120, what="the end of the killed worker's JVM")


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
