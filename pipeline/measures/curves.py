"""Scores compared with their outcomes: cumulative gains, and expected and observed rates by group."""

from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"""Two-sided 95% quantile of the standard normal distribution."""


@dataclass(frozen=True, eq=False)
class Rates:
    """By group of messages: their number, mean score, observed rate, and its 95% Wilson interval; NaN if empty."""

    rows: np.ndarray
    expected: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray


def gains(scores: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative gains: the share of messages, best scores first, and the share of all outcomes among them.

    Both run from 0 to 1; messages of equal score count together. Requires at least one outcome.

    >>> gains(np.array([0.4, 0.1, 0.3, 0.1]), np.array([1, 0, 0, 1]))
    (array([0.  , 0.25, 0.5 , 1.  ]), array([0. , 0.5, 0.5, 1. ]))
    """
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = np.cumsum(outcomes[order])[last_of_score]
    return np.append(0.0, (last_of_score + 1) / len(scores)), np.append(0.0, found / outcomes.sum())


def rates(groups: np.ndarray, count: int, scores: np.ndarray, outcomes: np.ndarray) -> Rates:
    """Rates by group, an integer below `count` per message.

    Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    rows = np.bincount(groups, minlength=count).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.bincount(groups, scores, minlength=count) / rows
        observed = np.bincount(groups, outcomes, minlength=count) / rows
        middle = (observed + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
        reach = Z * np.sqrt(observed * (1 - observed) / rows + Z**2 / (4 * rows**2)) / (1 + Z**2 / rows)
    return Rates(rows, expected, observed, np.maximum(middle - reach, 0.0), np.minimum(middle + reach, 1.0))


def equal_groups(scores: np.ndarray, count: int) -> np.ndarray:
    """Groups of equal size by score, 0 the lowest; equal scores share a group.

    >>> equal_groups(np.array([0.1, 0.4, 0.2, 0.3]), 2)
    array([0, 1, 0, 1])
    """
    ordered = np.sort(scores)
    middle = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / 2
    return np.minimum((count * middle / len(scores)).astype(int), count - 1)
