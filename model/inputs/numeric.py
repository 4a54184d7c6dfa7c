"""Numeric features and the scales fitted to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model.inputs.columns import check_name, get_column, read_numbers
from model.inputs.statistics import Moments, UniformSample, find_quantiles
from model.inputs.types import name_type

STANDARD_LIMIT = 10.0
"""Standardised values are clipped to this many standard deviations, so that no outlier alone drives a score."""
RANK_LIMIT = 1e-7
"""Ranks are clipped to this distance from 0 and 1, which limits normal scores to 5.2."""
REFERENCE_QUANTILES = 257
MAX_EDGES = 65
EDGE_DECIMALS = 5
"""Edges are rounded to this many decimals, so that bins have a minimum width and can be divided by it."""

TRANSFORMS = ("standard", "log", "quantile")


@dataclass(frozen=True)
class Numeric:
    """A column of numbers, scaled by ``transform``:

    - "standard": to mean 0 and standard deviation 1;
    - "log": the same after ``sign(x) * log1p(|x|)``, for counts and amounts;
    - "quantile": to a standard normal by rank, for values that are skewed, heavy-tailed or clumped.

    Null, NaN and values beyond float32 are missing: they read as 0 (the mean, or the median), next to an indicator.
    ``context`` marks a value that belongs to an exposure, not to a user.
    """

    name: str
    transform: str = "standard"
    context: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.transform not in TRANSFORMS:
            raise ValueError(
                f"numeric {self.name!r}: transform is {self.transform!r}, not one of {', '.join(TRANSFORMS)}"
            )


@dataclass(frozen=True)
class Standardiser:
    """Scales to mean 0 and standard deviation 1, clipped at ``STANDARD_LIMIT``.

    **Shape**: (n,) -> float64 (n,).

    >>> Standardiser(mean=2.0, scale=4.0)(np.array([2.0, 0.0, 1e9])).tolist()
    [0.0, -0.5, 10.0]
    """

    mean: float
    scale: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Scale values; NaN stays NaN."""
        scaled = values - self.mean
        scaled /= self.scale
        return np.clip(scaled, -STANDARD_LIMIT, STANDARD_LIMIT, out=scaled)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class NormalScores:
    """Maps values to a standard normal: the share of training values below, through the inverse normal distribution.

    ``quantiles`` belong to evenly spaced shares from 0 to 1. The share is interpolated from below and from above and
    averaged, as in scikit-learn's ``QuantileTransformer``, so that a frequent value sits in the middle of its share.
    Here that also holds for the minimum and the maximum: a count that is mostly 0 reads as a moderate number, not as
    the far end of the scale.

    **Shape**: (n,) -> float64 (n,).

    >>> NormalScores((0.0, 0.0, 0.0, 1.0, 2.0))(np.array([-1.0, 0.0, 0.5, 1.0, 3.0])).round(2).tolist()
    [-5.2, -0.67, 0.32, 0.67, 5.2]
    """

    quantiles: tuple[float, ...]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Map values; NaN stays NaN."""
        ascending, shares = self._curve
        below = np.interp(values, ascending, shares)
        above = np.interp(-values, -ascending[::-1], shares)
        share = np.clip((below + (1.0 - above)) / 2.0, RANK_LIMIT, 1.0 - RANK_LIMIT)
        return torch.special.ndtri(torch.from_numpy(share)).numpy()

    def to_dict(self) -> dict[str, Any]:
        return {"quantiles": list(self.quantiles)}

    @cached_property
    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.quantiles), np.linspace(0.0, 1.0, len(self.quantiles))


@dataclass(frozen=True)
class FittedNumeric:
    """A fitted numeric.

    ``indicator`` is False if no value was missing in training: the network could not have learned what the indicator
    means, so a missing value then simply reads as 0. ``edges`` are 2 to ``MAX_EDGES`` distinct, increasing quantiles of
    the encoded values. ``type`` is the column's at training, from ``name_type``; None in bundles that did not keep it.
    """

    feature: Numeric
    scaler: Standardiser | NormalScores
    indicator: bool
    edges: tuple[float, ...]
    type: str | None = None

    def encode_into(self, values: np.ndarray, missing: np.ndarray | None, table: pa.Table | pa.RecordBatch) -> None:
        """Write the column, scaled in float64, 0 where missing, to ``values``, and its indicator to ``missing``.

        **Shape**: both float32 (n,).
        """
        read, is_missing = _read_values(table, self.feature, self.type)
        scaled = self.scaler(read)
        if is_missing is not None:
            scaled[is_missing] = 0.0
        values[...] = scaled
        if missing is not None:
            missing[...] = 0.0 if is_missing is None else is_missing

    def to_dict(self) -> dict[str, Any]:
        return {
            "feature": asdict(self.feature),
            "scaler": self.scaler.to_dict(),
            "indicator": self.indicator,
            "edges": list(self.edges),
            "type": self.type,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> FittedNumeric:
        feature, scaler = Numeric(**stored["feature"]), stored["scaler"]
        return cls(
            feature,
            NormalScores(tuple(scaler["quantiles"])) if feature.transform == "quantile" else Standardiser(**scaler),
            stored["indicator"],
            tuple(stored["edges"]),
            stored.get("type"),
        )


class NumericFit:
    """Collects what a feature's scale depends on, batch by batch, in bounded memory."""

    def __init__(self, feature: Numeric) -> None:
        self.feature = feature
        self._type: str | None = None
        self._missing = False
        self._moments = Moments()
        self._sample = UniformSample()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch.

        Raises:
            ValueError: The column is missing or has the wrong type; the message names it.
        """
        values, is_missing = _read_values(batch, self.feature)
        self._type = name_type(get_column(batch, self.feature.name).type)
        known = values if is_missing is None else values[~is_missing]
        self._missing |= len(known) < len(values)
        self._moments.add(known)
        self._sample.add(known)

    def finish(self) -> FittedNumeric:
        sample = self._sample.sorted()
        scaler: Standardiser | NormalScores
        if self.feature.transform == "quantile":
            scaler = NormalScores(tuple(find_quantiles(sample, REFERENCE_QUANTILES).tolist()))
        else:
            scaler = Standardiser(self._moments.mean, self._moments.scale)
        return FittedNumeric(
            self.feature,
            scaler,
            indicator=self.feature.context or self._missing,
            edges=_find_edges(scaler(sample)),
            type=self._type,
        )


def _read_values(
    table: pa.Table | pa.RecordBatch, feature: Numeric, trained: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a column as ``read_numbers`` does, applying the feature's log transform.

    A number is the same in each numeric type, so the type at training, ``trained``, only explains an error.
    """
    values, is_missing = read_numbers(get_column(table, feature.name), feature.name, trained)
    if feature.transform == "log":
        values = np.copysign(np.log1p(np.abs(values)), values)
    return values, is_missing


def _find_edges(encoded: np.ndarray) -> tuple[float, ...]:
    edges = np.unique(np.round(find_quantiles(encoded, MAX_EDGES), EDGE_DECIMALS)) + 0.0  # not -0
    if len(edges) == 1:
        edges = edges + np.array([-1.0, 1.0])
    return tuple(edges.tolist())
