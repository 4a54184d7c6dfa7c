"""Training rows as batches on the device: a table that fits stays there, a larger data set streams past."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.inputs.features import BLOCK_ROWS, Encoded
from model.training.distributed import own_part, processes

if TYPE_CHECKING:  # it takes as long to import as pandas, which it brings along, and scoring needs none of it
    import pyarrow.dataset

SMALL_BATCH = 64
"""A table is cut into up to this many batches of at least this many rows before batches grow to the batch
size."""
PIECE_ROWS = BLOCK_ROWS
"""Rows of a row group are encoded so many at a time, and copied into the buffer while they lie in the cache."""
READ_AHEAD = 2
"""A stream has so many batches under way while a step is taken."""

CPU = torch.device("cpu")

T = TypeVar("T")


@dataclass(frozen=True)
class Examples:
    """Encoded rows with ``targets`` float32 (n, T), regressions standardised, and ``weight`` float32 (n, T),
    0 where the target does not count."""

    inputs: Encoded
    targets: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return *self.inputs.tensors, self.targets, self.weight

    def map(self, function: Callable[[Tensor], Tensor]) -> Examples:
        sparse, dense, lists, targets, weight = map(function, self.tensors)
        return Examples(Encoded(sparse, dense, lists), targets, weight)

    def rows(self, index: Tensor | slice) -> Examples:
        return self.map(lambda each: each[index])

    def to(self, device: torch.device) -> Examples:
        return self.map(lambda each: each.to(device))


class Source(Protocol):
    """Where an epoch's batches come from: ``batches`` of them, the same ones for the same seed.

    Of several processes each gets as many, and in them the rows that are its own.
    """

    batches: int

    def epoch(self, seed: int) -> Iterator[Examples]: ...


class Resident:
    """Examples that lie on the device whole: a batch is a slice of an index shuffled there.

    Batch sizes differ by one at most: no tiny last batch. Of several processes, each holds all rows and takes
    its part of every batch.
    """

    def __init__(self, examples: Examples, *, batch_size: int) -> None:
        self.examples = examples
        self.batches = batches_for(len(examples), batch_size)

    def epoch(self, seed: int) -> Iterator[Examples]:
        device = self.examples.targets.device
        generator = torch.Generator(device).manual_seed(seed)
        shuffled = torch.randperm(len(self.examples), generator=generator, device=device)
        for index in shuffled.tensor_split(self.batches):
            yield self.examples.rows(index[own_part(len(index))])


class Streamed:
    """A data set read anew each epoch, its row groups in random order, its rows shuffled within a buffer.

    Memory bound, in each process: ``shuffle_rows`` encoded rows (two batches at least) and those of one row
    group; what Arrow needs to read that row group; ``READ_AHEAD`` + 1 batches; ``PIECE_ROWS`` rows, at twice their
    size, while they are encoded. An encoded row takes 4 bytes a column of its tensors, 4 (S + D + P + 2T), and
    in the buffer up to 24 more, while places are shuffled.

    Rows mix with those of the row groups that share the buffer with them: where a file is sorted, small row
    groups shuffle better. Of several processes, each reads one part of the row groups' random order, equal
    parts but for a row; a row group in which a part ends is read by two processes, each taking its own rows.

    Raises ValueError where there are more processes than rows.
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
            group for fragment in dataset.get_fragments() for group in row_groups(fragment, dataset.schema, columns)
        ]
        self.encode = encode
        self.shuffle_rows = max(shuffle_rows, 2 * batch_size)
        self.device = device
        self.rows = sum(group.rows for group in self.groups)
        if self.rows < processes():
            raise ValueError(f"{processes()} processes cannot share {self.rows} rows: start no more than {self.rows}")
        self.batches = batches_for(self.rows, batch_size)

    def epoch(self, seed: int) -> Iterator[Examples]:
        return read_ahead(self._batches(seed), READ_AHEAD)

    def _batches(self, seed: int) -> Iterator[Examples]:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.groups), generator=generator).tolist()
        parts = cut([self.groups[position] for position in order], own_part(self.rows))
        rows = sum(part.rows for part in parts)
        # As many rows more than the fraction as make the sizes add up: batch b ends at row ends[b].
        ends = np.linspace(0, rows, self.batches + 1).round().astype(np.int64)[1:].tolist()
        buffer = Buffer(min(rows, self.shuffle_rows + max(part.rows for part in parts)))
        batch = sent = 0
        for number, part in enumerate(parts):
            for piece in part.read(PIECE_ROWS):
                buffer.add(self.encode(piece))
            last = number == len(parts) - 1
            if len(buffer) < self.shuffle_rows and not last:
                continue
            buffer.shuffle(generator)
            # Half the buffer goes out, half stays to mix with the row groups that come next.
            keep = 0 if last else self.shuffle_rows // 2
            while batch < self.batches and len(buffer) - (ends[batch] - sent) >= keep:
                yield buffer.take(ends[batch] - sent, self.device)
                sent, batch = ends[batch], batch + 1


@dataclass(frozen=True)
class RowGroup:
    """``rows`` rows of a fragment of a data set, from row ``start`` on, read as ``schema`` says."""

    fragment: pa.dataset.Fragment
    schema: pa.Schema
    start: int
    rows: int

    def read(self, most: int) -> list[pa.RecordBatch]:
        """The rows, at most so many at a time."""
        # In one batch: a dictionary would come anew with every other.
        table = self.fragment.to_table(columns=self.schema.names, schema=self.schema, batch_size=2**31 - 1)
        return table.slice(self.start, self.rows).to_batches(max_chunksize=most)


def row_groups(fragment: pa.dataset.Fragment, schema: pa.Schema, columns: Sequence[str]) -> list[RowGroup]:
    """A Parquet file's row groups, those without rows left out; a fragment of another format whole.

    Strings in Parquet are read as Arrow dictionaries: a value that a row group holds many times is looked up
    once.
    """
    schema = pa.schema([schema.field(name) for name in columns])
    if hasattr(fragment, "split_by_row_group"):
        fragment, schema = _with_dictionaries(fragment, schema)
        # A part's own count_rows counts the rows of the whole file.
        sized = [(part, part.row_groups[0].num_rows) for part in fragment.split_by_row_group()]
    else:
        sized = [(fragment, fragment.count_rows())]
    return [RowGroup(part, schema, 0, rows) for part, rows in sized if rows]


def _with_dictionaries(
    fragment: pa.dataset.ParquetFileFragment, schema: pa.Schema
) -> tuple[pa.dataset.ParquetFileFragment, pa.Schema]:
    from pyarrow.dataset import ParquetFileFormat, ParquetReadOptions

    strings = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    if not strings or not fragment.path:
        return fragment, schema
    options = fragment.format.read_options
    read_as = ParquetFileFormat(
        read_options=ParquetReadOptions(
            dictionary_columns=[*options.dictionary_columns, *strings],
            coerce_int96_timestamp_unit=options.coerce_int96_timestamp_unit,
        ),
        default_fragment_scan_options=fragment.format.default_fragment_scan_options,
    )
    made = read_as.make_fragment(
        fragment.path,
        filesystem=fragment.filesystem,
        partition_expression=fragment.partition_expression,
        row_groups=[group.id for group in fragment.row_groups],
    )
    for name in strings:  # unless a file holds the column as something else, or not at all
        position = made.physical_schema.get_field_index(name)
        if position >= 0 and pa.types.is_dictionary(made.physical_schema.field(position).type):
            column = schema.get_field_index(name)
            schema = schema.set(column, schema.field(column).with_type(made.physical_schema.field(position).type))
    return made, schema


def cut(groups: Sequence[RowGroup], part: slice) -> list[RowGroup]:
    """The rows of ``part``, counted through all groups.

    >>> groups = [RowGroup(None, None, 0, 10), RowGroup(None, None, 0, 10), RowGroup(None, None, 0, 10)]
    >>> [(group.start, group.rows) for group in cut(groups, slice(7, 20))]
    [(7, 3), (0, 10)]
    """
    parts, first = [], 0
    for group in groups:
        start, stop = max(part.start - first, 0), min(part.stop - first, group.rows)
        if start < stop:
            parts.append(RowGroup(group.fragment, group.schema, group.start + start, stop - start))
        first += group.rows
    return parts


class Buffer:
    """At most ``capacity`` rows, in memory allocated once: a row is copied when it comes and when it goes.

    The tensors of a row lie side by side, 4 bytes a word, so that a row is gathered from one place: 45 ns instead of
    95 for 56 words in four tensors. What is taken are views into such rows.

    Shuffled are the places of rows, while they wait where they are. New rows go behind the last one; where rows were
    taken before, the last ones first move into the gaps.

    >>> number = torch.arange(4.0)[:, None]
    >>> buffer = Buffer(4)
    >>> buffer.add(Examples(Encoded(number, number, number), number, number))
    >>> buffer.take(3).targets.flatten().tolist(), len(buffer)
    ([0.0, 1.0, 2.0], 1)
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._words: np.ndarray | None = None
        self._no_rows: Examples | None = None
        """What tells the widths and types of the tensors."""
        self._end = 0
        self._order = [torch.empty(0, dtype=torch.int64)]

    def __len__(self) -> int:
        return sum(map(len, self._order))

    def add(self, rows: Examples) -> None:
        """Copy rows in, in order behind those that are there."""
        # Ids go along as the bits of floats: torch joins floats in two thirds of the time of integers.
        tensors = [each.view(torch.float32) for each in rows.tensors]
        if self._words is None:
            self._no_rows = rows.rows(slice(0)).map(torch.clone)
            # NumPy asks for large pages, torch does not.
            self._words = np.empty((self.capacity, sum(each.shape[1] for each in tensors)), np.float32)
        self._close_gaps(self._words)
        start, self._end = self._end, self._end + len(rows)
        torch.cat(tensors, 1, out=torch.from_numpy(self._words[start : self._end]))
        self._order.append(torch.arange(start, self._end))

    def shuffle(self, generator: torch.Generator) -> None:
        places = self._places()
        self._order = [places[torch.randperm(len(places), generator=generator)]]

    def take(self, rows: int, device: torch.device = CPU) -> Examples:
        """A copy on ``device`` of the first so many rows in order, which then are gone."""
        assert self._words is not None and self._no_rows is not None
        places, kept = self._places().split([rows, len(self) - rows])
        self._order = [kept]
        # NumPy's take: half the time of torch's index_select on one core.
        words = torch.from_numpy(np.take(self._words, places.numpy(), axis=0))
        if device.type == "cuda":  # from pinned memory, the copy runs beside the step before
            words = words.pin_memory().to(device, non_blocking=True)
        parts = iter(words.to(device).split([each.shape[1] for each in self._no_rows.tensors], dim=1))
        return self._no_rows.map(lambda each: next(parts).view(each.dtype))

    def _close_gaps(self, words: np.ndarray) -> None:
        rows = len(self)
        if self._end == rows:
            return
        places = self._places()
        is_behind, is_gap = places >= rows, torch.ones(rows, dtype=torch.bool)
        is_gap[places[~is_behind]] = False
        gaps = is_gap.nonzero().flatten()  # as many as rows behind
        for to, behind in zip(gaps.split(PIECE_ROWS), places[is_behind].split(PIECE_ROWS), strict=True):
            words[to.numpy()] = np.take(words, behind.numpy(), axis=0)
        places[is_behind] = gaps
        self._end = rows

    def _places(self) -> torch.Tensor:
        """Of all rows, in order; joined here and not at each piece that is added, which would copy them all again."""
        if len(self._order) > 1:
            self._order = [torch.cat(self._order)]
        return self._order[0]


def read_ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """The same items, of which up to ``most`` are got, in a thread, before they are asked for."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(most))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


def batches_for(rows: int, batch_size: int) -> int:
    """How many batches an epoch has.

    >>> batches_for(1_000_000, 2048), batches_for(10_000, 2048), batches_for(640, 2048), batches_for(1, 2048)
    (489, 64, 10, 1)
    """
    return max(math.ceil(rows / batch_size), min(SMALL_BATCH, math.ceil(rows / SMALL_BATCH)))
