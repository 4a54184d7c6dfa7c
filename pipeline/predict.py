"""The champion inside Spark's Python workers: loaded once a worker, Arrow batches in and out."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from pyspark import SparkFiles

from model import Bundle

Batches = Iterator[pa.RecordBatch]


def predictor(bundle_name: str) -> Callable[[Iterable[pa.RecordBatch]], Batches]:
    """A function for `mapInArrow`: user_id and features in; user_id, `raw_<stage>` and `p_<stage>` out.

    Args:
        bundle_name: the bundle's folder as given to `SparkContext.addFile`.
    """

    def predict(batches: Iterable[pa.RecordBatch]) -> Batches:
        bundle = _load(SparkFiles.get(bundle_name))
        for batch in batches:
            scores = bundle.predict(batch)
            columns = {"user_id": batch.column("user_id")}
            for position, stage in enumerate(bundle.task_names):
                columns[f"raw_{stage}"] = pa.array(scores.raw[:, position])
                columns[f"p_{stage}"] = pa.array(scores.calibrated[:, position])
            yield pa.RecordBatch.from_pydict(columns)

    return predict


@lru_cache(maxsize=1)
def _load(path: str) -> Bundle:
    import torch

    # Spark runs one worker a core: more threads in each would only wait for one another.
    torch.set_num_threads(1)
    return Bundle.load(Path(path))
