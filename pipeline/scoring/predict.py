"""The model inside Spark's Python workers: loaded once a worker, Arrow batches in and out."""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import SparkFiles

from model import Bundle

Batches = Iterator[pa.RecordBatch]

FARTHEST = 1_000_000
"""Thousandths of log-odds of a score of exactly 0 or 1, beyond those of any other float64."""


WORKER = pa.schema([("host", pa.string()), ("python", pa.string()), ("torch", pa.string()), ("sees", pa.bool_())])
"""What `describe_worker` returns."""
SAMPLED = "_is_sampled"
"""Boolean column of the rows to score: whether to return the row's features. No feature's name starts like this."""


def predictor(
    bundle_name: str, constants: Mapping[str, str | None], kept: Sequence[str]
) -> Callable[[Iterable[pa.RecordBatch]], Batches]:
    """Make a function for `mapInArrow` that scores one partition.

    In: `user_id`, features and `_is_sampled`. Out, in the order of `user_id`: `user_id`; for each stage `raw_<stage>`,
    `p_<stage>` and `log_odds_<stage>`, the raw score's log-odds in whole thousandths; and `sample`, a struct of the
    columns `kept`, null for a row that is not sampled.

    The rows of a partition are sorted before they are scored: the last bits of a matrix product depend on a row's
    place in it, so that equal partitions in equal order repeat every score. The partition is held in memory for that
    and sorted by Arrow, which is faster than Spark; tests/benchmarks/results/scoring.md shows the whole pass.

    Args:
        bundle_name: the bundle's folder, by the name that `executors.send_folder` gave it.
        constants: text columns with one value for all rows, which need not pass through Spark.
        kept: the columns of `sample`.
    """

    def predict(batches: Iterable[pa.RecordBatch]) -> Batches:
        parts = list(batches)
        if not parts:
            return
        bundle = _load(SparkFiles.get(bundle_name))
        rows = pa.Table.from_batches(parts).combine_chunks().sort_by("user_id")
        scores = bundle.predict(with_constants(rows, constants))
        columns = {"user_id": rows.column("user_id")}
        for position, stage in enumerate(bundle.task_names):
            columns[f"raw_{stage}"] = pa.array(scores.raw[:, position])
            columns[f"p_{stage}"] = pa.array(scores.calibrated[:, position])
            columns[f"log_odds_{stage}"] = pa.array(thousandths_of_log_odds(scores.raw[:, position]))
        columns["sample"] = _sample(rows, kept)
        yield from pa.table(columns).to_batches(max_chunksize=parts[0].num_rows)

    return predict


def describe_worker(folder: str | None) -> Callable[[Iterable[pa.RecordBatch]], Batches]:
    """Make a function for `mapInArrow` that says where it runs, once a batch.

    Out: `host`, `python`, `torch` (versions), and `sees`, whether the worker can list the folder.
    """

    def describe(batches: Iterable[pa.RecordBatch]) -> Batches:
        import platform
        import socket

        import torch

        for _ in batches:
            row = {"host": socket.gethostname(), "python": platform.python_version(), "torch": torch.__version__}
            yield pa.RecordBatch.from_pylist([row | {"sees": folder is None or Path(folder).is_dir()}], WORKER)

    return describe


def with_constants(rows: pa.Table, constants: Mapping[str, str | None]) -> pa.Table:
    """Add text columns that have one value in all rows."""
    for name, value in constants.items():
        rows = rows.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(rows)))
    return rows


def _sample(rows: pa.Table, kept: Sequence[str]) -> pa.StructArray:
    features = [rows.column(name).combine_chunks() for name in kept]
    is_other = pc.invert(rows.column(SAMPLED)).combine_chunks()
    return pa.StructArray.from_arrays(features, names=list(kept), mask=is_other)


def thousandths_of_log_odds(p: np.ndarray) -> np.ndarray:
    """Log-odds of probabilities, float64 (n,), in whole thousandths, int32 (n,).

    NaN, which has no log-odds, becomes 0: it is for the audit to stop it, not for the ranking.

    >>> thousandths_of_log_odds(np.array([0.0, 0.5, 0.75, 1.0])).tolist()
    [-1000000, 0, 1099, 1000000]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        log_odds = np.log(p / (1.0 - p))
    return np.nan_to_num(np.rint(1000 * log_odds), nan=0, posinf=FARTHEST, neginf=-FARTHEST).astype(np.int32)


@lru_cache(maxsize=1)
def _load(path: str) -> Bundle:
    import torch

    # Spark runs one worker a core; more threads in each would only wait for one another.
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    bundle = Bundle.load(Path(path))
    # Spark's worker collects garbage after every task, and would visit each of torch's objects again.
    gc.freeze()
    return bundle
