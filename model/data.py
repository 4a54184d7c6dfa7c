"""Training rows as batches on the device: a table that fits stays there, a larger data set streams past."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.features import Encoded

if TYPE_CHECKING:  # it takes as long to import as pandas, which it brings along, and scoring needs none of it
    import pyarrow.dataset

SMALL_BATCH = 64
"""A table is cut into up to this many batches of at least this many rows before batches grow to the batch
size."""


@dataclass(frozen=True)
class Examples:
    """Encoded rows with ``targets`` float32 (n, T), regressions standardised, and ``weight`` float32 (n, T),
    0 where the target does not count."""

    inputs: Encoded
    targets: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, index: Tensor | slice) -> Examples:
        return Examples(self.inputs.rows(index), self.targets[index], self.weight[index])

    def to(self, device: torch.device) -> Examples:
        return Examples(self.inputs.to(device), self.targets.to(device), self.weight.to(device))

    @staticmethod
    def cat(parts: Sequence[Examples]) -> Examples:
        return Examples(
            Encoded.cat([part.inputs for part in parts]),
            torch.cat([part.targets for part in parts]),
            torch.cat([part.weight for part in parts]),
        )


class Source(Protocol):
    """Where an epoch's batches come from: ``batches`` of them, the same ones for the same seed."""

    batches: int

    def epoch(self, seed: int) -> Iterator[Examples]: ...


class Resident:
    """Examples that lie on the device whole: a batch is a slice of an index shuffled there.

    Batch sizes differ by one at most: no tiny last batch.
    """

    def __init__(self, examples: Examples, *, batch_size: int) -> None:
        self.examples = examples
        self.batches = batches_for(len(examples), batch_size)

    def epoch(self, seed: int) -> Iterator[Examples]:
        device = self.examples.targets.device
        generator = torch.Generator(device).manual_seed(seed)
        shuffled = torch.randperm(len(self.examples), generator=generator, device=device)
        for index in shuffled.tensor_split(self.batches):
            yield self.examples.rows(index)


class Streamed:
    """A data set read anew each epoch, its row groups in random order, its rows shuffled within a buffer.

    At most ``shuffle_rows`` encoded rows and one row group wait in memory. Rows mix with those of the row
    groups that share the buffer with them: where a file is sorted, small row groups shuffle better.
    """

    def __init__(
        self,
        dataset: pa.dataset.Dataset,
        encode: Callable[[pa.Table], Examples],
        *,
        columns: Sequence[str],
        batch_size: int,
        shuffle_rows: int,
        device: torch.device,
    ) -> None:
        self.groups = [group for fragment in dataset.get_fragments() for group in row_groups(fragment, dataset.schema)]
        self.schema = dataset.schema
        self.encode = encode
        self.columns = list(dict.fromkeys(columns))
        self.shuffle_rows = max(shuffle_rows, 2 * batch_size)
        self.device = device
        rows = dataset.count_rows()
        self.batches = batches_for(rows, batch_size)
        # As many rows more than the fraction as make the sizes add up: batch b ends at row ends[b].
        self.ends = np.linspace(0, rows, self.batches + 1).round().astype(np.int64)[1:].tolist()

    def epoch(self, seed: int) -> Iterator[Examples]:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.groups), generator=generator).tolist()
        ends, waiting, done = iter(self.ends), [], 0
        end = next(ends)
        for position, group in enumerate(order):
            table = self.groups[group].to_table(columns=self.columns, schema=self.schema)
            waiting.append(self.encode(table))
            last = position == len(order) - 1
            if sum(map(len, waiting)) < self.shuffle_rows and not last:
                continue
            buffer = Examples.cat(waiting)
            buffer = buffer.rows(torch.randperm(len(buffer), generator=generator))
            # Half the buffer goes out, half stays to mix with the row groups that come next.
            keep, sent = 0 if last else self.shuffle_rows // 2, 0
            while len(buffer) - sent - (end - done) >= keep:
                yield buffer.rows(slice(sent, sent + end - done)).to(self.device)
                sent, done = sent + end - done, end
                if done == self.ends[-1]:
                    return
                end = next(ends)
            waiting = [buffer.rows(slice(sent, None))]


def row_groups(fragment: pa.dataset.Fragment, schema: pa.Schema) -> list[pa.dataset.Fragment]:
    """A Parquet file's row groups; a fragment of another format whole."""
    split = getattr(fragment, "split_by_row_group", None)
    return [fragment] if split is None else split(schema=schema)


def batches_for(rows: int, batch_size: int) -> int:
    """How many batches an epoch has.

    >>> batches_for(1_000_000, 2048), batches_for(10_000, 2048), batches_for(640, 2048), batches_for(1, 2048)
    (489, 64, 10, 1)
    """
    return max(math.ceil(rows / batch_size), min(SMALL_BATCH, math.ceil(rows / SMALL_BATCH)))
