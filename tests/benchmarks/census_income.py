"""Two pairs of tasks on Census-Income: every architecture at equal budgets, next to boosted trees per task.

Every model gets equally many configurations, compared on the validation part. The best one is trained once per seed
and measured on the test part, which nothing else reads. ESMM is left out because it is meant for funnels.

    python -m tests.benchmarks.census_income [--data DIR] [--seeds 6] [--workers 2] [--out DIR] [--cache DIR]

With a cache, a killed run resumes where it stopped. A cache belongs to one version of this code.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.census_data import read, split
from tests.benchmarks.census_measures import judge
from tests.benchmarks.census_models import choose, final_jobs, run, tuning_jobs
from tests.benchmarks.census_report import report
from tests.benchmarks.tuning import run_all
from tests.support.places import SHARED_DATA


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED_DATA / "census_income", help="the folder of the data file")
    parser.add_argument("--seeds", type=int, default=6, help="final fits of each model")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="where the table goes")
    parser.add_argument("--cache", type=Path, help="a folder that keeps finished fits")
    options = parser.parse_args(arguments)
    if options.cache is not None:
        compare(options.data, options.cache, seeds=options.seeds, workers=options.workers, out=options.out)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(options.data, Path(scratch), seeds=options.seeds, workers=options.workers, out=options.out)


def compare(data: Path, kept: Path, *, seeds: int, workers: int, out: Path) -> None:
    """Tune, fit, and write the report; fits already finished in ``kept`` are not repeated."""
    fit_one, fits = partial(run, data, kept), kept / "fits.jsonl"
    tried = tuning_jobs()
    chosen = choose(tried, run_all(tried, fit_one, workers=workers, cache=fits))
    final = final_jobs(chosen, seeds)
    results = run_all(final, fit_one, workers=workers, cache=fits)
    judged = judge(split(read(data)).test, kept, final)
    print(report(judged, final, results, out, command=f"python -m tests.benchmarks.census_income --seeds {seeds}"))


if __name__ == "__main__":
    main()
