"""Metrics of the funnel benchmark, computed from the probabilities that its final fits left behind.

Two kinds of 95% interval. *Over seeds*: Student's t over the seeds of a fit, which shows how much a metric varies when
training is repeated, on the same test rows. *Over users and seeds*: a bootstrap that draws test users, with all their
rows, and seeds, which shows how much a difference would vary on other users too; the choice of a model depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.funnel import MMOE, predictions_path
from tests.benchmarks.funnel_data import Funnel
from tests.benchmarks.tuning import Job

TRUTH = "true probabilities"

Bounds = tuple[float, float]


class Spread:
    """The bootstrap over users, with the same users for every metric: replicate r counts a user ``times[r]`` times."""

    def __init__(self, users: np.ndarray, *, replicates: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        _, self.user = np.unique(users, return_inverse=True)
        self.users = int(self.user.max()) + 1
        drawn = (np.bincount(rng.integers(0, self.users, self.users), minlength=self.users) for _ in range(replicates))
        self.times = np.stack([each.astype(float) for each in drawn])
        self.seed = seed

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means of ``values`` (S, n) in every replicate, (R, S)."""
        return (self.times @ self._by_user(values)) / (self.times @ np.bincount(self.user))[:, None]

    def auc(self, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
        """AUCs of ``scores`` (S, n) in every replicate, (R, S), to first order in the rows' influence."""
        whole, influence = zip(*(auc_and_influence(each, positive) for each in scores), strict=True)
        return np.array(whole) + (self.times - 1.0) @ self._by_user(np.stack(influence))

    def _by_user(self, values: np.ndarray) -> np.ndarray:
        """Sums of ``values`` (S, n) over each user's rows, (users, S)."""
        return np.stack([np.bincount(self.user, each, minlength=self.users) for each in values], axis=1)

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> Bounds:
        """The interval of the mean over seeds of ``theirs`` (R, S) less that of ``ours``, with seeds drawn too."""
        rng = np.random.default_rng(self.seed + 1)

        def drawn(values: np.ndarray) -> np.ndarray:
            picks = rng.integers(0, values.shape[1], values.shape)
            return np.take_along_axis(values, picks, axis=1).mean(axis=1)

        low, high = np.percentile(drawn(theirs) - drawn(ours), [2.5, 97.5])
        return float(low), float(high)


def auc_and_influence(scores: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUC, and the derivative of the AUC with respect to each row's weight, (n,).

    ``positive`` (n,) are labels, or probabilities: a row then counts as positive by that share and as negative by the
    rest, and the AUC is the one to expect from labels drawn with them. A positive pulls by the share of negatives that
    it outranks, a negative by the share of positives that outrank it, both relative to the AUC: the placements of
    DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or More Correlated ROC Curves", Biometrics 44(3),
    1988; their sums by user as in Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data", Biometrics 53(2),
    1997.

    >>> auc, influence = auc_and_influence(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    >>> auc, influence.tolist()
    (0.75, [0.125, -0.125, -0.125, 0.125])
    """
    rank = np.unique(scores, return_inverse=True)[1]
    negative = 1.0 - positive
    positives, negatives = np.bincount(rank, positive), np.bincount(rank, negative)
    below = (np.cumsum(negatives) - negatives / 2)[rank] / negatives.sum()
    above = 1.0 - (np.cumsum(positives) - positives / 2)[rank] / positives.sum()
    whole = float(positive @ below / positive.sum())
    influence = positive * (below - whole) / positives.sum() + negative * (above - whole) / negatives.sum()
    return whole, influence


@dataclass(frozen=True)
class Judged:
    """A funnel's test rows: labels (n, T), the truth (n, T) if known, and each model's probabilities (S, n, T)."""

    funnel: Funnel
    users: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None
    scores: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, funnel: Funnel, jobs: Sequence[Job], folder: Path) -> Judged:
        table = funnel.part("test")

        def columns(kind: str) -> np.ndarray:
            return np.column_stack([table[f"{kind}_{stage}"].to_numpy() for stage in funnel.stages]).astype(float)

        scores: dict[str, dict[int, np.ndarray]] = {}
        for job in jobs:
            empty = np.full((table.num_rows, len(funnel.stages)), np.nan)
            into = scores.setdefault(job["model"], {}).setdefault(job["seed"], empty)
            into[:, [funnel.stages.index(stage) for stage in job["stages"]]] = np.load(predictions_path(folder, job))
        known = f"truth_{funnel.stages[0]}" in table.column_names
        return cls(
            funnel,
            np.asarray(table["user_id"]),
            columns("label"),
            columns("truth") if known else None,
            {model: np.stack([each[seed] for seed in sorted(each)]) for model, each in scores.items()},
        )

    @property
    def last(self) -> int:
        """Position of the rarest stage."""
        return len(self.funnel.stages) - 1

    def rows(self) -> dict[str, np.ndarray]:
        """The models' probabilities, followed by the truth, if known, as if it were another model."""
        return dict(self.scores) | ({} if self.truth is None else {TRUTH: self.truth[None]})


def log_losses(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Log loss of every row, in nats; if ``positive`` are probabilities, the expected loss."""
    p = np.clip(scores, 1e-15, 1 - 1e-15)
    return -(positive * np.log(p) + (1 - positive) * np.log1p(-p))


def expected_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """The AUC of labels drawn with the true probabilities or, given labels, of these."""
    return auc_and_influence(scores, truth)[0]


def out_of_order(scores: np.ndarray) -> float:
    """The share of rows, of ``scores`` (S, n, T), in which a stage is likelier than the one before it.

    >>> out_of_order(np.array([[[0.5, 0.2], [0.1, 0.2]]]))
    0.5
    """
    return float((np.diff(scores, axis=-1) > 0).any(axis=-1).mean())


def rank_correlation(scores: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's rank correlation."""
    from scipy.stats import spearmanr

    return float(spearmanr(scores, truth).statistic)


Figure = Callable[[np.ndarray, np.ndarray], float]


def over_seeds(judged: Judged, stage: int, figure: Figure, target: np.ndarray) -> dict[str, list[float]]:
    """A metric of every model and of the truth, once per seed."""
    return {
        model: [figure(seed[:, stage], target[:, stage]) for seed in scores] for model, scores in judged.rows().items()
    }


def over_users(spread: Spread, figures: Mapping[str, np.ndarray]) -> dict[str, Bounds]:
    """Intervals of the difference from MMoE with the chain, from each model's metric in every replicate (R, S)."""
    return {model: spread.difference(figures[MMOE], values) for model, values in figures.items() if model != MMOE}


def auc_spread(judged: Judged, spread: Spread, target: np.ndarray) -> dict[str, Bounds]:
    """AUC of the rarest stage."""
    stage = judged.last
    figures = {model: spread.auc(each[:, :, stage], target[:, stage]) for model, each in judged.rows().items()}
    return over_users(spread, figures)


def loss_spread(
    judged: Judged, spread: Spread, target: np.ndarray, loss: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, Bounds]:
    """The rarest stage's mean of a loss per row."""
    stage = judged.last
    figures = {model: spread.mean(loss(each[:, :, stage], target[:, stage])) for model, each in judged.rows().items()}
    return over_users(spread, figures)


@dataclass(frozen=True)
class Rarest:
    """The rarest stage's intervals over users and seeds, of each model's metric less that of MMoE with the chain."""

    auc: Mapping[str, Bounds]
    loss: Mapping[str, Bounds]
    true_auc: Mapping[str, Bounds] | None
    true_loss: Mapping[str, Bounds] | None
    true_error: Mapping[str, Bounds] | None

    @classmethod
    def of(cls, judged: Judged, *, replicates: int) -> Rarest:
        truth, spread = judged.truth, Spread(judged.users, replicates=replicates)
        return cls(
            auc=auc_spread(judged, spread, judged.labels),
            loss=loss_spread(judged, spread, judged.labels, log_losses),
            true_auc=None if truth is None else auc_spread(judged, spread, truth),
            true_loss=None if truth is None else loss_spread(judged, spread, truth, log_losses),
            true_error=None if truth is None else loss_spread(judged, spread, truth, lambda p, q: np.abs(p - q)),
        )
