"""What a command costs: the modules it imports, the files it opens, the Java processes it starts."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import date, timedelta

import psutil
import pyarrow.parquet as pq
import pytest
from pyiceberg.io import InputFile

from pipeline.config.settings import load
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.ingest import ingest
from pipeline.warehouse.local_catalog import LocalFiles
from pipeline.warehouse.warehouse import Warehouse
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.funnels import sms
from tests.support.nights import publish_with
from tests.support.places import ROOT

D1 = date(2026, 3, 1)
HEAVY = {
    "airflow",
    "great_expectations",
    "matplotlib",
    "mlflow",
    "pandas",
    "py4j",
    "pyspark",
    "scipy",
    "sklearn",
    "torch",
}
QUERY_MODULES = {"duckdb", "numpy", "pyarrow", "pydantic", "pyiceberg", "sqlalchemy"}


def modules_after(code: str, *arguments: object) -> set[str]:
    """Run code in its own process; return the names of the modules it imported."""
    code += "\nprint(*sys.modules, file=sys.stderr)"
    ended = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    return set(ended.stderr.split())


def modules_of(*arguments: object) -> set[str]:
    """Return the modules that `funnel` imports with these arguments."""
    code = (
        "import sys, pipeline.__main__ as entry\n"
        "try: entry.main()\n"
        "except SystemExit as end: assert not end.code, end.code"
    )
    return modules_after(code, *arguments)


def publish_users(warehouse: Warehouse, day: date, users: Iterable[str]) -> None:
    """A day of `user_scores`, with null where these tests do not look."""
    publish_with(warehouse, "user_scores", day, [{"user_id": user} for user in users])


def test_help_imports_nothing_that_only_commands_need() -> None:
    loaded = modules_of("--help")
    assert "pipeline.cli" in loaded
    assert not loaded & (HEAVY | QUERY_MODULES | {"pipeline.config.settings", "pydantic_settings"})


def test_queries_import_what_reads_and_nothing_more(company: Company) -> None:
    publish_users(company.context().warehouse, D1, ["ann"])
    # Called differently, PyIceberg and DuckDB would import the last three by themselves.
    for arguments in (("sql", "SELECT * FROM user_scores"), ("tables",)):
        loaded = modules_of(*arguments, "-c", company.config)
        assert {"pipeline.analyst.connection", "duckdb", "pyiceberg.table"} <= loaded
        assert not loaded & (HEAVY | {"sqlalchemy", "pyarrow.dataset", "pyiceberg.io.pyarrow"})


def test_a_query_opens_only_the_tables_it_names(company: Company, funnel: Callable[..., Ended]) -> None:
    warehouse = company.context().warehouse
    publish_users(warehouse, D1, ["ann"])
    warehouse.staging("events")
    (metadata,) = (company.folder / "warehouse" / "funnel" / "events" / "metadata").glob("*.json")
    metadata.unlink()
    ended = funnel("sql", "SELECT user_id FROM user_scores", "--format", "csv", "-c", company.config)
    assert (ended.out.split(), ended.err) == (['"user_id"', '"ann"'], "")
    assert "'events'" in funnel("sql", "SELECT user_id FROM events", "-c", company.config).complaint


def test_readers_see_what_writers_see(company: Company) -> None:
    settings = company.settings
    writer, reader = Warehouse.of(settings), Warehouse.of(settings, read_only=True)
    assert reader.pin("user_scores") == writer.pin("user_scores")
    assert reader.states() == []
    for day, users in ((D1, "ab"), (D1 + timedelta(days=1), "abc"), (D1, "d")):
        publish_users(writer, day, users)
        assert reader.pin("user_scores") == writer.pin("user_scores")
        assert reader.pin("user_scores", first=D1, last=D1) == writer.pin("user_scores", first=D1, last=D1)
        assert reader.states() == writer.states()
    assert [(state.rows, state.partitions) for state in reader.states()] == [(4, 2)]
    writer.rollback("user_scores")
    assert reader.row_counts("user_scores", first=D1, last=date.max) == {D1: 2, D1 + timedelta(days=1): 3}


def test_a_reader_creates_no_files(company: Company) -> None:
    reader = Warehouse.of(company.settings, read_only=True)
    assert reader.pin("user_scores").files == ()
    assert not (company.folder / "warehouse").exists()


def test_a_catalog_that_a_reader_cannot_read_is_one_line(company: Company) -> None:
    (company.folder / "warehouse").mkdir()
    (company.folder / "warehouse" / "catalog.db").write_text("a text, and longer than a header of SQLite's " * 9)
    with pytest.raises(FunnelError, match=r"the warehouse at .* cannot be opened: file is not a database") as raised:
        Warehouse.of(company.settings, read_only=True).pin("user_scores")
    assert "\n" not in str(raised.value)


def test_a_reader_opens_few_manifests_of_many_nights(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse, days = Warehouse.of(load(company.config)), [D1 + timedelta(days=n) for n in range(12)]
    for n, day in enumerate(days):
        publish_users(warehouse, day, [f"u{n}"])
    publish_users(warehouse, days[3], ["again"])
    manifests = sorted((company.folder / "warehouse").rglob("*-m*.avro"))
    assert len(manifests) > len(days), "each commit writes one; the table still uses few of them"
    opened: list[str] = []
    new_input = LocalFiles.new_input

    def noted(files: LocalFiles, location: str) -> InputFile:
        opened.append(location)
        return new_input(files, location)

    monkeypatch.setattr(LocalFiles, "new_input", noted)
    pinned = Warehouse.of(company.settings, read_only=True).pin("user_scores")
    assert 1 <= len(set(opened) & {f"file://{path}" for path in manifests}) < 10
    users = pq.ParquetDataset([path.removeprefix("file://") for path in pinned.files]).read()["user_id"].to_pylist()
    assert sorted(users) == sorted(["again", *(f"u{n}" for n in range(12) if n != 3)])


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_runs_of_one_process_share_one_jvm(company: Company) -> None:
    company.land(D1, [sms("1", "ann", f"{D1} 10:00:00")])
    stage, another = company.context(), company.context()
    ingest(stage, DateRange(D1, D1))
    assert stage.spark.sparkContext.applicationId == another.spark.sparkContext.applicationId
    assert [child.name() for child in psutil.Process().children(recursive=True)].count("java") == 1
