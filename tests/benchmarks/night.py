"""A whole night, run by the real `funnel nightly`: seconds and memory by stage, by users and by length of history.

A company is simulated, its history loaded by one `funnel backfill`, and a model trained once on a small company of the
same kind, since training is not measured here. Then nights run one after the other, each in its own process. The first
finds no state in `known_users` and builds one from all of history; the others start from it.

The limit is 3 minutes and 8 GiB for 1,000,000 users with 90 days of history on two cores. The cost of a night must also
follow the day's events and the users scored, not the history: 100,000 users with 30, 90 and 180 days cost the same.

Memory is that of the process, its JVM and Spark's Python workers together. Processor seconds, unlike seconds, are the
same on a busy machine. A last process runs one night twice, the second time with a warm JVM.

    python -m tests.benchmarks.night [--users N --days N] [--keep FOLDER] [--nights N]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pandas as pd
import psutil

from pipeline.config.settings import Settings, load
from pipeline.dates import DateRange
from pipeline.models.registry import Registry
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from pipeline.warehouse.warehouse import Warehouse
from tests.benchmarks.harness import PeakMemory, write_report
from tests.benchmarks.tuning import markdown

START = date(2026, 1, 1)
SIZES = ((20_000, 90), (100_000, 30), (100_000, 90), (100_000, 180), (1_000_000, 90))
NIGHTS = 3
LIMIT_SECONDS, LIMIT_GIB = 180, 8
STAGES = ("ingest", "activity", "score", "monitor")
TEACHER = (20_000, 60)
TRAINING = "\n[training]\nepochs = 2\n"
TWICE = """
import sys
from datetime import date
from pathlib import Path
from pipeline.config.settings import load
from pipeline.runs.context import Context
from pipeline.nights import nightly
for _ in range(2):
    nightly(Context(load(Path(sys.argv[1]))), date.fromisoformat(sys.argv[2]))
"""


@dataclass(frozen=True)
class Prepared:
    """A company with its history loaded and a champion, before its nights have run."""

    config: Path
    users: int
    history: DateRange
    nights: tuple[date, ...]
    load_seconds: float
    load_peak: int

    @property
    def settings(self) -> Settings:
        return load(self.config)


@dataclass(frozen=True)
class Ran:
    """A finished process: seconds, processor seconds, peak bytes, and the stages it recorded.

    `stages` has one row per stage, in order: stage, rows_in, rows_out, seconds, started_at, peak (bytes).
    """

    seconds: float
    processor: float
    peak: int
    started: datetime
    stages: pd.DataFrame

    @property
    def before_first_stage(self) -> float:
        """Seconds from the start of the process to that of its first stage: imports and configuration."""
        return float((self.stages["started_at"].min() - self.started).total_seconds())


def prepare(keep: Path, *, users: int, days: int) -> Prepared:
    """Simulate a company, load it and give it a champion; whatever the folder already holds is reused."""
    folder = keep / f"u{users}-d{days}"
    done, config = folder / "loaded.json", folder / "funnel.toml"
    last = START + timedelta(days=days - 1)
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        simulate(Simulation(users=users, days=days + NIGHTS, start=START), folder / "source")
        config.write_text(files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8") + TRAINING)
        ran = funnel(config, "backfill", "--start", str(START), "--end", str(last))
        _give_champion(keep, config, is_teacher=(users, days) == TEACHER)
        done.write_text(json.dumps({"load_seconds": ran.seconds, "load_peak": ran.peak}))
    nights = tuple(last + timedelta(days=n + 1) for n in range(NIGHTS))
    return Prepared(config, users, DateRange(START, last), nights, **json.loads(done.read_text()))


def _give_champion(keep: Path, config: Path, *, is_teacher: bool) -> None:
    """Train the teacher, or give another company a copy of its model."""
    if is_teacher:
        last = START + timedelta(days=TEACHER[1] - 1)
        funnel(config, "train", "--as-of", str(last))
        return
    users, days = TEACHER
    teacher = Registry(prepare(keep, users=users, days=days).settings)
    version = teacher.champion(date.max)
    assert version is not None, "the teacher's only model was not promoted"
    registry = Registry(load(config))
    run = registry.tracking.begin(START, tags={}, parameters={})
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(teacher.bundle_path(version), Path(copy) / run.bundle)
        registry.tracking.log_folder(run, Path(copy))
    registry.tracking.finish(run)
    registry.register(run.version)
    registry.promote(run.version)


def funnel(config: Path, *arguments: str) -> Ran:
    """Run a `funnel` command to its end."""
    return ran(config, [sys.executable, "-m", "pipeline", *arguments, "-c", str(config)])


def ran(config: Path, command: Sequence[str]) -> Ran:
    """Run and watch a process to its end.

    Raises:
        SystemExit: It failed.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    process = subprocess.Popen(command)
    watched, processor = psutil.Process(process.pid), 0.0
    with PeakMemory(watched) as memory:
        while process.poll() is None:
            processor = max(processor, _processor_seconds(watched))
            time.sleep(0.2)
    seconds = time.perf_counter() - clock
    if process.returncode:
        sys.exit(process.returncode)
    runs = Warehouse.of(load(config)).arrow("runs", first=date.min, last=date.max).to_pandas()
    stages = (
        runs[runs["started_at"] >= started]
        .groupby(["started_at", "stage"], as_index=False)
        .agg({"seconds": "sum", "rows_in": "sum", "rows_out": "sum"})
        .sort_values("started_at", ignore_index=True)
    )
    begins = [at.timestamp() for at in stages["started_at"]]
    ends = [begin + length for begin, length in zip(begins, stages["seconds"], strict=True)]
    stages["peak"] = [memory.peak_between(*each) for each in zip(begins, ends, strict=True)]
    return Ran(seconds, processor, memory.peak, started, stages)


def _processor_seconds(process: psutil.Process) -> float:
    used = 0.0
    try:
        for each in [process, *process.children(recursive=True)]:
            times = each.cpu_times()
            used += times.user + times.system
    except psutil.Error:
        return 0.0
    return used


def measure(prepared: Prepared, nights: int) -> list[list[object]]:
    """One row of the table per night."""
    rows = []
    for number, ds in enumerate(prepared.nights[:nights], 1):
        night = funnel(prepared.config, "nightly", "--ds", str(ds))
        stages = night.stages.set_index("stage")
        rows.append(
            [
                f"{prepared.users:,}",
                len(prepared.history),
                number,
                f"{stages['rows_in']['ingest']:,}",
                f"{stages['rows_out']['score']:,}",
                f"{night.before_first_stage:.1f}",
                *(f"{stages['seconds'][stage]:.1f} s, {stages['peak'][stage] / 2**30:.2f} GiB" for stage in STAGES),
                f"{night.seconds:.1f}",
                f"{night.processor:.1f}",
                f"{night.peak / 2**30:.2f}",
                f"{night.seconds / stages['rows_out']['score'] * 1e6:.0f}",
            ]
        )
        print(rows[-1], flush=True)
    return rows


def cold_and_warm(prepared: Prepared) -> list[list[object]]:
    """Seconds of each stage in a new process, and once more in the same process."""
    # A file, not `-c`: PySpark silently ends a process that imports Great Expectations without being a file.
    script = prepared.config.with_name("twice.py")
    script.write_text(TWICE, encoding="utf-8")
    night = ran(prepared.config, [sys.executable, str(script), str(prepared.config), str(prepared.nights[0])])
    seconds = [night.stages.loc[night.stages["stage"] == stage, "seconds"].tolist() for stage in STAGES]
    return [
        [f"{prepared.users:,}", stage, f"{cold:.1f}", f"{warm:.1f}", f"{cold - warm:.1f}"]
        for stage, (cold, warm) in zip(STAGES, seconds, strict=True)
    ]


def _load_of(prepared: Prepared) -> list[object]:
    peak = f"{prepared.load_peak / 2**30:.2f}"
    return [f"{prepared.users:,}", len(prepared.history), f"{prepared.load_seconds:.0f}", peak]


def main(arguments: Sequence[str] = ()) -> None:
    """Run the nights and write results/night.md; with --users, only run that company's and print the table."""
    parser = argparse.ArgumentParser(description="The whole night.")
    parser.add_argument("--users", type=int)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--nights", type=int, choices=range(1, NIGHTS + 1), default=NIGHTS)
    parser.add_argument("--keep", type=Path, help="folder for the simulated companies, used again by the next run")
    options = parser.parse_args(arguments)
    sizes = ((options.users, options.days),) if options.users else SIZES
    with tempfile.TemporaryDirectory() as scratch:
        keep = options.keep or Path(scratch)
        companies = [prepare(keep, users=users, days=days) for users, days in sizes]
        nights = [row for each in companies for row in measure(each, options.nights)]
        warmth = cold_and_warm(companies[0])
        loads = [_load_of(each) for each in companies]
    sections = report(nights, warmth, loads)
    if options.users:
        print("\n\n".join(sections))
        return
    write_report(
        "night", *sections, command="python -m tests.benchmarks.night", packages=("pyspark", "duckdb", "pyiceberg")
    )


def report(nights: list[list[object]], warmth: list[list[object]], loads: list[list[object]]) -> list[str]:
    """The sections of the report."""
    columns = ["users", "days", "night", "rows landed", "users scored", "start s", *STAGES]
    columns += ["whole s", "processor s", "peak GiB", "µs a user"]
    return [
        "# The whole night",
        f"Limit: {LIMIT_SECONDS} s and {LIMIT_GIB} GiB for 1,000,000 users with 90 days of history. Night 1 makes the "
        "state in `known_users` from all of history, the next start from it.",
        markdown(columns, nights),
        "The same night twice in one process: what a cold JVM costs.",
        markdown(["users", "stage", "cold s", "warm s", "difference s"], warmth),
        "Loading the history: one `funnel backfill`.",
        markdown(["users", "days", "seconds", "peak GiB"], loads),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
