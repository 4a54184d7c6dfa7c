"""The demo, stage by stage: seconds from the `runs` table, and the peak memory of all its processes together.

Measures `funnel demo` at its defaults (20,000 users, 120 days) against its promise: at most 5 minutes and 4 GiB on
two cores. Memory is the sum of the proportional set sizes of the process and all its children (the JVM, Spark's
Python workers), sampled once a second: pages that processes share are counted once.

    python -m tests.benchmarks.demo_stages [FOLDER]
"""

import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import psutil

from pipeline.config import load
from pipeline.warehouse import Warehouse

INTERVAL = 1.0


def main(folder: Path) -> None:
    """Run the demo into a folder and print the table."""
    started = datetime.now(UTC)
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "demo", "--out", str(folder)])
    samples = []
    while process.poll() is None:
        samples.append((datetime.now(UTC), _memory(psutil.Process(process.pid))))
        time.sleep(INTERVAL)
    if process.returncode:
        sys.exit(process.returncode)
    memory = pd.DataFrame(samples, columns=["at", "bytes"])
    total = (datetime.now(UTC) - started).total_seconds()

    runs = Warehouse.of(load(folder / "funnel.toml")).arrow("runs", first=date.min, last=date.max).to_pandas()
    stages = runs.groupby(["run_id", "stage", "started_at"], as_index=False).agg(
        seconds=("seconds", "sum"), rows=("rows_out", "sum"), dates=("ds", "count")
    )
    print("\n| stage | dates | rows | seconds | peak GiB |\n|---|---|---|---|---|")
    for each in stages.sort_values("started_at").to_dict("records"):
        end = each["started_at"] + pd.Timedelta(seconds=each["seconds"])
        during = memory[(memory["at"] >= each["started_at"]) & (memory["at"] <= end)]["bytes"].max()
        print(
            f"| {each['stage']} | {each['dates']} | {each['rows']:,} | {each['seconds']:.1f} | {during / 2**30:.2f} |"
        )
    print(f"| whole demo | | | {total:.1f} | {memory['bytes'].max() / 2**30:.2f} |")


def _memory(process: psutil.Process) -> int:
    used = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            try:
                used += each.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return used


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch) / "demo")
