"""The fitted specification of declared features, which turns a table into tensors.

It is saved with the model and is the only encoder, so training and scoring cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.inputs.categorical import Categorical, CategoricalList, ListVocabulary, Vocabulary, VocabularyFit
from model.inputs.columns import check_table, get_column
from model.inputs.encoded import Encoded, FeatureColumns
from model.inputs.lookup import MISSING, PADDING
from model.inputs.numeric import FittedNumeric, Numeric, NumericFit

Feature = Categorical | CategoricalList | Numeric

BLOCK_ROWS = 2**15
"""Rows per block when columns are transposed to rows, so that both fit the processor's cache."""


class _ContextMask(NamedTuple):
    """Masks of the context columns, bool (S,), (D,), (P,), and the values that hide dense and list columns."""

    sparse: Tensor
    dense: Tensor
    dense_hidden: Tensor
    lists: Tensor
    lists_hidden: Tensor


@dataclass(frozen=True)
class FeatureSpec:
    """Fitted features, in the order of their columns in ``Encoded``.

    **Shape**: a table of n rows -> ``Encoded``.

    >>> table = pa.table({"city": ["a", "b", "a", None], "age": [20.0, 40.0, None, 30.0],
    ...                   "viewed": [["hat"], [], None, ["hat", "shoe"]]})
    >>> spec = FeatureSpec.fit([Categorical("city"), Numeric("age"), CategoricalList("viewed", max_length=3)], table)
    >>> encoded = spec.encode(pa.table({"city": ["b", "zz", None], "age": [30, None, 1000],
    ...                                 "viewed": [["shoe", "hat"], [], None]}))
    >>> encoded.sparse.flatten().tolist()  # 0 is missing, 1 is unseen
    [3, 1, 0]
    >>> encoded.dense.tolist()
    [[0.0, 0.0], [0.0, 1.0], [10.0, 0.0]]
    >>> encoded.lists.tolist()  # -1 is padding
    [[3, 2, -1], [-1, -1, -1], [0, -1, -1]]
    """

    categoricals: tuple[Vocabulary, ...]
    lists: tuple[ListVocabulary, ...]
    numerics: tuple[FittedNumeric, ...]
    _masks: dict[torch.device, _ContextMask] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def fit(cls, features: Sequence[Feature], source: pa.Table | Iterable[pa.RecordBatch]) -> FeatureSpec:
        """Learn vocabularies and scales from the batches of ``source``, which is read once and not kept.

        Batch boundaries affect nothing but the last digits of means and scales. Vocabularies are counted exactly;
        quantiles of many rows are those of a sample.

        Raises:
            ValueError: No features, no rows, a bad column, or a column whose type changes between batches.
        """
        check_declared(features)
        fits: list[NumericFit | VocabularyFit] = [
            NumericFit(each) if isinstance(each, Numeric) else VocabularyFit(each) for each in features
        ]
        types: list[pa.DataType] = []
        rows = 0
        for batch in source.to_batches() if isinstance(source, pa.Table) else source:
            if not types:
                for each in fits:  # an empty batch finds bad columns before any work
                    each.add(batch.slice(0, 0))
                types = [get_column(batch, each.name).type for each in features]
            _check_types(features, types, batch)
            for each in fits:
                each.add(batch)
            rows += batch.num_rows
        if rows == 0:
            raise ValueError("the table has no rows to fit features on")
        fitted = tuple(each.finish() for each in fits)
        return cls(
            tuple(each for each in fitted if isinstance(each, Vocabulary)),
            tuple(each for each in fitted if isinstance(each, ListVocabulary)),
            tuple(each for each in fitted if isinstance(each, FittedNumeric)),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all features: categoricals, lists, numerics."""
        features: list[Feature] = [
            *(each.feature for each in self.categoricals),
            *(each.feature for each in self.lists),
            *(each.feature for each in self.numerics),
        ]
        return tuple(feature.name for feature in features)

    @property
    def vocabulary_sizes(self) -> tuple[int, ...]:
        """Rows of each categorical's embedding table, including those for missing and unseen values."""
        return tuple(each.size for each in self.categoricals)

    @property
    def list_sizes(self) -> tuple[int, ...]:
        """Rows of each list's embedding table, including those for missing and unseen values."""
        return tuple(each.size for each in self.lists)

    @property
    def list_lengths(self) -> tuple[int, ...]:
        """Columns of each list in ``Encoded.lists``: its ``max_length``."""
        return tuple(each.feature.max_length for each in self.lists)

    @property
    def list_poolings(self) -> tuple[str, ...]:
        return tuple(each.feature.pooling for each in self.lists)

    @property
    def numeric_width(self) -> int:
        """V: the number of values, the first columns of ``Encoded.dense``."""
        return len(self.numerics)

    @property
    def dense_width(self) -> int:
        """D: the number of values and indicators."""
        return len(self.numerics) + sum(each.indicator for each in self.numerics)

    @property
    def edges(self) -> tuple[tuple[float, ...], ...]:
        """Per numeric, 2 to 65 distinct, increasing quantiles of its encoded training values."""
        return tuple(each.edges for each in self.numerics)

    def locate(self, name: str) -> FeatureColumns:
        """Locate a feature's columns in ``Encoded``.

        Raises:
            ValueError: No such feature; the message lists all features.

        >>> spec = FeatureSpec.fit([Numeric("age"), Numeric("hour", context=True)], pa.table({"age": [1], "hour": [2]}))
        >>> spec.locate("hour")
        FeatureColumns(sparse=(), dense=(1, 2), lists=())
        """
        list_column, indicator = 0, len(self.numerics)
        for column, vocabulary in enumerate(self.categoricals):
            if vocabulary.feature.name == name:
                return FeatureColumns(sparse=(column,))
        for each in self.lists:
            if each.feature.name == name:
                return FeatureColumns(lists=tuple(range(list_column, list_column + each.feature.max_length)))
            list_column += each.feature.max_length
        for column, numeric in enumerate(self.numerics):
            if numeric.feature.name == name:
                return FeatureColumns(dense=(column, indicator) if numeric.indicator else (column,))
            indicator += numeric.indicator
        raise ValueError(f"{name!r} is not a feature; the features are {', '.join(self.names)}")

    def encode(self, table: pa.Table | pa.RecordBatch) -> Encoded:
        """Encode rows; the table is left unchanged.

        Raises:
            ValueError: Not a table, or a column is missing or has the wrong type; the message names it.
        """
        check_table(table)
        rows = table.num_rows
        sparse = np.empty((rows, len(self.categoricals)), np.int32)
        lists = np.empty((rows, sum(self.list_lengths)), np.int32)
        dense = np.empty((rows, self.dense_width), np.float32)
        ids = [vocabulary.encode(table) for vocabulary in self.categoricals]
        start = 0
        for each in self.lists:
            each.encode_into(lists[:, start : start + each.feature.max_length], table)
            start += each.feature.max_length
        for start in range(0, max(rows, 1), BLOCK_ROWS):  # at least one block, to check columns even without rows
            block = slice(start, start + BLOCK_ROWS)
            for column, values in enumerate(ids):
                sparse[block, column] = values[block]
            self._encode_numbers(dense[block], table.slice(start, BLOCK_ROWS))
        return Encoded(torch.from_numpy(sparse), torch.from_numpy(dense), torch.from_numpy(lists))

    def _encode_numbers(self, dense: np.ndarray, table: pa.Table | pa.RecordBatch) -> None:
        indicator = len(self.numerics)
        for column, numeric in enumerate(self.numerics):
            numeric.encode_into(dense[:, column], dense[:, indicator] if numeric.indicator else None, table)
            indicator += numeric.indicator

    def hide_context(self, encoded: Encoded, rows: Tensor | None = None) -> Encoded:
        """Copy the rows, with context features set to missing for ``rows``, bool (n,); by default for all.

        >>> table = pa.table({"offer": ["a", "b"], "age": [20, 40]})
        >>> spec = FeatureSpec.fit([Categorical("offer", context=True), Numeric("age")], table)
        >>> spec.hide_context(spec.encode(table), torch.tensor([True, False])).sparse.tolist()
        [[0], [3]]
        """
        context = self._context_mask(encoded.sparse.device)
        sparse, dense, lists = context.sparse, context.dense, context.lists
        if rows is not None:
            sparse, dense, lists = (rows[:, None] & each for each in (sparse, dense, lists))
        return Encoded(
            encoded.sparse.masked_fill(sparse, MISSING),
            torch.where(dense, context.dense_hidden, encoded.dense),
            torch.where(lists, context.lists_hidden, encoded.lists),
        )

    def _context_mask(self, device: torch.device) -> _ContextMask:
        """Cached per device, since training needs it at every step."""
        if device not in self._masks:
            categoricals = [each.feature.context for each in self.categoricals]
            values = [each.feature.context for each in self.numerics]
            indicators = [each.feature.context for each in self.numerics if each.indicator]
            lists = [each.feature.context for each in self.lists for _ in range(each.feature.max_length)]
            hidden = [MISSING if column == 0 else PADDING for length in self.list_lengths for column in range(length)]
            self._masks[device] = _ContextMask(
                sparse=torch.tensor(categoricals, dtype=torch.bool, device=device),
                dense=torch.tensor(values + indicators, dtype=torch.bool, device=device),
                dense_hidden=torch.tensor([0.0] * len(values) + [1.0] * len(indicators), device=device),
                lists=torch.tensor(lists, dtype=torch.bool, device=device),
                lists_hidden=torch.tensor(hidden, dtype=torch.int32, device=device),
            )
        return self._masks[device]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` is the inverse."""
        return {
            "categorical": [each.to_dict() for each in self.categoricals],
            "list": [each.to_dict() for each in self.lists],
            "numeric": [each.to_dict() for each in self.numerics],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FeatureSpec:
        return cls(
            tuple(map(Vocabulary.from_dict, stored["categorical"])),
            tuple(map(ListVocabulary.from_dict, stored["list"])),
            tuple(map(FittedNumeric.from_dict, stored["numeric"])),
        )


def check_declared(features: Sequence[Feature]) -> None:
    """Raise ValueError for no features, a feature declared twice, or an object that is no feature."""
    for feature in features:
        if not isinstance(feature, Feature):
            raise ValueError(f"features hold {feature!r}, not a Categorical, CategoricalList or Numeric")
    names = [feature.name for feature in features]
    if not names:
        raise ValueError("features are empty: declare at least one Categorical, CategoricalList or Numeric")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"feature {repeated[0]!r} is declared more than once")


def _check_types(features: Sequence[Feature], types: Sequence[pa.DataType], batch: pa.RecordBatch) -> None:
    """All batches need the same types: "1" in one batch must not read as "1.0" in the next."""
    for feature, kind in zip(features, types, strict=True):
        found = get_column(batch, feature.name).type
        if found != kind:
            raise ValueError(f"column {feature.name!r} is of type {found} in a batch, and {kind} in those before it")
