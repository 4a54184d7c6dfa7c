"""Calibration of one task's scores on held-out rows.

Every calibrator is a strictly increasing, piecewise linear map from logit to logit: a few plain numbers, evaluated with
numpy. It cannot reorder the rows of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MIN_ROWS_PER_CLASS = 10
"""With fewer held-out rows of either class, raw scores are more trustworthy than any correction."""
MIN_POSITIVES_FOR_ISOTONIC = 200
"""With fewer held-out positives, a free curve would fit noise, so Platt scaling is used."""
FOLDS = 5
PLATT_SHARE = 0.01
"""Share of Platt's line in an isotonic curve, which bounds its slope from below."""
SLOPE_RANGE = (0.05, 20.0)
"""A Platt slope outside this range means that scores rank at random or perfectly; neither is credible."""


@dataclass(frozen=True)
class Calibrator:
    """A map from raw to calibrated logits: linear between the knots (``x``, ``y``), with ``slope`` > 0 beyond them.

    Both ``x`` and ``y`` are strictly increasing.

    **Shape**: (n,) -> (n,).

    >>> Calibrator("platt", (0.0,), (-1.0,), 2.0)(np.array([0.0, 1.0])).tolist()
    [-1.0, 1.0]
    """

    method: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    slope: float

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Calibrate raw logits."""
        beyond = logits - np.clip(logits, self.x[0], self.x[-1])
        return np.interp(logits, self.x, self.y) + self.slope * beyond

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` is the inverse."""
        return {"method": self.method, "x": list(self.x), "y": list(self.y), "slope": self.slope}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Calibrator:
        return cls(stored["method"], tuple(stored["x"]), tuple(stored["y"]), stored["slope"])


IDENTITY = Calibrator("identity", (0.0,), (0.0,), 1.0)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Turn float64 logits into probabilities, without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def calibrate(logits: np.ndarray, labels: np.ndarray, *, seed: int) -> tuple[Calibrator, np.ndarray]:
    """Choose and fit a calibrator for held-out logits (n,) and 0/1 labels (n,).

    Isotonic regression replaces Platt scaling only if its log loss on rows it was not fitted on is lower by more than
    one standard error.

    Returns:
        The calibrator, and cross-fitted calibrated logits (n,), each from a calibrator fitted without its fold, so that
        metrics computed from them do not flatter the calibrator.
    """
    logits = logits.astype(np.float64)
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < MIN_ROWS_PER_CLASS:
        return IDENTITY, logits
    fold = _assign_folds(labels, seed)
    platt = _cross_fit(fit_platt, logits, labels, fold)
    if positives >= MIN_POSITIVES_FOR_ISOTONIC:
        isotonic = _cross_fit(fit_isotonic, logits, labels, fold)
        gain = _log_losses(platt, labels) - _log_losses(isotonic, labels)
        if gain.mean() > gain.std() / len(gain) ** 0.5:
            return fit_isotonic(logits, labels), isotonic
    return fit_platt(logits, labels), platt


def fit_platt(logits: np.ndarray, labels: np.ndarray) -> Calibrator:
    """Fit a logistic regression on the logit: Platt, "Probabilistic Outputs for Support Vector Machines", 1999.

    A normal prior with deviation 1 around slope 1 and shift 0 keeps a handful of positives from overturning the scores.
    """
    slope, shift = _newton(logits, labels, free=np.array([True, True]), start=np.array([1.0, 0.0]))
    if not SLOPE_RANGE[0] <= slope <= SLOPE_RANGE[1]:
        bound = float(np.clip(slope, *SLOPE_RANGE))
        slope, shift = _newton(logits, labels, free=np.array([False, True]), start=np.array([bound, 0.0]))
    return Calibrator("platt", (0.0,), (float(shift),), float(slope))


def fit_isotonic(logits: np.ndarray, labels: np.ndarray) -> Calibrator:
    """Fit a centered isotonic regression: the rates of the pooled blocks, joined by lines between their centres.

    Oron and Flournoy, "Centered Isotonic Regression", Statistics in Biopharmaceutical Research 9(3), 2017. A step
    function would tie all rows of a block; lines keep their order, and a share of Platt's line, mixed in, keeps the
    flattest of them from vanishing in rounding. Beyond the outermost centres, the slope is Platt's.
    """
    platt = fit_platt(logits, labels)
    score, inverse, count = np.unique(logits, return_inverse=True, return_counts=True)
    rate = np.bincount(inverse, labels) / count
    # Imported here because a fitted calibrator does not need scikit-learn.
    from sklearn.isotonic import isotonic_regression

    pooled = isotonic_regression(rate, sample_weight=count, y_min=0.0, y_max=1.0)
    level, block = np.unique(pooled, return_inverse=True)
    rows = np.bincount(block, count)
    centre = np.bincount(block, count * score) / rows
    if len(level) == 1:
        return platt
    # A block without positives (only the first) or without negatives (only the last) has no finite logit. It gets half
    # a row of the other class, but less if that would take it to its neighbour's level.
    level[0] = level[0] or min(0.5 / (rows[0] + 1.0), level[1] / 2.0)
    level[-1] = 1.0 - ((1.0 - level[-1]) or min(0.5 / (rows[-1] + 1.0), (1.0 - level[-2]) / 2.0))
    curve = (1.0 - PLATT_SHARE) * (np.log(level) - np.log1p(-level)) + PLATT_SHARE * platt(centre)
    return Calibrator("isotonic", tuple(centre.tolist()), tuple(curve.tolist()), platt.slope)


def _newton(logits: np.ndarray, labels: np.ndarray, *, free: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Find slope and shift of the most probable line by damped Newton steps on those that are free."""
    design = np.stack([logits, np.ones_like(logits)], axis=1)

    def loss(line: np.ndarray) -> float:
        prior = ((line - np.array([1.0, 0.0])) ** 2).sum() / 2.0
        return float(_log_losses(design @ line, labels).sum() + prior)

    line, best = start, loss(start)
    for _ in range(100):
        p = sigmoid(design @ line)
        gradient = design.T @ (p - labels) + line - np.array([1.0, 0.0])
        hessian = (design * (p * (1.0 - p))[:, None]).T @ design + np.eye(2)
        step = np.zeros(2)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        size = 1.0
        while (tried := loss(line - size * step)) > best and size > 1e-8:
            size /= 2.0
        if best - tried < 1e-10:
            break
        line, best = line - size * step, tried
    return line


def _log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log loss of each row, (n,), from its logit."""
    return np.logaddexp(0.0, np.where(labels == 1, -logits, logits))


def _assign_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """Assign rows to folds, (n,), with positives spread as evenly as possible."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[by_class] = np.arange(len(labels)) % FOLDS
    return fold


def _cross_fit(
    fit: Callable[[np.ndarray, np.ndarray], Calibrator],
    logits: np.ndarray,
    labels: np.ndarray,
    fold: np.ndarray,
) -> np.ndarray:
    """Calibrate each logit, (n,), with a calibrator fitted on the other folds."""
    calibrated = np.empty_like(logits)
    for left_out in range(FOLDS):
        inside = fold == left_out
        calibrated[inside] = fit(logits[~inside], labels[~inside])(logits[inside])
    return calibrated
