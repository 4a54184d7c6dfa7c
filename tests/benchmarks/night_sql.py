"""A night's SQL on Spark next to the same SQL on DuckDB, over the same Parquet files: how far Spark is from the floor.

Each SQL file runs in a warm Spark session on two cores, as the pipeline runs it, and on DuckDB with two threads,
transpiled by sqlglot. Both read the same files, once per round, and write their result as Parquet; the results must
have the same rows. The limit is three times DuckDB's time.

`classify` and `activity` run over a night's landing and over the whole history, as a load does; `eligible` includes
`known_users`, from a state a week old; `exposures` are those of a training. Processor seconds, unlike seconds, are the
same on a busy machine. The session is warm and its JVM optimises, as a load's does; a night's own does not, see
`pipeline.engines.spark.properties`.

    python -m tests.benchmarks.night_sql [--users N] [--days N] [--keep FOLDER] [--rounds N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psutil
from pyspark.sql import DataFrame, SparkSession

from pipeline.config.features import aggregates, context_names, declared_features, static_names, user_features
from pipeline.config.settings import Settings
from pipeline.dates import DateRange, end_of_day, epoch_micros
from pipeline.engines.templates import render
from pipeline.features.features import activity_reach
from pipeline.ingest.mapping import join_mapped, map_events
from pipeline.ingest.reading import read_source
from pipeline.runs.context import Context
from pipeline.warehouse.tables import profile_columns
from tests.benchmarks.harness import Timing, time_in_turns, write_report
from tests.benchmarks.night import Prepared, prepare
from tests.benchmarks.tuning import markdown

LIMIT = 3.0
CACHED = ("landed_again",)
"""What the pipeline caches and counts before the next SQL file runs on it."""
STATE_AGE = 7
"""Days between the state of `known_users` and the night: the oldest state a night starts from."""


@dataclass(frozen=True)
class Query:
    """SQL files that run one on the view of another; the rows of the last one are the result."""

    name: str
    files: Mapping[str, Mapping[str, Any]]
    """Each file's parameters, in order; its rows are a view, named after the file, for the next."""
    inputs: Mapping[str, tuple[str, ...]]
    """Each view's Parquet files."""


class Bench:
    """Both engines on one prepared company."""

    def __init__(self, prepared: Prepared, scratch: Path) -> None:
        self.context = Context(prepared.settings, notify=lambda _: None, is_bulk=True)
        self.scratch = scratch
        self.ds = prepared.history.last
        self.history = prepared.history
        self._opened: dict[tuple[str, str], DataFrame] = {}
        self.duck = duckdb.connect()
        self.duck.execute(f"SET threads = 2; SET TimeZone = '{prepared.settings.funnel.timezone}'")

    @property
    def spark(self) -> SparkSession:
        return self.context.spark

    @property
    def settings(self) -> Settings:
        return self.context.settings

    def queries(self) -> list[Query]:
        """All measured queries; inputs that no table holds are written first."""
        night, ds = DateRange(self.ds, self.ds), self.ds
        known_users = self._known_users()
        spine_files = self._written(
            "spine",
            self.spark.sql(self._spark_views(known_users)).selectExpr("*", f"DATE'{ds}' AS as_of"),
        )
        return [
            self._classify("classify, a night", night),
            self._classify("classify, a load", self.history),
            Query("activity, a night", {"activity": {}}, {"events": self._files("events", ds, ds)}),
            Query(
                "activity, a load",
                {"activity": {}},
                {"events": self._files("events", self.history.first, self.history.last)},
            ),
            known_users,
            self._features("features, a night", spine_files, ds, ds, spine_has_attributes=True),
            self._exposures("exposures, a training"),
        ]

    def spark_run(self, query: Query) -> Callable[[], None]:
        out = str(self.scratch / "spark" / query.name)

        def run() -> None:
            self.spark.sql(self._spark_views(query)).write.mode("overwrite").parquet(out)
            self.spark.catalog.clearCache()

        return run

    def duck_run(self, query: Query) -> Callable[[], None]:
        out = self.scratch / "duck" / f"{query.name}.parquet"
        out.parent.mkdir(exist_ok=True)
        texts = {name: transpile(render(f"spark/{name}", **parameters)) for name, parameters in query.files.items()}

        def run() -> None:
            for view, files in query.inputs.items():
                self.duck.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM read_parquet({list(files)!r})")
            *before, last = texts
            for name in before:
                self.duck.execute(f"CREATE OR REPLACE VIEW {name} AS {texts[name]}")
            self.duck.execute(f"COPY ({texts[last]}) TO '{out}' (FORMAT parquet)")

        return run

    def require_same(self, query: Query) -> int:
        """Require both results to have the same rows, equally often, and return their number.

        Raises:
            AssertionError: They differ.
        """
        ours = f"read_parquet('{self.scratch / 'spark' / query.name}/*.parquet')"
        theirs = f"read_parquet('{self.scratch / 'duck' / query.name}.parquet')"
        types = self.duck.execute(f"DESCRIBE SELECT * FROM {ours}").fetchall()
        columns = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind, *_ in types)
        sums = [
            self.duck.execute(
                f"SELECT count(*), sum(hash(each)), bit_xor(hash(each)) FROM (SELECT {columns} FROM {rows}) AS each"
            ).fetchall()
            for rows in (ours, theirs)
        ]
        assert sums[0] == sums[1], f"{query.name}: Spark and DuckDB differ: {sums}"
        return int(sums[0][0][0])

    def _spark_views(self, query: Query) -> str:
        for view, files in query.inputs.items():
            if (query.name, view) not in self._opened:
                self._opened[query.name, view] = self._read(files)
            self._opened[query.name, view].createOrReplaceTempView(view)
        *before, last = query.files
        for name in before:
            frame = self.spark.sql(render(f"spark/{name}", **query.files[name]))
            if name in CACHED:
                frame.persist().count()
            frame.createOrReplaceTempView(name)
        return render(f"spark/{last}", **query.files[last])

    def _read(self, files: tuple[str, ...]) -> DataFrame:
        return self.spark.read.option("recursiveFileLookup", "true").parquet(*files)

    def _files(self, table: str, first: date, last: date) -> tuple[str, ...]:
        return tuple(
            path.removeprefix("file://") for path in self.context.warehouse.pin(table, first=first, last=last).files
        )

    def _written(self, name: str, frame: DataFrame) -> tuple[str, ...]:
        folder = self.scratch / "in" / name
        frame.write.mode("overwrite").parquet(str(folder))
        return tuple(str(path) for path in sorted(folder.glob("*.parquet")))

    def _classify(self, name: str, dates: DateRange) -> Query:
        source = self.settings.source.events
        frames = read_source(self.spark, self.settings, "events", dates, {}).frames
        mapped = join_mapped([map_events(frame, self.settings, dates) for frame in frames])
        before = dates.first - timedelta(days=1)
        known = self._files("events", dates.first - timedelta(days=source.lookback_days), before)
        return Query(
            name,
            {
                "classify": {
                    "event_names": self.settings.funnel.event_names,
                    "tolerance_hours": source.future_tolerance_hours,
                    "lookback_days": source.lookback_days,
                    "most_of_user": 0,
                    "keeps_same_id": source.same_id != "drop",
                }
            },
            {
                "source": self._written(name, mapped.rows),
                "known": known
                or self._written(
                    "none", self.spark.createDataFrame(self.context.warehouse.tables["events"].schema.empty_table())
                ),
            },
        )

    def _known_users(self) -> Query:
        parameters = {
            "has_users": True,
            "has_time_zones": False,
            "has_update_times": False,
            "attributes": list(profile_columns(self.settings)),
            "static": static_names(self.settings),
            "last_stage": self.settings.funnel.stage_names[-1],
        }
        state = self.ds - timedelta(days=STATE_AGE - 1)
        before = {name: self._files(name, date.min, state) for name in ("users", "activity")}
        earlier = Query("earlier", {"known_users": parameters | {"ds": state, "has_earlier": False}}, before)
        since = {name: self._files(name, state + timedelta(days=1), self.ds) for name in ("users", "activity")}
        return Query(
            "eligible, a night",
            {
                "known_users": parameters | {"ds": self.ds, "has_earlier": True},
                "eligible": {key: parameters[key] for key in ("has_users", "attributes")} | {"ds": self.ds},
            },
            since | {"earlier": self._written("earlier", self.spark.sql(self._spark_views(earlier)))},
        )

    def _features(
        self, name: str, spine: tuple[str, ...], first: date, last: date, *, spine_has_attributes: bool
    ) -> Query:
        parameters = {
            "aggregates": aggregates(user_features(self.settings)),
            "attributes": list(profile_columns(self.settings)),
            "static": static_names(self.settings),
            "spine_has_attributes": spine_has_attributes,
        }
        tiles = self._files("activity", first - activity_reach(self.settings), last)
        return Query(name, {"features": parameters}, {"spine": spine, "activity": tiles})

    def _exposures(self, name: str) -> Query:
        settings, as_of = self.settings, self.history.last
        first = as_of - timedelta(days=settings.training.history_days) - activity_reach(settings)
        seen = {"as_of": as_of, "end_of_as_of": epoch_micros(end_of_day(as_of, settings.zone))}
        parameters = {
            "history_days": settings.training.history_days,
            "attribution": settings.funnel.attribution,
            "by_day": False,
            "stages": settings.funnel.stages,
            "context": context_names(declared_features(settings)),
            "declared_context": settings.source.events.context,
        }
        return Query(
            name,
            {"landed_again": seen, "exposures": seen | parameters},
            {"events": self._files("events", first, as_of)},
        )


def transpile(text: str) -> str:
    """Transpile Spark SQL to DuckDB."""
    import sqlglot

    (found,) = sqlglot.transpile(text, read="spark", write="duckdb")
    return found


def with_processor_time(run: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """Wrap a function to record the processor seconds of this process and its JVM on every call."""

    def timed() -> None:
        before = processor_seconds()
        run()
        seconds.append(processor_seconds() - before)

    return timed


def processor_seconds() -> float:
    """Processor seconds of this process and its living descendants."""
    process = psutil.Process()
    times = [each.cpu_times() for each in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, compare the rows, and write results/night_sql.md; for another size or a part, only print."""
    parser = argparse.ArgumentParser(description="The SQL of a night beside DuckDB.")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder for the simulated companies, used again by the next run")
    parser.add_argument("--only", default="", help="queries whose name holds this")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(options.keep or Path(scratch), users=options.users, days=options.days)
        bench = Bench(prepared, Path(scratch))
        rows = []
        for query in bench.queries():
            if options.only not in query.name:
                continue
            processor: dict[str, list[float]] = {"Spark": [], "DuckDB": []}
            runs = {"Spark": bench.spark_run(query), "DuckDB": bench.duck_run(query)}
            started = time.perf_counter()
            timings: dict[str, Timing] = time_in_turns(
                {name: with_processor_time(run, processor[name]) for name, run in runs.items()}, rounds=options.rounds
            )
            number = bench.require_same(query)
            ratio = 1 / timings["Spark"].times_as_fast_as(timings["DuckDB"])
            used = {name: sorted(each[1:])[len(each[1:]) // 2] for name, each in processor.items()}
            rows.append(
                [
                    query.name,
                    f"{number:,}",
                    *(f"{timings[name].median:.2f}" for name in runs),
                    f"{ratio:.1f}",
                    *(f"{used[name]:.2f}" for name in runs),
                ]
            )
            print(rows[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
    columns = ["query", "rows out", "Spark s", "DuckDB s", "times DuckDB", "Spark processor s", "DuckDB processor s"]
    sections = [
        "# The SQL of a night, beside DuckDB",
        f"{options.users:,} users, {options.days} days of history. The same SQL over the same Parquet files, written "
        f"as Parquet; both gave the same rows. Medians of {options.rounds} rounds in turns after one to warm up; the "
        f"limit is {LIMIT:.0f} times.",
        markdown(columns, rows),
    ]
    if (options.users, options.only) != (parser.get_default("users"), ""):
        print("\n\n".join(sections))
        return
    write_report(
        "night_sql",
        *sections,
        command=f"python -m tests.benchmarks.night_sql --rounds {options.rounds}",
        packages=("pyspark", "duckdb", "sqlglot"),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
