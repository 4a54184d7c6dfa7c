"""AUC on Census-Income's test part: its variation over seeds, and over the people drawn into that part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.benchmarks.census_data import GROUPS
from tests.benchmarks.census_models import NETWORKS, TREES, fitted, scores_path
from tests.benchmarks.tuning import Interval, Job, interval, paired

NORMAL = 1.96


@dataclass(frozen=True)
class Judged:
    """One task of a group on the test part: ``labels`` (n,), and every model's ``scores`` (seeds, n)."""

    group: str
    task: str
    labels: np.ndarray
    scores: Mapping[str, np.ndarray]

    @cached_property
    def _placed(self) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
        return {model: [placements(self.labels, each) for each in scores] for model, scores in self.scores.items()}

    def aucs(self, model: str) -> list[float]:
        """One AUC per seed."""
        return [float(positives.mean()) for positives, _ in self._placed[model]]

    def over_seeds(self, model: str, reference: str) -> Interval:
        """The difference in AUC, paired by seed, on the same test rows."""
        return paired(self.aucs(model), self.aucs(reference))

    def overall(self, model: str, reference: str) -> Interval:
        """The same, over other people as well: both half widths combined as independent errors.

        DeLong et al., "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves",
        Biometrics 44, 1988, on placements averaged over seeds.
        """
        mean, seeds = self.over_seeds(model, reference)
        ours, theirs = (
            [np.mean(part, axis=0) for part in zip(*self._placed[each], strict=True)] for each in (model, reference)
        )
        variance = sum((own - other).var(ddof=1) / len(own) for own, other in zip(ours, theirs, strict=True))
        people = NORMAL * variance**0.5
        return Interval(mean, people if np.isnan(seeds) else float(np.hypot(seeds, people)))

    def auc(self, model: str) -> Interval:
        return interval(self.aucs(model))

    def averaged(self, model: str) -> float:
        """AUC of the scores averaged over seeds, which has less of the randomness of training."""
        positives, _ = placements(self.labels, self.scores[model].mean(axis=0))
        return float(positives.mean())


def placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive, the share of negatives below it; for each negative, the share of positives above it.

    Ties count half. The mean of either is the AUC.

    >>> [each.tolist() for each in placements(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.3]))]
    [[0.5, 0.75], [1.0, 0.25]]
    """
    from scipy.stats import rankdata

    positive = labels == 1
    ranks = rankdata(scores)
    below = ranks[positive] - rankdata(scores[positive])
    above = positive.sum() - (ranks[~positive] - rankdata(scores[~positive]))
    return below / (~positive).sum(), above / positive.sum()


def judge(test: pa.Table, kept: Path, jobs: Sequence[Job]) -> list[Judged]:
    """Collect what the final fits left in ``kept``, per group and task."""
    found = []
    for group, tasks in GROUPS.items():
        for task in tasks:
            scores = {model: _scores(kept, jobs, group, model, task) for model in (*NETWORKS, TREES)}
            found.append(Judged(group, task, test[f"label_{task}"].to_numpy(), scores))
    return found


def find_jobs(jobs: Sequence[Job], group: str, model: str) -> list[int]:
    """The positions of a model's jobs for a group. A task fitted alone is fitted only once, even if it is in two
    groups."""
    together = [list(tasks) for tasks in fitted(group, model)]
    found = {}
    for place, job in enumerate(jobs):
        if job["model"] == model and job["tasks"] in together:
            found.setdefault((job["seed"], *job["tasks"]), place)
    return list(found.values())


def _scores(kept: Path, jobs: Sequence[Job], group: str, model: str, task: str) -> np.ndarray:
    by_seed = {}
    for place in find_jobs(jobs, group, model):
        job = jobs[place]
        if task in job["tasks"]:
            by_seed[job["seed"]] = np.load(scores_path(kept, job))[:, job["tasks"].index(task)]
    return np.stack([by_seed[seed] for seed in sorted(by_seed)])
