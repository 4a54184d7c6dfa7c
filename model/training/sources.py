"""Training rows as batches on the device: a table that fits stays there, a larger data set is streamed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch

from model.training.distributed import count_processes, get_own_part
from model.training.examples import Examples
from model.training.row_groups import cut_row_groups, list_row_groups
from model.training.shuffle_buffer import PIECE_ROWS, ShuffleBuffer

if TYPE_CHECKING:  # slow to import, since it imports pandas, and scoring does not need it
    import pyarrow.dataset

SMALL_BATCH = 64
"""A small table is split into up to this many batches of at least this many rows, before batches grow to full size."""
READ_AHEAD = 2
"""Batches that a stream prepares during a step."""

T = TypeVar("T")


class Source(Protocol):
    """Provides an epoch's batches: ``batches`` of them, the same ones for the same seed.

    Each of several processes gets as many batches, with its own part of the rows.
    """

    batches: int

    def epoch(self, seed: int) -> Iterator[Examples]: ...


class ResidentSource:
    """Examples held on the device: a batch is a slice of an index shuffled there.

    Batch sizes differ by at most one row, so no last batch is tiny. Each of several processes holds all rows and takes
    its part of every batch.
    """

    def __init__(self, examples: Examples, *, batch_size: int) -> None:
        self.examples = examples
        self.batches = count_batches(len(examples), batch_size)

    def epoch(self, seed: int) -> Iterator[Examples]:
        device = self.examples.targets.device
        generator = torch.Generator(device).manual_seed(seed)
        shuffled = torch.randperm(len(self.examples), generator=generator, device=device)
        for index in shuffled.tensor_split(self.batches):
            yield self.examples.select(index[get_own_part(len(index))])


class StreamedSource:
    """A data set read from its files every epoch: row groups in random order, rows shuffled within a buffer.

    Memory bound of each process: ``shuffle_rows`` encoded rows (at least two batches) and those of one row group; what
    Arrow needs to read that row group; ``READ_AHEAD`` + 1 batches; ``PIECE_ROWS`` rows, at twice their size, while they
    are encoded. An encoded row takes 4 bytes per column of its tensors, 4 (S + D + P + 2T), and up to 24 more in the
    buffer while it is shuffled.

    Rows mix with those of the row groups that share the buffer, so a sorted file shuffles better with small row groups.
    Each of several processes reads its part of the random order of row groups; parts differ by at most one row. A row
    group that spans two parts is read by both processes, each keeping its own rows.

    Raises:
        ValueError: There are more processes than rows.
    """

    def __init__(
        self,
        dataset: pa.dataset.Dataset,
        encode: Callable[[pa.RecordBatch], Examples],
        *,
        columns: Sequence[str],
        batch_size: int,
        shuffle_rows: int,
        device: torch.device,
    ) -> None:
        columns = list(dict.fromkeys(columns))
        self.groups = [
            group
            for fragment in dataset.get_fragments()
            for group in list_row_groups(fragment, dataset.schema, columns)
        ]
        self.encode = encode
        self.shuffle_rows = max(shuffle_rows, 2 * batch_size)
        self.device = device
        self.rows = sum(group.rows for group in self.groups)
        if self.rows < count_processes():
            raise ValueError(
                f"{count_processes()} processes cannot share {self.rows} rows: start no more than {self.rows}"
            )
        self.batches = count_batches(self.rows, batch_size)

    def epoch(self, seed: int) -> Iterator[Examples]:
        return read_ahead(self._batches(seed), READ_AHEAD)

    def _batches(self, seed: int) -> Iterator[Examples]:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.groups), generator=generator).tolist()
        parts = cut_row_groups([self.groups[position] for position in order], get_own_part(self.rows))
        rows = sum(part.rows for part in parts)
        # Batch b ends at row ends[b]; rounding the ends makes the sizes add up.
        ends = np.linspace(0, rows, self.batches + 1).round().astype(np.int64)[1:].tolist()
        buffer = ShuffleBuffer(min(rows, self.shuffle_rows + max(part.rows for part in parts)))
        batch = sent = 0
        for number, part in enumerate(parts):
            for piece in part.read(PIECE_ROWS):
                buffer.add(self.encode(piece))
            last = number == len(parts) - 1
            if len(buffer) < self.shuffle_rows and not last:
                continue
            buffer.shuffle(generator)
            # Half the buffer is sent, half stays to mix with the next row groups.
            keep = 0 if last else self.shuffle_rows // 2
            while batch < self.batches and len(buffer) - (ends[batch] - sent) >= keep:
                yield buffer.take(ends[batch] - sent, self.device)
                sent, batch = ends[batch], batch + 1


def read_ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """Yield the same items, up to ``most`` of which a thread fetches in advance."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(most))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


def count_batches(rows: int, batch_size: int) -> int:
    """Count the batches of an epoch.

    >>> count_batches(1_000_000, 2048), count_batches(10_000, 2048), count_batches(640, 2048), count_batches(1, 2048)
    (489, 64, 10, 1)
    """
    return max(math.ceil(rows / batch_size), min(SMALL_BATCH, math.ceil(rows / SMALL_BATCH)))
