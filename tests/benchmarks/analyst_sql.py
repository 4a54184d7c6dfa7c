"""How long an analyst waits for a grouped query over 10 million scores: rows and mean score per night and band.

Target: under 1 s on two cores. Timed in turns: the query through `pipeline.analyst.connection.connect`, on a new
connection each time, over the table and over the view `bands`; `funnel sql` as a new process; and plain DuckDB, pyarrow
and pandas over the same files, without the warehouse. The benchmark checks that all return the same rows. Files are in
the page cache.

    python -m tests.benchmarks.analyst_sql
"""

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analyst.connection import connect
from pipeline.config.settings import Settings, load
from pipeline.warehouse.warehouse import Warehouse
from tests.benchmarks.harness import Timing, time_in_turns, write_report
from tests.benchmarks.start_up import ROOT, funnel, make_warehouse, python
from tests.benchmarks.tuning import markdown

NIGHTS, USERS, ROUNDS, LIMIT = 10, 1_000_000, 9, 1.0
COLUMNS = ["ds", "band_complete", "p_complete"]
GROUPED = """
SELECT ds, band_complete AS band, count(*) AS users, avg(p_complete) AS mean_score FROM {rows} GROUP BY ALL ORDER BY ALL
"""
OF_TABLE = GROUPED.format(rows="user_scores")
OF_VIEW = "SELECT ds, band, users, mean_score FROM bands WHERE stage = 'complete' ORDER BY ALL"
TABLE, VIEW, PROCESS, PLAIN = "`connect`, the table", "`connect`, the view `bands`", "`funnel sql`, a process", "DuckDB"


def main() -> None:
    """Build the warehouse, time everything in turns, and write results/analyst_sql.md."""
    with tempfile.TemporaryDirectory() as folder:
        config = make_warehouse(Path(folder) / "company", NIGHTS, users=USERS)
        settings = load(config)
        pinned = Warehouse.of(settings, read_only=True).pin("user_scores")
        files = [path.removeprefix("file://") for path in pinned.files]
        queries = in_process(settings, files)
        results = [query() for query in queries.values()]
        for result in results:
            pd.testing.assert_frame_equal(result, results[0], check_dtype=False, rtol=1e-9)
        size, columns = sum(Path(path).stat().st_size for path in files), len(pq.read_schema(files[0]).names)
        timings = time_in_turns(
            {
                **queries,
                PROCESS: lambda: run(*funnel("sql", OF_TABLE, "-c", str(config))),
                "DuckDB, a process": lambda: run(*python(f"import duckdb; duckdb.sql({plain(files)!r}).show()")),
            },
            rounds=ROUNDS,
        )
    write_report(
        "analyst_sql",
        "# A grouped query over 10 million scores",
        f"Seconds at the median of {ROUNDS} rounds, in turns. {NIGHTS} nights of {USERS:,} users: {len(files)} files, "
        f"{size / 2**20:,.0f} MiB, {columns} columns. Load average at the end: "
        f"{os.getloadavg()[0]:.1f}.",
        table(timings),
        "\n".join(
            f"- {name}: asked {LIMIT:.1f} s, found {timings[name].median:.2f} s" for name in (TABLE, VIEW, PROCESS)
        ),
        command="python -m tests.benchmarks.analyst_sql",
        packages=("duckdb", "pyiceberg", "pyarrow", "pandas"),
    )


def in_process(settings: Settings, files: list[str]) -> dict[str, Callable[[], pd.DataFrame]]:
    """Run the query each way; return a data frame with the columns ds, band, users and mean_score."""
    return {
        TABLE: lambda: dated(connect(settings, OF_TABLE).sql(OF_TABLE).df()),
        VIEW: lambda: dated(connect(settings, OF_VIEW).sql(OF_VIEW).df()),
        PLAIN: lambda: dated(duckdb.connect().sql(plain(files)).df()),
        "pyarrow": lambda: by_pyarrow(files),
        "pandas": lambda: by_pandas(files),
    }


def plain(files: list[str]) -> str:
    """Run the query on the files themselves."""
    return GROUPED.format(rows=f"read_parquet({files}, hive_partitioning = false)")


def by_pyarrow(files: list[str]) -> pd.DataFrame:
    rows = pa.concat_tables(pq.read_table(path, columns=COLUMNS, partitioning=None) for path in files)
    groups = rows.group_by(COLUMNS[:2]).aggregate([("p_complete", "count"), ("p_complete", "mean")])
    return in_order(groups.to_pandas())


def by_pandas(files: list[str]) -> pd.DataFrame:
    rows = pd.concat(pd.read_parquet(path, columns=COLUMNS, partitioning=None) for path in files)
    return in_order(rows.groupby(COLUMNS[:2])["p_complete"].agg(["size", "mean"]).reset_index())


def in_order(groups: pd.DataFrame) -> pd.DataFrame:
    return dated(groups.set_axis(["ds", "band", "users", "mean_score"], axis=1).sort_values(["ds", "band"]))


def dated(groups: pd.DataFrame) -> pd.DataFrame:
    return groups.assign(ds=groups["ds"].astype(np.dtype("datetime64[s]"))).reset_index(drop=True)


def run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def table(timings: dict[str, Timing]) -> str:
    """One row per contender: seconds, their range, and their ratio to plain DuckDB's."""
    return markdown(
        ["contender", "s", "rounds", "times as long as DuckDB"],
        [
            [
                name,
                f"{timing.median:.3f}",
                f"{min(timing.seconds):.3f} to {max(timing.seconds):.3f}",
                f"{timings[PLAIN].times_as_fast_as(timing):.2f}",
            ]
            for name, timing in timings.items()
        ],
    )


if __name__ == "__main__":
    main()
