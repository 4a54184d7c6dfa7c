"""Fast lookup of a column's values in a vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.inputs.columns import Column, list_chunks, read_strings

MISSING = 0
"""The id of a categorical value that is null."""
UNSEEN = 1
"""The id of a categorical value outside the vocabulary."""
SPECIAL_IDS = 2
"""The first id of the vocabulary itself."""
PADDING = -1
"""What fills a row of list ids after its last element."""

ENTRIES_PER_ROW = 32
"""A dictionary of up to this many entries per row is looked up whole, since later slices of the column share it."""
SLOTS_PER_VALUE = 16
"""Hash slots per integer, at least: on average at most one integer in 32 finds its slot taken."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Knuth, The Art of Computer Programming 3, 6.4


class Lookup:
    """Maps a vocabulary's ``values`` to ids, counted from ``SPECIAL_IDS``.

    >>> lookup = Lookup(["b", "7"])
    >>> lookup.find_ids(pa.array(["7", None, "a"]), "c").tolist(), lookup.find_ids(pa.array([7, 8]), "c").tolist()
    ([3, 0, 1], [3, 1])
    """

    def __init__(self, values: Sequence[str]) -> None:
        self.values = values
        self._dictionary: pa.Array | None = None
        self._entry_ids = np.empty(0, np.int32)

    def find_ids(self, column: Column, name: str) -> np.ndarray:
        """Find the ids of a column, int32 (n,).

        Raises:
            ValueError: The type does not cast to strings; the message names the column.
        """
        if isinstance(column, pa.ChunkedArray):
            chunks = [self.find_ids(chunk, name) for chunk in list_chunks(column)]
            if len(chunks) == 1:
                return chunks[0]
            return np.concatenate(chunks) if chunks else np.empty(0, np.int32)
        kind = column.type
        if pa.types.is_dictionary(kind) and len(column.dictionary) <= ENTRIES_PER_ROW * len(column):
            return _take_ids(self._find_entry_ids(column.dictionary, name), column.indices)
        if pa.types.is_integer(kind) and kind != pa.uint64():
            return self._find_integer_ids(column)
        strings = read_strings(column, name)
        if 2 * len(strings) < len(self.values):
            found = map(self._by_string.get, strings.to_pylist())
            return np.array([UNSEEN if each is None else each for each in found], np.int32)
        return np.asarray(pc.fill_null(pc.index_in(strings, value_set=self._strings), UNSEEN))

    def _find_entry_ids(self, dictionary: pa.Array, name: str) -> np.ndarray:
        """Cached for the next call with the same dictionary, which is kept alive so that its address stays its own."""
        if self._dictionary is None or not _share_memory(self._dictionary, dictionary):
            self._entry_ids = self.find_ids(dictionary, name)
            self._dictionary = dictionary
        return self._entry_ids

    def _find_integer_ids(self, column: pa.Array) -> np.ndarray:
        missing = None
        if column.null_count:
            missing, column = np.asarray(column.is_null()), pc.fill_null(column, 0)
        ids = self._integers.find_ids(np.asarray(column).astype(np.int64, copy=False))
        if missing is not None:
            ids[missing] = MISSING
        return ids

    @cached_property
    def _strings(self) -> pa.Array:
        """Positions are ids: a null at ``MISSING``, another at ``UNSEEN`` that is never found, then the values."""
        return pa.array([None, None, *self.values], pa.string())

    @cached_property
    def _by_string(self) -> dict[str | None, int]:
        """For a few strings, since Arrow rebuilds its hash table of all values on every call."""
        return {None: MISSING} | {value: id for id, value in enumerate(self.values, SPECIAL_IDS)}

    @cached_property
    def _integers(self) -> _IntegerLookup:
        return _IntegerLookup(self.values)


class _IntegerLookup:
    """Looks up 64-bit integers as integers, several times faster than as strings.

    Every integer has a slot. If the values lie close together, its slot is its distance from the smallest one, and all
    integers outside the range share the last slot. Otherwise the slot is a multiplicative hash that holds one of the
    values sharing it; integers that do not match their slot are found by binary search among all values.
    """

    def __init__(self, values: Sequence[str]) -> None:
        # No integer is written any other way: "07", "-0", "1.0", or beyond 64 bits.
        integer = re.compile("0|-?[1-9][0-9]{0,18}").fullmatch
        pairs = sorted((int(value), id) for id, value in enumerate(values, SPECIAL_IDS) if integer(value))
        pairs = [pair for pair in pairs if -(2**63) <= pair[0] < 2**63] or [(0, UNSEEN)]
        self.ascending = np.array([value for value, _ in pairs], np.int64)
        self.id_of = np.array([id for _, id in pairs], np.int32)
        self.bits = (SLOTS_PER_VALUE * len(pairs)).bit_length()
        self.is_close = int(self.ascending[-1]) - int(self.ascending[0]) < 2**self.bits
        slots = self._slots(self.ascending)
        if self.is_close:
            self.id_at = np.full(2**self.bits + 1, UNSEEN, np.int32)
            self.id_at[slots] = self.id_of
        else:
            self.position_at = np.zeros(2**self.bits, np.int32)
            self.position_at[slots] = np.arange(len(pairs), dtype=np.int32)

    def find_ids(self, values: np.ndarray) -> np.ndarray:
        """Find the ids, int32 (n,), of int64 (n,)."""
        slots = self._slots(values)
        if self.is_close:
            return self.id_at.take(slots)
        position = self.position_at.take(slots)
        elsewhere = np.flatnonzero(self.ascending.take(position) != values)
        ids = self.id_of.take(position)
        if len(elsewhere):
            sought = values[elsewhere]
            found = np.searchsorted(self.ascending, sought).clip(max=len(self.ascending) - 1)
            ids[elsewhere] = np.where(self.ascending[found] == sought, self.id_of[found], UNSEEN)
        return ids

    def _slots(self, values: np.ndarray) -> np.ndarray:
        unsigned = values.view(np.uint64)  # for arithmetic modulo 2^64
        if self.is_close:
            slots = unsigned - self.ascending.view(np.uint64)[0]
            return np.minimum(slots, np.uint64(2**self.bits), out=slots).view(np.int64)
        slots = unsigned * _MULTIPLIER
        slots >>= np.uint64(64 - self.bits)
        return slots.view(np.int64)


def _take_ids(of_entry: np.ndarray, indices: pa.Array) -> np.ndarray:
    """Take the ids of dictionary indices; ``MISSING`` for null indices."""
    if len(of_entry) == 0:  # only nulls
        return np.full(len(indices), MISSING, np.int32)
    if indices.null_count:
        of_entry, indices = np.append(of_entry, np.int32(MISSING)), pc.fill_null(indices, len(of_entry))
    return of_entry.take(np.asarray(indices))


def _share_memory(one: pa.Array, other: pa.Array) -> bool:
    return (
        len(one) == len(other)
        and one.offset == other.offset
        and one.type == other.type
        and [each and each.address for each in one.buffers()] == [each and each.address for each in other.buffers()]
    )
