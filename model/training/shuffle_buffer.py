"""The buffer in which rows of several row groups mix."""

from __future__ import annotations

import numpy as np
import torch

from model.inputs.feature_spec import BLOCK_ROWS
from model.training.examples import Examples

CPU = torch.device("cpu")

PIECE_ROWS = BLOCK_ROWS
"""Rows are encoded and copied into the buffer in pieces of this size, which fit the processor's cache."""


class ShuffleBuffer:
    """At most ``capacity`` rows in memory allocated once: a row is copied only when it is added and when it is taken.

    A row's tensors lie side by side, 4 bytes a word, so that a row is gathered from one place, which halves the time
    of separate tensors. What is taken are views into such rows.

    Shuffling permutes the rows' places; the rows themselves stay where they are. New rows are appended at the end,
    after rows from the end have moved into the gaps left by those taken.

    >>> from model.inputs.encoded import Encoded
    >>> number = torch.arange(4.0)[:, None]
    >>> buffer = ShuffleBuffer(4)
    >>> buffer.add(Examples(Encoded(number, number, number), number, number))
    >>> buffer.take(3).targets.flatten().tolist(), len(buffer)
    ([0.0, 1.0, 2.0], 1)
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._words: np.ndarray | None = None
        self._no_rows: Examples | None = None
        """Holds the widths and types of the tensors."""
        self._end = 0
        self._order = [torch.empty(0, dtype=torch.int64)]

    def __len__(self) -> int:
        return sum(map(len, self._order))

    def add(self, rows: Examples) -> None:
        """Append a copy of these rows."""
        # Ids are stored as the bits of floats, because torch joins floats faster than integers.
        tensors = [each.view(torch.float32) for each in rows.tensors]
        if self._words is None:
            self._no_rows = rows.select(slice(0)).map(torch.clone)
            # NumPy requests large pages, torch does not.
            self._words = np.empty((self.capacity, sum(each.shape[1] for each in tensors)), np.float32)
        self._close_gaps(self._words)
        start, self._end = self._end, self._end + len(rows)
        torch.cat(tensors, 1, out=torch.from_numpy(self._words[start : self._end]))
        self._order.append(torch.arange(start, self._end))

    def shuffle(self, generator: torch.Generator) -> None:
        places = self._places()
        self._order = [places[torch.randperm(len(places), generator=generator)]]

    def take(self, rows: int, device: torch.device = CPU) -> Examples:
        """Remove the first ``rows`` rows in order, and return a copy of them on ``device``."""
        assert self._words is not None and self._no_rows is not None
        places, kept = self._places().split([rows, len(self) - rows])
        self._order = [kept]
        # On one core, NumPy's take is much faster than torch's index_select.
        words = torch.from_numpy(np.take(self._words, places.numpy(), axis=0))
        if device.type == "cuda":  # from pinned memory, the copy overlaps the previous step
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
        gaps = is_gap.nonzero().flatten()  # as many as rows to move
        for to, behind in zip(gaps.split(PIECE_ROWS), places[is_behind].split(PIECE_ROWS), strict=True):
            words[to.numpy()] = np.take(words, behind.numpy(), axis=0)
        places[is_behind] = gaps
        self._end = rows

    def _places(self) -> torch.Tensor:
        """The places of all rows, in order, joined lazily: joining at every ``add`` would copy them all each time."""
        if len(self._order) > 1:
            self._order = [torch.cat(self._order)]
        return self._order[0]
