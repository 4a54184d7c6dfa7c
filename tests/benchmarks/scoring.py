"""The scoring pass, from features in Parquet files to committed rows of `user_scores`, next to the model alone.

Target: at least 60% of the rate of `Bundle.predict` over the same rows as Arrow tables in memory, in users per second
end to end, on the same two cores. The model alone runs as two processes of one thread each, as Spark runs it, and as
one process of two threads; the faster one is the reference. Two models: the default of `[training]`, and a large one.
Rounds are warm: Spark's session, its optimising JVM and its Python workers are up, and the pass has run twice. The cost
of a session's first pass is reported separately.

Limitations: one machine, whose cores should serve only Spark's JVM and its Python workers; files on its own disk.
Features are drawn at random, with the demo's columns; models are hardly trained, which does not change their speed.

    python -m tests.benchmarks.scoring

Modules that import Great Expectations are imported late: the reference's processes import this module too, and PySpark
ends a process in which it is imported that way.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from pkgutil import resolve_name
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model import Bundle, ModelConfig, fit
from pipeline.config.features import context_names, declared_features
from pipeline.config.settings import Settings, load
from pipeline.dates import DateRange
from pipeline.runs.context import Context
from pipeline.warehouse.tables import feature_columns
from tests.benchmarks.harness import Timing, time_in_turns, write_report
from tests.benchmarks.tuning import markdown

CORES = 2
NIGHT = date(2026, 3, 1)
BATCH = 65_536
FITTED_ROWS = 20_000
STEPS: Mapping[str, str] = {
    "score and rank": "pipeline.scoring.scoring.with_bands",
    "stage": "pipeline.scoring.scoring.stage_one_partition",
    "audit": "pipeline.scoring.scoring._audit",
    "commit": "pipeline.scoring.scoring.publish",
}
"""Functions of the pass that run Spark jobs or commit; when the first of them is called, the network's outputs
exist."""


def models(settings: Settings) -> dict[str, ModelConfig]:
    from pipeline.training.fitting import model_config

    default = model_config(settings)
    large = replace(default, experts=8, expert_units=(256, 128), gate_units=(64,), tower_units=(64,), embedding_dim=16)
    return {"default": default, "large": large}


def draw_features(settings: Settings, rows: int, *, seed: int) -> pa.Table:
    """Draw `user_id` and the columns of `columns.feature_columns`, with every user once."""
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {"user_id": pa.array([f"u{number:09d}" for number in rng.permutation(rows)])}
    for name, kind in feature_columns(settings).items():
        if pa.types.is_string(kind):
            columns[name] = pa.array(np.array(["a", "b", "c", "d"])[rng.integers(0, 4, rows)])
        elif pa.types.is_floating(kind):
            columns[name] = pa.array(rng.normal(30, 10, rows).round(1), mask=rng.random(rows) < 0.1)
        elif name.endswith("_days_since"):
            columns[name] = pa.array(rng.integers(0, 90, rows).astype(np.int32), mask=rng.random(rows) < 0.5)
        else:
            columns[name] = pa.array(rng.poisson(1.0, rows))
    return pa.table(columns)


def fit_model(settings: Settings, config: ModelConfig) -> Bundle:
    """Train for one epoch on rows whose labels are drawn independently of everything."""
    from pipeline.training.fitting import train_config
    from pipeline.training.inputs import model_features

    table, rng = draw_features(settings, FITTED_ROWS, seed=1), np.random.default_rng(2)
    for name in context_names(declared_features(settings)):
        table = table.append_column(name, pa.array(np.array(["x", "y"])[rng.integers(0, 2, FITTED_ROWS)]))
    reached = np.ones(FITTED_ROWS, dtype=bool)
    for stage in settings.funnel.stage_names:
        reached &= rng.random(FITTED_ROWS) < 0.4
        table = table.append_column(f"label_{stage}", pa.array(reached.astype(np.float32)))
    return fit(
        table,
        features=model_features(settings),
        tasks=settings.funnel.stage_names,
        model=config,
        training=replace(train_config(settings), epochs=1),
    )


class Company:
    """A warehouse in a folder, its Spark session, and models and features to score with."""

    def __init__(self, folder: Path, *, driver_memory: str = "1500m") -> None:
        self.folder = folder
        text = files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8")
        spark = f'[spark]\nmaster = "local[{CORES}]"\ndriver_memory = "{driver_memory}"\n'
        (folder / "funnel.toml").write_text(text + spark, encoding="utf-8")
        self.settings = load(folder / "funnel.toml")
        self.context = Context(self.settings, is_bulk=True)

    def features(self, users: int) -> Path:
        """A folder of Parquet files, similar to what Spark writes."""
        folder = self.folder / f"features_{users}"
        if not folder.exists():
            folder.mkdir()
            table = draw_features(self.settings, users, seed=0)
            each = -(-users // (2 * CORES))
            for number, start in enumerate(range(0, users, each)):
                pq.write_table(table.slice(start, each), folder / f"part-{number}.parquet")
        return folder

    def model(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            fit_model(self.settings, models(self.settings)[name]).save(path)
        return path

    def publish(self, features: Path, model: Path, users: int) -> None:
        """Do what a night does once its features are there."""
        from pipeline.runs.record import StageRun
        from pipeline.scoring.scoring import publish_scores, stage_predictions

        run = StageRun(self.context, "score", DateRange(NIGHT, NIGHT), model_version=model.name)
        inputs = self.context.spark.read.parquet(str(features))
        staged = stage_predictions(run, inputs, model, users=users)
        publish_scores(self.context, NIGHT, staged.files)


class InProcess:
    """`Bundle.predict` over Arrow tables in memory, in processes that do nothing else."""

    def __init__(self, features: Path, model: Path, settings: Settings, *, processes: int, threads: int) -> None:
        self._pools = [ProcessPoolExecutor(1, mp_context=get_context("spawn")) for _ in range(processes)]
        context = tuple(context_names(declared_features(settings)))
        self._all(partial(_prepare, features, model, context, processes, threads))

    def predict(self) -> None:
        self._all(_predict)

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown()

    def _all(self, function: Callable[[int], object]) -> None:
        for future in [pool.submit(function, number) for number, pool in enumerate(self._pools)]:
            future.result()


_held: dict[str, Any] = {}


def _prepare(features: Path, model: Path, context: tuple[str, ...], processes: int, threads: int, number: int) -> None:
    import torch

    torch.set_num_threads(threads)
    table = pq.read_table(features)
    share = -(-len(table) // processes)
    table = table.slice(number * share, share).combine_chunks()
    for name in context:
        table = table.append_column(name, pa.nulls(len(table), pa.string()))
    _held["batches"], _held["bundle"] = table.to_batches(max_chunksize=BATCH), Bundle.load(model)


def _predict(_: int) -> None:
    for batch in _held["batches"]:
        _held["bundle"].predict(batch)


@contextmanager
def time_steps() -> Iterator[dict[str, list[float]]]:
    """Record the seconds of each step of every pass while active."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[step].append(time.perf_counter() - started)

        return call

    with ExitStack() as patches:
        for step, name in STEPS.items():
            patches.enter_context(patch(name, timed(step, resolve_name(name))))
        yield seconds


def measure(company: Company, name: str, users: int, rounds: int) -> tuple[dict[str, Timing], dict[str, list[float]]]:
    """Time the pass and both references in turns, and the steps of the pass."""
    features, model = company.features(users), company.model(name)
    references = {
        "two processes": InProcess(features, model, company.settings, processes=2, threads=1),
        "two threads": InProcess(features, model, company.settings, processes=1, threads=2),
    }
    try:
        with time_steps() as steps:
            contenders: dict[str, Callable[[], object]] = {
                "the pass": partial(company.publish, features, model, users),
                **{each: reference.predict for each, reference in references.items()},
            }
            timings = time_in_turns(contenders, rounds=rounds, warm_up=2, units=users)
    finally:
        for reference in references.values():
            reference.close()
    return timings, {step: seconds[-rounds:] for step, seconds in steps.items()}


def main(sizes: tuple[int, ...] = (200_000, 1_000_000), rounds: int = 5) -> None:
    rates, breakdown = [], []
    with tempfile.TemporaryDirectory() as folder:
        company = Company(Path(folder))
        spark_start = _seconds(lambda: company.context.spark)
        features, model = company.features(sizes[0]), company.model("default")
        first, second = (_seconds(partial(company.publish, features, model, sizes[0])) for _ in range(2))
        for name in models(company.settings):
            for users in sizes:
                timings, steps = measure(company, name, users, rounds)
                scored = timings.pop("the pass")
                reference = max(timings, key=lambda each: timings[each].rate)
                ratio = scored.times_as_fast_as(timings[reference])
                alone = [f"{timings[each].rate:,.0f}" for each in ("two processes", "two threads")]
                rates.append([name, f"{users:,}", f"{scored.rate:,.0f}", *alone, f"{ratio:.0%}"])
                known = [median(seconds) for seconds in steps.values()]
                each = [f"{seconds:.2f}" for seconds in (*known, scored.median - sum(known), scored.median)]
                breakdown.append([name, f"{users:,}", *each])
                print(rates[-1], breakdown[-1], flush=True)
                gc.collect()
        company.context.spark.stop()
    write_report(
        "scoring",
        "# The scoring pass beside the model alone",
        "Asked: users a second, from features in Parquet files to a committed partition, at least 60% of "
        "`Bundle.predict` over the same rows in memory on the same two cores. Found, medians of "
        f"{rounds} rounds in turns:",
        markdown(
            [
                "model",
                "users",
                "the pass, users/s",
                "two processes, rows/s",
                "two threads, rows/s",
                "share of the faster",
            ],
            rates,
        ),
        "Seconds by step; 'score and rank' is the pass up to the last user's score, and the bands:",
        markdown(["model", "users", *STEPS, "the rest", "all"], breakdown),
        f"Cold, {sizes[0]:,} users, the default model: Spark's session starts in {spark_start:.1f} s, and the first "
        f"pass takes {first:.1f} s, with the imports of torch and Great Expectations and the JVM's first compilations; "
        f"the second {second:.1f} s.",
        command="python -m tests.benchmarks.scoring",
        packages=("pyspark", "great-expectations", "pyiceberg"),
    )


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
