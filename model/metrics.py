"""Metrics of one task's scores: ranking, log loss and calibration, in numpy and scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class TaskMetrics:
    """One task's metrics over its labelled rows.

    Metrics prefixed ``raw_`` are of the scores before calibration, and so is ``auc``: a calibration that is fitted
    fold by fold shifts the folds against each other, which is no ranking. ``auc`` is None if only one class occurs;
    every metric is None without rows. A regression only has ``rmse``, in the unit of the label, and ``r2``.
    """

    rows: int
    positives: int
    auc: float | None
    log_loss: float | None
    ece: float | None
    raw_log_loss: float | None
    raw_ece: float | None
    rmse: float | None = None
    r2: float | None = None

    @classmethod
    def measure(cls, labels: np.ndarray, *, raw: np.ndarray, calibrated: np.ndarray) -> TaskMetrics:
        """Measure a binary task, from 0/1 labels (n,) and probabilities (n,)."""
        return cls(
            rows=len(labels),
            positives=int(labels.sum()),
            auc=auc(labels, raw),
            log_loss=log_loss(labels, calibrated),
            ece=expected_calibration_error(labels, calibrated),
            raw_log_loss=log_loss(labels, raw),
            raw_ece=expected_calibration_error(labels, raw),
        )

    @classmethod
    def measure_values(cls, labels: np.ndarray, predicted: np.ndarray) -> TaskMetrics:
        """Measure a regression, from its labels (n,) and predictions (n,).

        >>> metrics = TaskMetrics.measure_values(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
        >>> round(metrics.rmse, 4), metrics.r2
        (0.7071, 0.5)
        """
        rmse = r2 = None
        if len(labels):
            squared, variance = float(np.square(labels - predicted).mean()), float(labels.var())
            rmse, r2 = squared**0.5, 1.0 - squared / variance if variance > 0 else None
        return cls(len(labels), 0, None, None, None, None, None, rmse, r2)


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: per bin, its rows, mean predicted probability and observed share of positives.

    **Shape**: each (bins,).
    """

    rows: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve of labels (n,) and probabilities (n,); None if only one class occurs.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    # Imported here because scoring does not need scikit-learn, which takes as long to import as torch.
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels)) < 2:
        return None
    return float(roc_auc_score(labels, probabilities))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Mean negative log likelihood in nats; None without rows.

    >>> round(log_loss(np.array([1, 0]), np.array([0.5, 0.25])), 4)
    0.4904
    """
    if len(labels) == 0:
        return None
    likelihood = np.where(labels == 1, probabilities, 1.0 - probabilities)
    return float(-np.log(np.clip(likelihood, 1e-15, 1.0)).mean())


def reliability(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS) -> Reliability:
    """Group rows by probability into bins of about equal size; fewer than ``bins`` if probabilities are tied.

    >>> table = reliability(np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.6, 0.8]), bins=2)
    >>> table.predicted.round(2).tolist(), table.observed.tolist()
    ([0.3, 0.7], [0.5, 1.0])
    """
    ordered = np.sort(probabilities)
    edges = np.unique(ordered[[len(ordered) * cut // bins for cut in range(1, bins)]]) if len(ordered) else ordered
    bin_of = np.searchsorted(edges, probabilities, side="right")
    rows = np.bincount(bin_of, minlength=len(edges) + 1)
    filled = rows > 0
    predicted = np.bincount(bin_of, probabilities, minlength=len(rows))[filled] / rows[filled]
    observed = np.bincount(bin_of, labels, minlength=len(rows))[filled] / rows[filled]
    return Reliability(rows[filled], predicted, observed)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = BINS) -> float | None:
    """Mean gap between predicted and observed rates over bins of equal mass; None without rows.

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015; bins of equal
    mass as in Nguyen and O'Connor, "Posterior calibration and exploratory analysis for NLP models", EMNLP
    2015.

    >>> round(expected_calibration_error(np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.6, 0.8]), bins=2), 4)
    0.25
    """
    if len(labels) == 0:
        return None
    table = reliability(labels, probabilities, bins=bins)
    return float((table.rows * np.abs(table.observed - table.predicted)).sum() / table.rows.sum())
