"""Moments and quantiles of a stream of numbers, in bounded memory."""

from __future__ import annotations

import numpy as np

SAMPLE_ROWS = 2**18
"""Quantiles are taken from at most this many values, which puts the share below a quantile off by about 0.001."""
SAMPLE_SEED = 0


class Moments:
    """Count, mean and squared deviations of a stream of numbers.

    Batches are merged as in Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", The American
    Statistician 37(3), 1983: no sum of squares is ever subtracted from another. All values are measured from the first
    one, so that a constant column has a deviation of exactly 0.

    >>> moments = Moments()
    >>> for batch in ([1e9 + 1], [1e9 + 3, 1e9 + 5]):
    ...     moments.add(np.array(batch))
    >>> moments.mean - 1e9, round(moments.scale ** 2, 12)
    (3.0, 2.666666666667)
    """

    def __init__(self) -> None:
        self._rows = 0
        self._first = self._mean = self._squares = 0.0

    def add(self, values: np.ndarray) -> None:
        if len(values) == 0:
            return
        if self._rows == 0:
            self._first = float(values[0])
        values = values - self._first
        mean, rows = float(values.mean()), self._rows + len(values)
        values -= mean
        step = mean - self._mean
        self._squares += float(values @ values) + step * step * (self._rows * len(values) / rows)
        self._mean += step * (len(values) / rows)
        self._rows = rows

    @property
    def mean(self) -> float:
        """The mean; 0 without values."""
        return self._first + self._mean

    @property
    def scale(self) -> float:
        """The population standard deviation; 1 if that is 0."""
        return (self._squares / max(self._rows, 1)) ** 0.5 or 1.0


class UniformSample:
    """A uniform sample of at most ``SAMPLE_ROWS`` of the values added, independent of batch boundaries.

    Every value draws a number from a seeded generator, and the smallest numbers stay: Efraimidis and Spirakis,
    "Weighted random sampling with a reservoir", Information Processing Letters 97(5), 2006, with equal weights.
    """

    def __init__(self) -> None:
        self._draw = np.random.default_rng(SAMPLE_SEED)
        self._bound = 1.0
        self._numbers = [np.empty(0)]
        self._values = [np.empty(0)]
        self._held = 0

    def add(self, values: np.ndarray) -> None:
        numbers = self._draw.random(len(values))
        stays = np.flatnonzero(numbers < self._bound)
        if len(stays) == 0:
            return
        self._numbers.append(numbers[stays])
        self._values.append(values[stays])
        self._held += len(stays)
        if self._held > 2 * SAMPLE_ROWS:
            self._trim()

    def sorted(self) -> np.ndarray:
        self._trim()
        return np.sort(self._values[0])

    def _trim(self) -> None:
        numbers, values = np.concatenate(self._numbers), np.concatenate(self._values)
        if len(numbers) > SAMPLE_ROWS:
            stay = np.argpartition(numbers, SAMPLE_ROWS)[:SAMPLE_ROWS]
            numbers, values = numbers[stay], values[stay]
            self._bound = float(numbers.max())
        self._numbers, self._values, self._held = [numbers], [values], len(values)


def find_quantiles(ascending: np.ndarray, most: int) -> np.ndarray:
    """Find evenly spaced quantiles: at most ``most``, no more than values, and at least 2."""
    if 2 <= len(ascending) <= most:
        return ascending  # interpolation would give the same, but its rounding could separate equal values
    if len(ascending) < 2:
        return np.repeat(ascending if len(ascending) else 0.0, 2)
    return np.maximum.accumulate(np.quantile(ascending, np.linspace(0.0, 1.0, most)))
