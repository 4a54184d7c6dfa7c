"""A company's life on a Spark cluster: the same tables as on one machine, also when workers die amid it.

The cluster's workers and the driver share the warehouse's disk and nothing else, see `tests/support/cluster.py`.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipeline.config.settings import load
from pipeline.runs.context import Context
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from tests.support.cluster import LIBRARIES, Cluster, can_mount, run_cluster
from tests.support.commands import Ended
from tests.support.company import SMALL_SPARK
from tests.support.places import ROOT
from tests.support.waiting import until

pytestmark = pytest.mark.slow

START = date(2026, 1, 1)
USERS, DAYS = 1_000, 30
NIGHT = START + timedelta(days=DAYS - 1)
TRAINED = NIGHT - timedelta(days=7)
SETTINGS = """
[training]
epochs = 1
min_positives = 1
"""
OF_A_RUN = ("run_id", "scored_at", "made_from", "code_version", "model_version", "made_at", "listed_at")
TABLES = ("users", "quarantine", "events", "activity", "known_users", "examples", "user_scores")


@dataclass
class Place:
    """A company, and where its Spark runs."""

    config: Path
    temporary: Path | None = None

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start a `funnel` command in a process of its own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYSPARK", "SPARK"))}
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, arguments), "--config", str(self.config)],
            cwd=ROOT,
            env=kept | ({"TMPDIR": str(self.temporary)} if self.temporary else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object) -> Ended:
        return ended(self.start(*arguments))

    def do(self, *arguments: object) -> str:
        """Run a command that goes well; what it printed."""
        end = self.run(*arguments)
        assert end.code == 0, f"{arguments}: {end.err}"
        return end.out + end.err

    def rows(self, tables: Iterable[str] = TABLES) -> dict[str, pa.Table]:
        """Every row of each table, sorted, without the columns that differ from run to run."""
        warehouse = Context(load(self.config)).warehouse
        seen = {}
        for name in tables:
            rows = warehouse.arrow(name, first=date.min, last=date.max)
            columns = {
                field.name: pa.array(map(str, column.to_pylist())) if pa.types.is_nested(field.type) else column
                for field, column in zip(rows.schema, rows.columns, strict=True)
                if field.name not in OF_A_RUN
            }
            assert len(rows), name
            seen[name] = pa.table(columns).sort_by([(column, "ascending") for column in columns])
        return seen

    @property
    def model(self) -> str:
        return Context(load(self.config)).registry.versions()[0].version


def ended(child: subprocess.Popen[str]) -> Ended:
    out, err = child.communicate(timeout=900)
    return Ended(child.returncode, out, err)


def make_place(folder: Path, source: Path, spark: str, temporary: Path | None = None) -> Place:
    folder.mkdir()
    shutil.copytree(source, folder / "source")
    config = folder / "funnel.toml"
    demo = files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8")
    config.write_text(demo + SETTINGS + spark, encoding="utf-8")
    return Place(config, temporary)


def live(place: Place) -> None:
    """Load the history, train, and score a night."""
    place.do("backfill", "--start", START, "--end", NIGHT - timedelta(days=1))
    place.do("train", "--as-of", TRAINED)
    place.do("promote", place.model)
    place.do("nightly", "--ds", NIGHT)


@pytest.fixture(scope="module")
def spark_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with run_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "source"
    simulate(Simulation(users=USERS, days=DAYS, start=START, seed=3), folder)
    return folder


@pytest.fixture(scope="module")
def there(spark: None, spark_cluster: Cluster, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A company that has lived on the cluster."""
    conf = f'[spark]\nmaster = "{spark_cluster.url}"\n'
    folder = tmp_path_factory.mktemp("there") / "company"
    place = make_place(folder, source, conf, spark_cluster.driver_disk)
    live(place)
    return place


@pytest.fixture(scope="module")
def here(spark: None, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The same company, which has lived on one machine."""
    place = make_place(tmp_path_factory.mktemp("here") / "company", source, SMALL_SPARK)
    live(place)
    return place


def assert_same_rows(found: dict[str, pa.Table], expected: dict[str, pa.Table]) -> None:
    for name, rows in expected.items():
        assert found[name].equals(rows), name


def test_a_company_on_a_cluster_has_the_rows_that_it_has_on_one_machine(here: Place, there: Place) -> None:
    assert_same_rows(there.rows(), here.rows())


def test_lists_and_maintenance_work_there_as_here(here: Place, there: Place) -> None:
    for place in (here, there):
        place.do("targets", "--ds", NIGHT, "--campaign", "spring-cash", "--despite-monitor")
        place.do("maintain")
    assert_same_rows(there.rows(("targets",)), here.rows(("targets",)))


# A training builds its examples first.
MOMENTS: dict[str, Callable[[Place, Cluster], bool]] = {
    "ingest": lambda place, _: any(place.config.parent.glob("warehouse/funnel/*/data/*/_temporary")),
    "train": lambda place, _: any(place.config.parent.glob("warehouse/funnel/examples/data/*/_temporary")),
    "score": lambda _, cluster: any("pyspark" in " ".join(each.cmdline()) for each in cluster.processes()),
}


@pytest.mark.parametrize("stage", MOMENTS)
def test_a_worker_that_dies_amid_a_stage_changes_no_row(stage: str, there: Place, spark_cluster: Cluster) -> None:
    before = there.rows()
    spark_cluster.add_worker()
    dates = ("--as-of", TRAINED) if stage == "train" else ("--ds", NIGHT)
    child = there.start(stage, *dates)
    until(lambda: MOMENTS[stage](there, spark_cluster) or child.poll() is not None, seconds=600, pause=0.005)
    assert child.poll() is None, "it ended before its worker could be killed"
    spark_cluster.kill_worker()
    end = ended(child)
    assert end.code == 0, end.err
    assert_same_rows(there.rows(), before)


def test_doctor_runs_a_task_on_an_executor(there: Place) -> None:
    (line,) = (line for line in there.do("doctor").splitlines() if " executor " in line)
    assert line.startswith("ok ") and f"has Python {platform.python_version()}, torch {torch.__version__}" in line


def test_a_warehouse_that_executors_do_not_see(there: Place, spark_cluster: Cluster) -> None:
    if not can_mount():
        pytest.skip("only root may hide a folder from the cluster's workers")
    hidden = make_place(
        spark_cluster.driver_disk / "hidden",
        there.config.parent / "source",
        f'[spark]\nmaster = "{spark_cluster.url}"\n',
    )
    (hidden.config.parent / "warehouse").mkdir()
    end = hidden.run("doctor")
    (line,) = (line for line in end.out.splitlines() if " executor " in line)
    assert line.startswith("failed") and f"has no folder {hidden.config.parent / 'warehouse'}" in line


def test_executors_that_lack_a_library_are_one_line(there: Place, tmp_path: Path) -> None:
    without = [name for name in LIBRARIES if name != "safetensors"]
    before = there.rows()
    with run_cluster(tmp_path / "bare", workers=1, libraries=without) as bare:
        text = there.config.read_text(encoding="utf-8")
        config = there.config.with_name("bare.toml")
        url = next(line for line in text.splitlines() if line.startswith("master = "))
        config.write_text(text.replace(url, f'master = "{bare.url}"'), encoding="utf-8")
        place = Place(config, bare.driver_disk)
        line = place.run("score", "--ds", NIGHT).complaint
        (check,) = (line for line in place.run("doctor").out.splitlines() if " executor " in line)
    assert check.startswith("failed") and "has no module 'safetensors'" in check
    assert f"score {NIGHT}: the executors' Python, python3, has no module 'safetensors'" in line
    assert_same_rows(there.rows(), before)
