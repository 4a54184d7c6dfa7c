"""Declared features, and the fitted specification that turns a table into tensors.

The specification is saved with the model and is the only encoder: training and scoring cannot disagree on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

MISSING = 0
"""The id of a categorical value that is null."""
UNSEEN = 1
"""The id of a categorical value outside the vocabulary."""
SPECIAL_IDS = 2

STANDARD_LIMIT = 10.0
"""Standardised values are clipped to this many standard deviations, so that no outlier drives a score
alone."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Categorical:
    """A column of labels: anything Arrow casts to a string (strings, integers, booleans, dates, ...).

    The ``max_vocabulary`` most frequent values get a row of their own; others share the row of unseen values,
    nulls (and NaN) have the row of missing ones. ``context`` marks what is known of an exposure, not of a
    user.
    """

    name: str
    max_vocabulary: int = 10_000
    context: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.max_vocabulary < 1:
            raise ValueError(f"categorical {self.name!r}: max_vocabulary is {self.max_vocabulary}, not 1 or more")


@dataclass(frozen=True)
class Numeric:
    """A column of numbers, standardised; with ``log``, after ``sign(x) * log1p(|x|)``.

    Null, NaN and values that float32 cannot hold are missing: they read as the mean, with an indicator
    beside. ``context`` marks what is known of an exposure, not of a user.
    """

    name: str
    log: bool = False
    context: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)


Feature = Categorical | Numeric


@dataclass(frozen=True)
class Encoded:
    """The tensors of n rows: ``sparse`` int64 (n, S), one id per categorical; ``dense`` float32 (n, D)."""

    sparse: Tensor
    dense: Tensor

    def __len__(self) -> int:
        return len(self.sparse)

    def rows(self, index: Tensor | slice) -> Encoded:
        return Encoded(self.sparse[index], self.dense[index])

    def to(self, device: torch.device) -> Encoded:
        return Encoded(self.sparse.to(device), self.dense.to(device))


@dataclass(frozen=True)
class Vocabulary:
    """A fitted categorical: ``values`` by falling frequency, ids from ``SPECIAL_IDS`` on."""

    feature: Categorical
    values: tuple[str, ...]

    @classmethod
    def fit(cls, feature: Categorical, table: pa.Table) -> Vocabulary:
        counts = pc.value_counts(pc.drop_null(_strings(table, feature.name)))
        values, count = pc.struct_field(counts, 0), pc.struct_field(counts, 1)
        by_frequency = pa.table({"value": values, "count": count}).sort_by(
            [
                ("count", "descending"),
                ("value", "ascending"),
            ]  # the value breaks ties: one table, one vocabulary
        )
        return cls(feature, tuple(by_frequency["value"][: feature.max_vocabulary].to_pylist()))

    @property
    def size(self) -> int:
        return SPECIAL_IDS + len(self.values)

    @cached_property
    def _lookup(self) -> pa.Array:
        return pa.array(self.values, pa.string())

    def encode(self, table: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Ids, int64 (n,)."""
        strings = _strings(table, self.feature.name)
        position = pc.fill_null(pc.index_in(strings, value_set=self._lookup), UNSEEN - SPECIAL_IDS)
        ids = np.asarray(position).astype(np.int64) + SPECIAL_IDS
        return np.where(np.asarray(pc.is_null(strings)), MISSING, ids)


@dataclass(frozen=True)
class Standardiser:
    """A fitted numeric. ``indicator`` is false where training never saw the value missing.

    The network could not have learned what such an indicator means; a missing value then just reads as the
    mean.
    """

    feature: Numeric
    mean: float
    scale: float
    indicator: bool

    @classmethod
    def fit(cls, feature: Numeric, table: pa.Table) -> Standardiser:
        values = _numbers(table, feature)
        known = values[~np.isnan(values)]
        indicator = feature.context or len(known) < len(values)
        if len(known) == 0:
            return cls(feature, 0.0, 1.0, indicator)
        return cls(feature, float(known.mean()), float(known.std()) or 1.0, indicator)

    def encode(self, table: pa.Table | pa.RecordBatch) -> np.ndarray:
        """Standardised values, float64 (n,), NaN where missing."""
        standard = (_numbers(table, self.feature) - self.mean) / self.scale
        return np.clip(standard, -STANDARD_LIMIT, STANDARD_LIMIT)


@dataclass(frozen=True)
class FeatureSpec:
    """Fitted features, in the order of their columns in ``Encoded``.

    **Shape** of ``encode``: n rows -> ``sparse`` (n, S), one id per categorical, and ``dense`` (n, D): a
    value per numeric, then an indicator per numeric that can be missing.

    >>> table = pa.table({"city": ["a", "b", "a", None], "age": [20.0, 40.0, None, 30.0]})
    >>> spec = FeatureSpec.fit([Categorical("city"), Numeric("age")], table)
    >>> encoded = spec.encode(pa.table({"city": ["b", "zz", None], "age": [30, None, 1000]}))
    >>> encoded.sparse.flatten().tolist()  # 0 is missing, 1 is unseen
    [3, 1, 0]
    >>> encoded.dense.tolist()
    [[0.0, 0.0], [0.0, 1.0], [10.0, 0.0]]
    """

    categoricals: tuple[Vocabulary, ...]
    numerics: tuple[Standardiser, ...]
    _masks: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def fit(cls, features: Sequence[Feature], table: pa.Table) -> FeatureSpec:
        """Learn vocabularies, means and scales. Raises ValueError for no features, no rows, or a bad
        column."""
        names = [feature.name for feature in features]
        if not names:
            raise ValueError("features are empty: declare at least one Categorical or Numeric")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"feature {repeated[0]!r} is declared more than once")
        if table.num_rows == 0:
            raise ValueError("the table has no rows to fit features on")
        return cls(
            tuple(Vocabulary.fit(each, table) for each in features if isinstance(each, Categorical)),
            tuple(Standardiser.fit(each, table) for each in features if isinstance(each, Numeric)),
        )

    @property
    def vocabulary_sizes(self) -> tuple[int, ...]:
        """Rows of each categorical's embedding table, the missing and the unseen row among them."""
        return tuple(each.size for each in self.categoricals)

    @property
    def dense_width(self) -> int:
        return len(self.numerics) + sum(each.indicator for each in self.numerics)

    def encode(self, table: pa.Table | pa.RecordBatch) -> Encoded:
        """Encode rows; the table is not changed. Raises ValueError that names a missing or mistyped
        column."""
        rows = table.num_rows
        sparse = np.empty((rows, len(self.categoricals)), np.int64)
        for column, vocabulary in enumerate(self.categoricals):
            sparse[:, column] = vocabulary.encode(table)
        dense = np.empty((rows, self.dense_width), np.float32)
        indicator = len(self.numerics)
        for column, standardiser in enumerate(self.numerics):
            values = standardiser.encode(table)
            missing = np.isnan(values)
            dense[:, column] = np.where(missing, 0.0, values)
            if standardiser.indicator:
                dense[:, indicator] = missing
                indicator += 1
        return Encoded(torch.from_numpy(sparse), torch.from_numpy(dense))

    def hide_context(self, encoded: Encoded, rows: Tensor | None = None) -> Encoded:
        """A copy in which the context features of ``rows`` (bool (n,); default: every row) are missing.

        >>> table = pa.table({"offer": ["a", "b"], "age": [20, 40]})
        >>> spec = FeatureSpec.fit([Categorical("offer", context=True), Numeric("age")], table)
        >>> spec.hide_context(spec.encode(table), torch.tensor([True, False])).sparse.tolist()
        [[0], [3]]
        """
        sparse_context, dense_context, dense_hidden = self._context_masks(encoded.sparse.device)
        if rows is not None:
            sparse_context, dense_context = rows[:, None] & sparse_context, rows[:, None] & dense_context
        return Encoded(
            encoded.sparse.masked_fill(sparse_context, MISSING),
            torch.where(dense_context, dense_hidden, encoded.dense),
        )

    def _context_masks(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Which sparse (S,) and dense (D,) columns are context, and what the dense ones (D,) hold when
        hidden.

        Kept per device: training asks at every step.
        """
        if device not in self._masks:
            values = [each.feature.context for each in self.numerics]
            indicators = [each.feature.context for each in self.numerics if each.indicator]
            self._masks[device] = (
                torch.tensor([each.feature.context for each in self.categoricals], dtype=torch.bool, device=device),
                torch.tensor(values + indicators, dtype=torch.bool, device=device),
                torch.tensor([0.0] * len(values) + [1.0] * len(indicators), device=device),
            )
        return self._masks[device]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` is the inverse."""
        return {
            "categorical": [{**asdict(each.feature), "values": list(each.values)} for each in self.categoricals],
            "numeric": [
                {**asdict(each.feature), "mean": each.mean, "scale": each.scale, "indicator": each.indicator}
                for each in self.numerics
            ],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FeatureSpec:
        def feature(kind: type[Any], entry: Mapping[str, Any], fitted: set[str]) -> Any:
            return kind(**{key: value for key, value in entry.items() if key not in fitted})

        return cls(
            tuple(
                Vocabulary(feature(Categorical, entry, {"values"}), tuple(entry["values"]))
                for entry in stored["categorical"]
            ),
            tuple(
                Standardiser(
                    feature(Numeric, entry, {"mean", "scale", "indicator"}),
                    float(entry["mean"]),
                    float(entry["scale"]),
                    bool(entry["indicator"]),
                )
                for entry in stored["numeric"]
            ),
        )


def column_of(table: pa.Table | pa.RecordBatch, name: str) -> pa.ChunkedArray | pa.Array:
    """The column of that name. Raises ValueError that says which columns there are."""
    if table.schema.names.count(name) != 1:
        times = "not" if name not in table.schema.names else "more than once"
        raise ValueError(f"column {name!r} is {times} in the table; it has {', '.join(table.schema.names)}")
    return table.column(name)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a feature's name is {name!r}, not the name of a column")


def _strings(table: pa.Table | pa.RecordBatch, name: str) -> pa.ChunkedArray | pa.Array:
    """The column as strings, null where missing. Integers are cast as integers: no digit is lost."""
    column = column_of(table, name)
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return pc.cast(column, pa.string())
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} of type {column.type} cannot be read as strings: {error}") from error


def _numbers(table: pa.Table | pa.RecordBatch, feature: Numeric) -> np.ndarray:
    """The column as float64 (n,), NaN where missing, log1p taken if the feature says so."""
    column = column_of(table, feature.name)
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise ValueError(f"column {feature.name!r} is of type {kind}, not numeric")
    values = np.asarray(pc.cast(column, pa.float64(), safe=False), dtype=np.float64)
    values = np.where(np.abs(values) <= _FLOAT32_MAX, values, np.nan)
    return np.sign(values) * np.log1p(np.abs(values)) if feature.log else values
