"""The demo stage by stage: seconds from the `runs` table, and the peak memory of all its processes together.

Measures `funnel demo` with its defaults (20,000 users, 120 days) against its promise: at most 5 minutes and 4 GiB on
two cores. Memory is the sum of the proportional set sizes of the process and all its children (the JVM, Spark's
Python workers), sampled once a second; pages shared by processes count once.

    python -m tests.benchmarks.demo_stages [FOLDER]
"""

import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import psutil

from pipeline.config.settings import load
from pipeline.warehouse.warehouse import Warehouse
from tests.benchmarks.harness import PeakMemory

INTERVAL = 1.0


def main(folder: Path) -> None:
    """Run the demo in a folder and print the table."""
    clock = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "demo", "--out", str(folder)])
    with PeakMemory(psutil.Process(process.pid), interval=INTERVAL) as memory:
        process.wait()
    if process.returncode:
        sys.exit(process.returncode)
    total = time.perf_counter() - clock

    runs = Warehouse.of(load(folder / "funnel.toml")).arrow("runs", first=date.min, last=date.max).to_pandas()
    stages = runs.groupby(["run_id", "stage", "started_at"], as_index=False).agg(
        seconds=("seconds", "sum"), rows=("rows_out", "sum"), dates=("ds", "count")
    )
    print("\n| stage | dates | rows | seconds | peak GiB |\n|---|---|---|---|---|")
    for each in stages.sort_values("started_at").to_dict("records"):
        begin = each["started_at"].timestamp()
        during = memory.peak_between(begin, begin + each["seconds"])
        print(
            f"| {each['stage']} | {each['dates']} | {each['rows']:,} | {each['seconds']:.1f} | {during / 2**30:.2f} |"
        )
    print(f"| whole demo | | | {total:.1f} | {memory.peak / 2**30:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch) / "demo")
