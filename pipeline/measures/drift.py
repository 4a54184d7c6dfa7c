"""Drift between two samples of users: binned distributions, the population stability index, and chance levels."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DECILES = np.arange(1, 10) / 10
MAX_VALUES = 1000
"""The values of a category that are kept, most frequent first; with more values, none counts as unseen."""
INDEX_VALUES = 50
"""The values with a bin of their own in the index; the others share one."""
SIGNIFICANCE = 0.001
"""The chance level of an index: small, since a night has dozens of them."""
ERRORS = 3
"""Standard errors within chance; a normal variable exceeds them once in 370 cases."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """A sample's rows by bin.

    bounds  for a number, the bins' inclusive upper bounds, ascending; for a category, its values, most frequent first
    rows    int64 (len(bounds) + 2,): missing values, each bin, values outside all bins
    """

    bounds: tuple[float, ...] | tuple[str, ...]
    rows: np.ndarray

    @property
    def total(self) -> int:
        return int(self.rows.sum())

    @property
    def missing_share(self) -> float:
        return float(self.rows[0] / self.total)

    @property
    def is_category(self) -> bool:
        return bool(self.bounds) and isinstance(self.bounds[0], str)


@dataclass(frozen=True)
class Drift:
    """A column's drift from its baseline; each `_chance` is how much chance alone may contribute.

    `unseen_share` is None for numbers, and for categories with more than `MAX_VALUES` values.
    """

    psi: float
    psi_chance: float
    missing_share: float
    missing_change: float
    missing_chance: float
    unseen_share: float | None
    unseen_chance: float


def distribution(column: pa.ChunkedArray) -> Distribution:
    """A column's distribution: numbers by decile, equal deciles merged; categories by value.

    >>> distribution(pa.chunked_array([["b", "a", None, "b"]]))
    Distribution(bounds=('b', 'a'), rows=array([1, 2, 1, 0]))
    """
    if _is_text(column):
        counted = sorted(_value_counts(column).items(), key=lambda pair: (-pair[1], pair[0]))
        values = tuple(value for value, _ in counted[:MAX_VALUES])
        return Distribution(values, binned(values, column))
    numbers = _numbers(column)
    numbers = numbers[~np.isnan(numbers)]
    edges = np.unique(np.quantile(numbers, DECILES).astype(np.float32)) if len(numbers) else np.array([])
    bounds = tuple(edges.astype(float).tolist())
    return Distribution(bounds, binned(bounds, column))


def binned(bounds: tuple[float, ...] | tuple[str, ...], column: pa.ChunkedArray) -> np.ndarray:
    """A column's rows by the bins of a distribution, as in `Distribution.rows`."""
    if _is_text(column):
        counts = _value_counts(column)
        known = [counts.pop(value, 0) for value in bounds if isinstance(value, str)]
        return np.array([column.null_count, *known, sum(counts.values())])
    numbers = _numbers(column)
    missing = np.isnan(numbers)
    edges = np.array(bounds, dtype=np.float32)
    filled = np.bincount(np.searchsorted(edges, numbers[~missing]), minlength=len(bounds) + 1)
    return np.array([missing.sum(), *filled])


def drift(baseline: Distribution, column: pa.ChunkedArray) -> Drift:
    """Compare a column with its baseline. Missing values are a bin of the index; bins empty in both are left out.

    The chance of a share is three standard errors of a difference of two shares. That of unseen values adds what the
    baseline's sample had not seen: by Good and Turing, the share of values it had exactly once (Good, "The population
    frequencies of species and the estimation of population parameters", Biometrika 40, 1953).
    """
    rows = binned(baseline.bounds, column)
    n, m = baseline.total, len(column)
    earlier, later = _for_index(baseline, baseline.rows), _for_index(baseline, rows)
    used = (earlier + later) > 0
    missing_share = float(rows[0] / m)
    pooled = float((baseline.rows[0] + rows[0]) / (n + m))
    unseen_share, once = None, 0.0
    if baseline.is_category and not baseline.rows[-1]:
        unseen_share, once = float(rows[-1] / m), float((baseline.rows[1:-1] == 1).sum() / n)
    return Drift(
        psi=index(earlier[used], later[used]),
        psi_chance=index_by_chance(int(used.sum()), n, m),
        missing_share=missing_share,
        missing_change=missing_share - baseline.missing_share,
        missing_chance=ERRORS * float(np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))),
        unseen_share=unseen_share,
        unseen_chance=once + ERRORS * float(np.sqrt((once + 1 / m) / m)),
    )


def psi(earlier: np.ndarray, later: np.ndarray) -> float:
    """Population stability index of two samples of numbers, binned by the earlier sample's deciles; 0 if equal.

    >>> scores = np.linspace(0.01, 0.3, 1000)
    >>> psi(scores, scores)
    0.0
    >>> psi(scores, scores + 0.1) > 0.25
    True
    """
    edges = np.unique(np.quantile(earlier, DECILES))
    bins = len(edges) + 1
    counts = (np.bincount(np.searchsorted(edges, sample), minlength=bins) for sample in (earlier, later))
    return index(*counts)


def index(earlier: np.ndarray, later: np.ndarray) -> float:
    """Population stability index of rows by bin: the sum over bins of (q - p) ln(q / p), with p earlier and q later.

    Half a row is added to each bin, so that an empty bin counts as rare rather than impossible. The index and its
    usual bounds, 0.1 and 0.25, are Siddiqi's (Credit Risk Scorecards, Wiley 2006).

    >>> round(index(np.array([50, 50]), np.array([80, 20])), 4)
    0.4063
    """
    p, q = ((rows + 0.5) / (rows.sum() + 0.5 * len(rows)) for rows in (earlier, later))
    return float(np.sum((q - p) * np.log(q / p)))


def index_by_chance(bins: int, n: int, m: int) -> float:
    """The index that two samples of n and m rows of one population exceed once in a thousand cases.

    The index times nm / (n + m) has the chi-square distribution with bins - 1 degrees of freedom: Yurdakul and
    Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation 14(4), 2020.

    >>> round(index_by_chance(10, 300, 300), 3)
    0.186
    """
    from scipy.special import chdtri

    return float(chdtri(bins - 1, SIGNIFICANCE)) * (1 / n + 1 / m) if bins > 1 else 0.0


def _for_index(baseline: Distribution, rows: np.ndarray) -> np.ndarray:
    if not baseline.is_category:
        return rows
    own = 1 + INDEX_VALUES
    return np.append(rows[:own], rows[own:].sum())


def _is_text(column: pa.ChunkedArray) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = pc.value_counts(column.drop_null())
    return {pair["values"]: pair["counts"] for pair in pairs.to_pylist()}


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """The values in single precision, missing ones as NaN.

    Scores of identical users may differ in their last bits by their place in a batch; in double precision they could
    fall on either side of a bound equal to one of them.
    """
    return column.cast(pa.float64()).to_numpy().astype(np.float32)
