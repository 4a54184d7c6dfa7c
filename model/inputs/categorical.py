"""Categorical features, single values and lists, and the vocabularies fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.inputs.columns import Column, check_name, get_column, read_lists, read_strings
from model.inputs.lookup import MISSING, PADDING, SPECIAL_IDS, Lookup
from model.inputs.types import name_type, read_as

POOLINGS = ("mean", "sum", "max")
MERGE_AT = 2**16
"""Pending counts may grow to this many, or to the number of merged ones, so that each is merged only a few times."""


@dataclass(frozen=True)
class Categorical:
    """A column of categorical values: anything Arrow casts to strings (strings, integers, booleans, dates, ...).

    Args:
        name: The column.
        max_vocabulary: This many of the most frequent values get embedding rows of their own. All others share the row
            of unseen values; nulls and NaN have the row of missing ones.
        context: Whether the value belongs to an exposure, not to a user.
    """

    name: str
    max_vocabulary: int = 10_000
    context: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _require_at_least_1("categorical", self.name, "max_vocabulary", self.max_vocabulary)


@dataclass(frozen=True)
class CategoricalList:
    """A column of lists of categorical values, such as the products a user viewed, with one vocabulary.

    A null list reads as one missing element, an empty list as no element.

    Args:
        name: The column.
        max_vocabulary: As for ``Categorical``.
        max_length: Only this many leading elements count, so sort lists by falling importance.
        pooling: How the embeddings of a list become one: "mean", "sum" or "max".
        context: As for ``Categorical``.
    """

    name: str
    max_vocabulary: int = 10_000
    max_length: int = 50
    pooling: str = "mean"
    context: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _require_at_least_1("categorical list", self.name, "max_vocabulary", self.max_vocabulary)
        _require_at_least_1("categorical list", self.name, "max_length", self.max_length)
        if self.pooling not in POOLINGS:
            raise ValueError(
                f"categorical list {self.name!r}: pooling is {self.pooling!r}, not one of {', '.join(POOLINGS)}"
            )


@dataclass(frozen=True)
class _FittedValues:
    """``values`` by falling frequency, with ids counted from ``SPECIAL_IDS``.

    ``type`` is that of the values at training, from ``name_type``; None in bundles that did not keep it.
    """

    feature: Categorical | CategoricalList
    values: tuple[str, ...]
    type: str | None = None

    @property
    def size(self) -> int:
        """Rows of the embedding table, including those for missing and unseen values."""
        return SPECIAL_IDS + len(self.values)

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.values)

    def _find_ids(self, column: Column) -> np.ndarray:
        name = self.feature.name
        return self._lookup.find_ids(read_as(column, self.type, name), name)

    def to_dict(self) -> dict[str, Any]:
        return {"feature": asdict(self.feature), "values": list(self.values), "type": self.type}


@dataclass(frozen=True)
class Vocabulary(_FittedValues):
    """A fitted categorical."""

    feature: Categorical

    def encode(self, table: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Encode the feature's column as ids, int32 (n,)."""
        return self._find_ids(get_column(table, self.feature.name))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Vocabulary:
        return cls(Categorical(**stored["feature"]), tuple(stored["values"]), stored.get("type"))


@dataclass(frozen=True)
class ListVocabulary(_FittedValues):
    """A fitted categorical list."""

    feature: CategoricalList

    def encode_into(self, ids: np.ndarray, table: pa.Table | pa.RecordBatch) -> None:
        """Write ids and padding to all of ``ids``, int32 (n, ``max_length``)."""
        name, most = self.feature.name, self.feature.max_length
        row = 0
        for lists in read_lists(get_column(table, name), name):
            block = ids[row : row + len(lists)]
            lengths, elements = _keep_first(lists, most)
            block[...] = PADDING
            block[np.arange(most) < lengths[:, None]] = self._find_ids(elements)
            if lists.null_count:
                block[np.asarray(lists.is_null()), 0] = MISSING
            row += len(lists)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ListVocabulary:
        return cls(CategoricalList(**stored["feature"]), tuple(stored["values"]), stored.get("type"))


class VocabularyFit:
    """Counts a feature's values batch by batch: exactly, with one count in memory per distinct value."""

    def __init__(self, feature: Categorical | CategoricalList) -> None:
        self.feature = feature
        self._type: str | None = None
        self._merged = pa.table({"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch.

        Raises:
            ValueError: The column is missing or has the wrong type; the message names it.
        """
        column, name = get_column(batch, self.feature.name), self.feature.name
        if isinstance(self.feature, Categorical):
            self._count(column, name)
            return
        for lists in read_lists(column, name):
            _, elements = _keep_first(lists, self.feature.max_length)
            self._count(elements, name)

    def finish(self) -> Vocabulary | ListVocabulary:
        self._merge()
        by_frequency = self._merged.sort_by(
            [
                ("count", "descending"),
                ("value", "ascending"),
            ]  # the value breaks ties: one table, one vocabulary
        )
        values = tuple(by_frequency["value"][: self.feature.max_vocabulary].to_pylist())
        if isinstance(self.feature, Categorical):
            return Vocabulary(self.feature, values, self._type)
        return ListVocabulary(self.feature, values, self._type)

    def _count(self, column: Column, name: str) -> None:
        self._type = name_type(column.type)
        counts = pc.value_counts(pc.drop_null(read_strings(column, name)))
        if len(counts) == 0:
            return
        self._waiting.append(pa.table({"value": counts.field("values"), "count": counts.field("counts")}))
        self._waiting_rows += len(counts)
        if self._waiting_rows > max(MERGE_AT, len(self._merged)):
            self._merge()

    def _merge(self) -> None:
        counts = pa.concat_tables([self._merged, *self._waiting]).group_by("value").aggregate([("count", "sum")])
        self._merged = pa.table({"value": counts["value"], "count": counts["count_sum"]})
        self._waiting, self._waiting_rows = [], 0


def _require_at_least_1(kind: str, name: str, setting: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{kind} {name!r}: {setting} is {value!r}, not 1 or more")


def _keep_first(lists: pa.Array, max_length: int) -> tuple[np.ndarray, pa.Array]:
    """Keep the leading elements of each list: their number, int (n,), and the elements, list after list."""
    offsets = np.asarray(lists.offsets)
    first, length = offsets[:-1], np.minimum(np.diff(offsets), max_length)
    if lists.null_count:  # a null list may still span elements
        length[np.asarray(lists.is_null())] = 0
    if length.sum() == offsets[-1] - offsets[0]:
        return length, lists.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
    before = np.cumsum(length) - length
    position = np.repeat(first - before, length) + np.arange(length.sum())
    return length, lists.values.take(pa.array(position))
