"""How long a person waits for a command: whole processes, and `funnel sql` to the first line of its result.

Target: `funnel --help` within 0.5 s, and `funnel sql` within 1 s to the first row, whether the table has 3 nights or
120. Next to them, in turns, what no command in Python can do without: the interpreter alone, and the interpreter with
Typer or DuckDB imported. Seconds depend on the machine and its load, ratios to the interpreter far less.

    python -m tests.benchmarks.start_up
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.warehouse.schema import Table
from pipeline.warehouse.warehouse import Warehouse
from tests.benchmarks.harness import Timing, time_in_turns, write_report
from tests.benchmarks.tuning import markdown
from tests.support.company import Company
from tests.support.places import ROOT

ROUNDS = 15
FEW, MANY, USERS = 3, 120, 10_000
FIRST_NIGHT = date(2026, 1, 1)
HELP_LIMIT, ROW_LIMIT = 0.5, 1.0
INTERPRETER = "`python -c pass`"


def main() -> None:
    """Build two warehouses, time every command in turns, and write results/start_up.md."""
    with tempfile.TemporaryDirectory() as folder:
        configs = [make_warehouse(Path(folder) / str(nights), nights) for nights in (FEW, MANY)]
        few, many = ([*funnel("sql", "SELECT * FROM user_scores LIMIT 10"), "-c", str(config)] for config in configs)
        first_rows: dict[str, list[float]] = {f"`funnel sql`, {nights} nights": [] for nights in (FEW, MANY)}
        query_few, query_many = first_rows
        timings = time_in_turns(
            {
                INTERPRETER: lambda: seconds_to_first_line(python("pass")),
                "`python -c 'import typer'`": lambda: seconds_to_first_line(python("import typer")),
                "`python -c 'import duckdb'`": lambda: seconds_to_first_line(python("import duckdb")),
                "`funnel --help`": lambda: seconds_to_first_line(funnel("--help")),
                query_few: record_first_line(few, first_rows[query_few]),
                query_many: record_first_line(many, first_rows[query_many]),
                f"`funnel tables`, {MANY} nights": lambda: seconds_to_first_line(
                    [*funnel("tables"), "-c", str(configs[1])]
                ),
            },
            rounds=ROUNDS,
        )
    # The warm-up round was recorded too.
    rows = {name: Timing(tuple(seconds[-ROUNDS:])) for name, seconds in first_rows.items()}
    found = [
        ("`funnel --help`, the whole process", HELP_LIMIT, timings["`funnel --help`"].median),
        *((f"{name}, to the first line", ROW_LIMIT, timing.median) for name, timing in rows.items()),
    ]
    write_report(
        "start_up",
        "# Start-up",
        f"Seconds at the median of {ROUNDS} rounds, in turns. The query is `SELECT * FROM user_scores LIMIT 10`; the "
        f"table has {USERS:,} users a night, one commit and one file each.",
        table(timings, rows),
        "\n".join(f"- {what}: asked {limit:.1f} s, found {seconds:.2f} s" for what, limit, seconds in found),
        command="python -m tests.benchmarks.start_up",
        packages=("typer", "duckdb", "pyiceberg", "pydantic"),
    )


def table(timings: dict[str, Timing], first_rows: dict[str, Timing]) -> str:
    """One row per command: seconds to the first line and to the end, the range of the latter, and the ratio to the
    floor."""
    floor = timings[INTERPRETER]
    return markdown(
        ["process", "to the first line", "whole, s", "rounds", "times the interpreter"],
        [
            [
                name,
                f"{first_rows[name].median:.2f}" if name in first_rows else "",
                f"{timing.median:.3f}",
                f"{min(timing.seconds):.3f} to {max(timing.seconds):.3f}",
                f"{floor.times_as_fast_as(timing):.1f}",
            ]
            for name, timing in timings.items()
        ],
    )


def python(code: str) -> list[str]:
    """The command line of Python running this code."""
    return [sys.executable, "-c", code]


def funnel(*arguments: str) -> list[str]:
    """The command line of `funnel`."""
    return [sys.executable, "-m", "pipeline", *arguments]


def record_first_line(command: Sequence[str], seconds: list[float]) -> Callable[[], None]:
    """Wrap a run of the command to record its seconds to the first line."""
    return lambda: seconds.append(seconds_to_first_line(command))


def seconds_to_first_line(command: Sequence[str]) -> float:
    """Run a command to its end; return the seconds until its first line of output or, without output, until its end.

    Raises:
        CalledProcessError: The command failed.
    """
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - started
        process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return seconds


def make_warehouse(folder: Path, nights: int, *, users: int = USERS) -> Path:
    """Build a company with this many nights of random `user_scores`, published one by one; return its configuration."""
    folder.mkdir(parents=True)
    company = Company.make(folder)
    warehouse = Warehouse.of(company.settings)
    rng = np.random.default_rng(0)
    for day in (FIRST_NIGHT + timedelta(days=n) for n in range(nights)):
        files = Path(warehouse.staging("user_scores").removeprefix("file://"))
        files.mkdir(parents=True)
        pq.write_table(scores(warehouse.tables["user_scores"], day, users, rng), files / "part-0.parquet")
        warehouse.publish("user_scores", [f"file://{files}/part-0.parquet"], first=day, last=day, summary={})
    return company.config


def scores(table: Table, day: date, users: int, rng: np.random.Generator) -> pa.Table:
    """A night of `user_scores`: random probabilities and bands, constants elsewhere."""

    def column(field: pa.Field) -> pa.Array:
        if field.name == "user_id":
            return pa.array([f"u{n}" for n in range(users)])
        if pa.types.is_floating(field.type):
            return pa.array(rng.random(users))
        if pa.types.is_integer(field.type):
            return pa.array(rng.integers(1, 11, users), field.type)
        same = {pa.date32(): day, pa.string(): "0.1.0"}.get(field.type, datetime(2026, 1, 1, tzinfo=UTC))
        return pa.repeat(pa.scalar(same, field.type), users)

    return pa.table([column(field) for field in table.schema], schema=table.schema)


if __name__ == "__main__":
    main()
