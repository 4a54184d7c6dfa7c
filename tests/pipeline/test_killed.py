"""A night killed at every point: readers see each table as before or after, and a retry ends in the same tables.

Real processes with their own JVMs, and SIGKILL. Iceberg's metadata holds absolute paths, so a warehouse can only be
copied back to where it was: the unbroken night runs first, then the warehouse is restored for the broken one.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from pipeline.config.settings import load
from pipeline.dates import DateRange
from pipeline.nights import load_history, nightly
from pipeline.runs.context import Context
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from pipeline.training.steps import train
from tests.support.company import SMALL_SPARK
from tests.support.places import ROOT
from tests.support.waiting import until

pytestmark = pytest.mark.slow

START = date(2026, 1, 1)
USERS, DAYS = 1_000, 30
NIGHT = START + timedelta(days=DAYS - 1)
# Training also publishes a state of `known_users`; the night's own state is due a week later.
TRAINED = NIGHT - timedelta(days=7)
SETTINGS = (
    SMALL_SPARK
    + """
[training]
epochs = 1
min_positives = 1
"""
)
RUN_COLUMNS = ("run_id", "scored_at", "made_from")
"""Columns that differ from run to run; `made_from` is a digest of file names."""
PUBLISH, RECORD, STAGE = (
    "pipeline.warehouse.warehouse:Warehouse.publish",
    "pipeline.warehouse.warehouse:Warehouse.append",
    "pipeline.warehouse.warehouse:Warehouse.staging",
)


@dataclass(frozen=True)
class Kill:
    """A stage, the call it was about to make when killed, and the tables that have their new rows from then on."""

    where: str
    stage: str
    function: str | None
    call: int = 1
    new: tuple[str, ...] = ()


LANDED = ("users", "quarantine", "events")
KILLS = (
    Kill("while Spark writes", "ingest", None),
    Kill("users committed, quarantine and events not", "ingest", PUBLISH, 2, ("users",)),
    Kill("everything committed, nothing recorded", "ingest", RECORD, 1, LANDED),
    Kill("tiles committed, not recorded", "activity", RECORD, 1, (*LANDED, "activity")),
    Kill("known users committed, scores not staged", "score", STAGE, 2, (*LANDED, "activity", "known_users")),
    Kill("scores recorded, not committed", "score", PUBLISH, 2, (*LANDED, "activity", "known_users")),
    Kill("scores committed, not recorded", "score", RECORD, 3, (*LANDED, "activity", "known_users", "user_scores")),
)
TABLES = (*LANDED, "activity", "known_users", "user_scores")


@dataclass(frozen=True)
class Company:
    """A company with history landed and a model trained: that model, and the tables before and after a night."""

    config: Path
    model: str
    before: dict[str, pa.Table]
    after: dict[str, pa.Table]

    @property
    def tables(self) -> Path:
        return self.config.parent / "warehouse" / "funnel"


@pytest.fixture(scope="module")
def company(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    folder = tmp_path_factory.mktemp("company")
    simulate(Simulation(users=USERS, days=DAYS, start=START, seed=3), folder / "source")
    config = folder / "funnel.toml"
    config.write_text(files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8") + SETTINGS, encoding="utf-8")
    load_history(Context(load(config)), DateRange(START, NIGHT - timedelta(days=1)))
    model = train(Context(load(config)), TRAINED)
    warehouse, kept = folder / "warehouse", folder / "kept"
    before = all_rows(config)
    shutil.copytree(warehouse, kept)
    nightly(Context(load(config)), NIGHT, model=model)
    after = all_rows(config)
    shutil.rmtree(warehouse)
    kept.rename(warehouse)
    assert all_rows(config) == before
    assert not any(before[name].equals(after[name]) for name in TABLES), "a night that changes no table proves nothing"
    return Company(config, model, before, after)


def all_rows(config: Path) -> dict[str, pa.Table]:
    """Every row of each table as readers see it, sorted, without the columns that differ from run to run."""
    warehouse = Context(load(config)).warehouse
    seen = {}
    for name in TABLES:
        rows = warehouse.arrow(name, first=date.min, last=date.max).cast(warehouse.tables[name].schema)
        # Compare nested columns as text: Arrow cannot sort by them.
        columns = {
            field.name: pa.array(map(str, column.to_pylist())) if pa.types.is_nested(field.type) else column
            for field, column in zip(rows.schema, rows.columns, strict=True)
            if field.name not in RUN_COLUMNS
        }
        seen[name] = pa.table(columns).sort_by([(column, "ascending") for column in columns])
    return seen


def start(company: Company, kill: Kill) -> subprocess.Popen[str]:
    """Start the stage in its own process and session."""
    run = [sys.executable, "-m", "pipeline"]
    if kill.function:
        run[2:] = ["tests.support.kill_at", kill.function, str(kill.call)]
    model = ["--model", company.model] if kill.stage == "score" else []
    return subprocess.Popen(
        [*run, kill.stage, "--ds", NIGHT.isoformat(), "--config", str(company.config), *model],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_while_spark_writes(company: Company, child: subprocess.Popen[str]) -> None:
    """Kill once `_temporary` exists, where Spark keeps its tasks' output until all have finished."""
    until(lambda: any(company.tables.glob("*/data/*/_temporary")) or child.poll() is not None, seconds=600, pause=0.005)
    child.kill()


def is_gone(session: int) -> bool:
    """Whether no process of a session is left, neither the JVM nor one of its workers."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                return False
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return True


def staged_or_published(company: Company, names: Iterable[str]) -> set[Path]:
    return {path for name in names for path in (company.tables / name / "data").rglob("*.parquet")}


def test_a_night_killed_everywhere_ends_as_if_never_killed(company: Company) -> None:
    # Each kill starts from what the one before left behind.
    for kill in KILLS:
        child = start(company, kill)
        if kill.function is None:
            kill_while_spark_writes(company, child)
        output, _ = child.communicate(timeout=900)
        assert child.returncode == -signal.SIGKILL, f"{kill.where}: {output}"
        until(lambda session=child.pid: is_gone(session), seconds=180)
        for name, rows in all_rows(company.config).items():
            expected = company.after if name in kill.new else company.before
            assert rows.equals(expected[name]), f"{kill.where}: {name}"

    # The retry reads files that a compaction in between has rewritten.
    warehouse = Context(load(company.config)).warehouse
    assert warehouse.compact("events", more_than=0, dry_run=False).files >= DAYS
    nightly(Context(load(company.config)), NIGHT, model=company.model)
    retried = all_rows(company.config)
    for name in TABLES:
        assert retried[name].equals(company.after[name]), name
    runs = Context(load(company.config)).warehouse.arrow("runs", first=NIGHT, last=NIGHT).to_pylist()
    assert {row["status"] for row in runs} == {"ok"}

    left_behind = staged_or_published(company, TABLES)
    later = datetime.now(UTC) + timedelta(hours=1)
    for name in TABLES:
        warehouse.clean(name, since=later, publishes=1, older_than=later, dry_run=False)
    assert all_rows(company.config) == retried
    named = {Path(path.removeprefix("file://")) for name in TABLES for path in warehouse.pin(name).files}
    assert staged_or_published(company, TABLES) == named < left_behind
