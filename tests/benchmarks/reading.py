"""Parquet to shuffled batches: rows per second of one core, and the memory of a stream.

Rows have 20 categorical columns of 10,000 values each, 30 columns of float32 and 3 binary labels. Target: 2 million
rows per second and core, from Parquet to batches that a device can take, and a shuffle in bounded memory, shown on ten
times the bound.

A core means a second of CPU time over all threads of a process that is held to one core, with libraries held to one
thread, so other work on the machine does not count. Contenders take turns. The floor is Arrow reading the same file and
doing nothing with it. The peers are torch's DataLoader over tensors already encoded in memory, which neither reads nor
encodes, and pandas, which reads the file and encodes it column by column.

Limitations: one machine; files in the page cache; values drawn evenly, so that every row group holds every value; float
columns as Arrow writes them, compressed by Snappy (which finds nothing to compress).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from model import Categorical, FeatureSpec, Numeric
from model.labels import Labels, as_tasks
from model.training.examples import Examples
from model.training.shuffle_buffer import PIECE_ROWS
from model.training.sources import READ_AHEAD, StreamedSource
from tests.benchmarks.harness import PeakMemory, Timing, measure_memory, rates_table, time_in_turns, write_report
from tests.benchmarks.tuning import markdown

ROWS = 2**20
BATCH = 65_536
SHUFFLE = 131_072
ROUNDS = 3
ASKED = 2_000_000

CATEGORICALS = [f"c{column}" for column in range(20)]
NUMERICS = [f"x{column}" for column in range(30)]
TASKS = as_tasks(["click", "register", "complete"])
LABELS = [task.label for task in TASKS]
VALUES = 10_000
FEATURES = [*map(Categorical, CATEGORICALS), *map(Numeric, NUMERICS)]

STREAM = "our stream"
FLOOR = "floor: Arrow reads the columns"
SAMPLER = "DataLoader, a batch an index, encoded in memory"
DEFAULT = "DataLoader, its defaults, encoded in memory"
PANDAS = "pandas, whole file in memory"


@dataclass(frozen=True)
class File:
    """A file to write: ids as strings or as integers spread over 64 bits, and a share of nulls in every feature."""

    name: str
    ids: str = "strings"
    row_group: int = 262_144
    nulls: float = 0.0
    rows: int = ROWS
    peers: bool = False


FILES = (
    File("string ids, dictionary-encoded", peers=True),
    File("string ids, row groups of 65,536", row_group=65_536),
    File("string ids, row groups of 1,048,576", row_group=2**20),
    File("string ids, 5% of every feature null", nulls=0.05),
    File("integer ids over 64 bits", ids="integers"),
    File("integer ids from 0 to 9,999", ids="small integers"),
)


def write(file: File, path: Path) -> None:
    """Write one row group at a time, with strings and integers dictionary-encoded in the file."""
    draw = np.random.default_rng(0)
    kept: dict[str, pa.Array] = {}
    for name in CATEGORICALS:
        spread = np.unique(draw.integers(0, 2**62, VALUES + 100))[:VALUES]
        integers = np.arange(VALUES) if file.ids == "small integers" else spread
        kept[name] = pa.array([f"value-{each % 10**10}" for each in spread] if file.ids == "strings" else integers)
    writer: pq.ParquetWriter | None = None
    for start in range(0, file.rows, file.row_group):
        rows = min(file.row_group, file.rows - start)

        def column(values: pa.Array, rows: int = rows) -> pa.Array:
            if not file.nulls:
                return values
            return pa.compute.if_else(pa.array(draw.random(rows) < file.nulls), pa.scalar(None, values.type), values)

        columns = {name: column(values.take(pa.array(draw.integers(0, VALUES, rows)))) for name, values in kept.items()}
        for place, name in enumerate(NUMERICS):
            columns[name] = column(pa.array(draw.normal(place, 1 + place, rows).astype(np.float32)))
        for name in LABELS:
            columns[name] = pa.array((draw.random(rows) < 0.1).astype(np.int8))
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=[*CATEGORICALS, *LABELS])
        writer.write_table(table, row_group_size=rows)
    assert writer is not None
    writer.close()


def examples(spec: FeatureSpec, table: pa.Table | pa.RecordBatch) -> Examples:
    """Examples as `model.fit` makes them."""
    labels = Labels.read(table, TASKS)
    mean, scale = np.zeros(len(TASKS)), np.ones(len(TASKS))
    targets = ((labels.values - mean) / scale).astype(np.float32)
    return Examples(spec.encode(table), torch.from_numpy(targets), torch.from_numpy(labels.weight))


def stream(path: Path, spec: FeatureSpec, *, batch_size: int = BATCH, shuffle_rows: int = SHUFFLE) -> StreamedSource:
    return StreamedSource(
        ds.dataset(path),
        lambda table: examples(spec, table),
        columns=[*CATEGORICALS, *NUMERICS, *LABELS],
        batch_size=batch_size,
        shuffle_rows=shuffle_rows,
        device=torch.device("cpu"),
    )


def hold_to_one_core() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def rates(path: Path, peers: bool) -> dict[str, Timing]:
    """CPU seconds of each contender; to be called in a process of its own."""
    hold_to_one_core()
    spec = fitted_on_first_group(path)
    rows = pq.read_metadata(path).num_rows
    units = {STREAM: rows, FLOOR: rows}
    contenders: dict[str, Callable[[], int]] = {
        STREAM: lambda: sum(len(batch) for batch in stream(path, spec).epoch(0)),
        FLOOR: lambda: read_only(path),
    }
    if peers:
        held = examples(spec, pq.read_table(path))
        tensors = TensorDataset(held.inputs.sparse, held.inputs.dense, held.targets)
        contenders[SAMPLER] = lambda: by_index(tensors)
        few = TensorDataset(*tensors[:BATCH])
        contenders[DEFAULT] = lambda: sum(len(targets) for _, _, targets in DataLoader(few, BATCH, shuffle=True))
        contenders[PANDAS] = lambda: with_pandas(path, spec)
        units |= {SAMPLER: rows, DEFAULT: BATCH, PANDAS: rows}
    used: dict[str, list[float]] = {name: [] for name in contenders}

    def clocked(name: str) -> Callable[[], None]:
        def run() -> None:
            started = time.process_time()
            assert contenders[name]() == units[name]
            used[name].append(time.process_time() - started)

        return run

    time_in_turns({name: clocked(name) for name in contenders}, rounds=ROUNDS, warm_up=1)
    return {name: Timing(tuple(seconds[1:]), units[name]) for name, seconds in used.items()}


def read_only(path: Path) -> int:
    """Read every row group as an Arrow table, strings as dictionaries."""
    file = pq.ParquetFile(path, read_dictionary=CATEGORICALS)
    return sum(file.read_row_group(group, use_threads=False).num_rows for group in range(file.num_row_groups))


def by_index(tensors: TensorDataset) -> int:
    """The fast way to use a DataLoader: it gets the index of a whole batch instead of one row after another."""
    sampler = BatchSampler(RandomSampler(tensors), BATCH, drop_last=False)
    return sum(len(targets) for _, _, targets in DataLoader(tensors, sampler=sampler, batch_size=None))


def with_pandas(path: Path, spec: FeatureSpec) -> int:
    """All in memory: strings mapped to ids, numbers scaled, everything stacked and shuffled."""
    import pandas as pd

    frame = pd.read_parquet(path)
    ids = [
        frame[each.feature.name].map({value: id for id, value in enumerate(each.values, 2)}).to_numpy(np.int64)
        for each in spec.categoricals
    ]
    numbers = frame[NUMERICS]
    dense = ((numbers - numbers.mean()) / numbers.std()).to_numpy(np.float32)
    targets = frame[LABELS].to_numpy(np.float32)
    sparse, values, labels = torch.from_numpy(np.stack(ids, 1)), torch.from_numpy(dense), torch.from_numpy(targets)
    sent = 0
    for index in torch.randperm(len(frame)).split(BATCH):
        sent += len((sparse[index], values[index], labels[index])[0])
    return sent


BOUND_ROWS = 131_072
BOUND_BATCH = 8_192
BOUND_GROUP = 32_768


def memory(path: Path, whole: bool) -> tuple[int, int, int]:
    """Peak bytes above the start, the bytes Arrow needs to read a row group, and rows; in a process of its own."""
    spec = fitted_on_first_group(path)
    source = stream(path, spec, batch_size=BOUND_BATCH, shuffle_rows=BOUND_ROWS)
    held = pa.total_allocated_bytes()
    examples(spec, source.groups[0].read(BOUND_GROUP)[0])  # not counted: what libraries load and lookups build
    of_group = pa.default_memory_pool().max_memory() - held
    pa.default_memory_pool().release_unused()
    start = measure_memory(PeakMemory().process)
    with PeakMemory(interval=0.01) as used:
        if whole:
            rows = len(examples(spec, pq.read_table(path, read_dictionary=CATEGORICALS)))
        else:
            rows = sum(len(batch) for batch in source.epoch(0))
    return used.peak - start, of_group, rows


def fitted_on_first_group(path: Path) -> FeatureSpec:
    return FeatureSpec.fit(FEATURES, pq.ParquetFile(path).read_row_group(0))


def latency(path: Path) -> dict[int, float]:
    """Median seconds to encode different numbers of rows of plain strings."""
    hold_to_one_core()
    spec = fitted_on_first_group(path)
    table = pq.ParquetFile(path).read_row_group(0).select([*CATEGORICALS, *NUMERICS]).combine_chunks()
    found = {}
    for rows in (1, 100, 10_000):
        batch = table.slice(0, rows).to_batches()[0]
        timing = time_in_turns({"encode": lambda batch=batch: spec.encode(batch)}, rounds=50, warm_up=5)["encode"]
        found[rows] = timing.median
    return found


def main() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        timings = {}
        for file in FILES:
            write(file, path)
            timings[file.name] = apart(rates, path, file.peers)
        write(File("", row_group=BOUND_GROUP, rows=10 * BOUND_ROWS), path)
        streamed, whole, waits = apart(memory, path, False), apart(memory, path, True), apart(latency, path)
    write_report("reading", *report(timings, streamed, whole, waits), command="python -m tests.benchmarks.reading")


def apart(function: Callable[..., object], *arguments: object) -> object:
    """Call the function in a fresh process and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def report(
    timings: dict[str, dict[str, Timing]],
    streamed: tuple[int, int, int],
    whole: tuple[int, int, int],
    waits: dict[int, float],
) -> list[str]:
    first = timings[FILES[0].name]
    others = []
    for name, each in timings.items():
        ours, floor = each[STREAM], each[FLOOR]
        others.append([name, f"{ours.rate:,.0f}", f"{floor.rate:,.0f}", f"{ours.times_as_fast_as(floor):.2f}"])
    row = 4 * (len(CATEGORICALS) + len(NUMERICS) + 2 * len(TASKS))
    parts = {
        "the buffer": (BOUND_ROWS + BOUND_GROUP) * (row + 24),
        "Arrow reading a row group": streamed[1],
        "batches": (READ_AHEAD + 1) * BOUND_BATCH * row,
        "rows being encoded": 2 * PIECE_ROWS * row,
    }
    bound = sum(parts.values())
    slowest = min(each[STREAM].rate for each in timings.values())
    said = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in parts.items())
    return [
        "# Reading",
        "Rows of 20 categorical columns (10,000 values each), 30 of float32, 3 binary labels. From a Parquet file in"
        f" the page cache to shuffled batches of {BATCH:,} on the CPU, {ROWS:,} rows, a buffer of {SHUFFLE:,}. Rates"
        " are rows a second of CPU time, all threads counted, in a process held to one core.",
        "## String ids, row groups of 262,144: beside peers",
        rates_table(first, unit="rows", against=FLOOR),
        "## By file",
        markdown(["file", "our stream, rows/s", "floor, rows/s", "times the floor"], others),
        "## Memory",
        markdown(
            ["what", "rows", "peak above the start, MB"],
            [
                [f"streamed, `shuffle_rows` {BOUND_ROWS:,}", f"{streamed[2]:,}", f"{streamed[0] / 1e6:.0f}"],
                [f"the bound: {said}", "", f"{bound / 1e6:.0f}"],
                ["loaded and encoded whole", f"{whole[2]:,}", f"{whole[0] / 1e6:.0f}"],
            ],
        ),
        "## Encoding few rows, strings not dictionary-encoded",
        markdown(["rows", "ms"], [[f"{rows:,}", f"{seconds * 1e3:.2f}"] for rows, seconds in waits.items()]),
        "## Asked and found",
        f"- {ASKED:,} rows a second a core: found {first[STREAM].rate:,.0f} with string ids in row groups of 262,144,"
        f" {slowest:,.0f} with the slowest file, {max(each[STREAM].rate for each in timings.values()):,.0f} with the"
        f" fastest. {first[STREAM].times_as_fast_as(first[FLOOR]):.0%} of the stream's time is Arrow's reading.\n"
        f"- Ten times the rows of the shuffle's bound in bounded memory: {streamed[0] / 1e6:.0f} MB at the peak; the"
        f" bound adds up to {bound / 1e6:.0f} MB, without what allocators keep; {whole[0] / 1e6:.0f} MB whole.",
    ]


if __name__ == "__main__":
    main()
