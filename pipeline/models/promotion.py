"""Whether a challenger becomes champion: a rule over labels and probabilities, without a model or a warehouse."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np

from pipeline.config.sections import Promotion

Z_WORSE = 1.645
"""A standard normal variable is above this in 5% of cases: one-sided 95%."""
Z_CALIBRATED = 1.96
"""And outside of plus or minus this in 5%."""
QUIET_CHANCE = 0.001
"""A silence less likely than this is no chance."""


@dataclass(frozen=True)
class Difference:
    """Challenger's log loss minus champion's, mean over exposures, and the mean's standard error."""

    mean: float
    standard_error: float

    @property
    def is_worse(self) -> bool:
        return self.mean > Z_WORSE * self.standard_error

    def __str__(self) -> str:
        return f"{self.mean:+.5f} ± {self.standard_error:.5f}"


@dataclass(frozen=True)
class Silence:
    """What came after a stage's last held-out positive: so many exposures, and the chance of it at the rate before."""

    since: date
    exposures: int
    expected: float

    @property
    def chance(self) -> float:
        """Poisson's probability of no event where `expected` are."""
        return float(np.exp(-self.expected))


@dataclass(frozen=True)
class StageFigures:
    """What was found on one stage's judged exposures; the champion's figures are None where there is none."""

    stage: str
    exposures: int
    positives: int
    expected: float
    log_loss: float | None
    champion_log_loss: float | None
    difference: Difference | None
    refusals: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, in words and figures. `champion` is what the challenger was compared with."""

    champion: str | None
    unusable_champion: str
    """Why the champion there is could not be compared with; empty where it could, or there is none."""
    better_on: str
    stages: tuple[StageFigures, ...]

    @property
    def refusals(self) -> tuple[str, ...]:
        return tuple(refusal for stage in self.stages for refusal in stage.refusals)

    @property
    def promoted(self) -> bool:
        return not self.refusals

    @property
    def line(self) -> str:
        """The verdict in one line, without the challenger's name."""
        return f"{'promoted' if self.promoted else 'not promoted'}: {self.reason}"

    @property
    def reason(self) -> str:
        """Why it is promoted, or all that speaks against it."""
        if not self.promoted:
            beside = f" (beside champion {self.champion})" if self.champion else ""
            return "; ".join(self.refusals) + beside
        if self.unusable_champion:
            return f"the champion cannot score these examples ({self.unusable_champion})"
        if self.champion is None:
            return "the first champion"
        named = next(stage for stage in self.stages if stage.stage == self.better_on)
        others = [repr(stage.stage) for stage in self.stages if stage is not named]
        no_worse = f", no worse on {', '.join(others)}" if others else ""
        return (
            f"better than champion {self.champion} on {self.better_on!r}{no_worse}: log loss "
            f"{named.log_loss:.5f} against {named.champion_log_loss:.5f}, a difference of {named.difference}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse. What follows from the rest is there for other readers."""
        return {"promoted": self.promoted, "line": self.line, **asdict(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Verdict":
        stages = []
        for each in stored["stages"]:
            difference = Difference(**each["difference"]) if each["difference"] else None
            stages.append(StageFigures(**{**each, "difference": difference, "refusals": tuple(each["refusals"])}))
        return cls(stored["champion"], stored["unusable_champion"], stored["better_on"], tuple(stages))


def judge(
    labels: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray | None,
    *,
    users: np.ndarray,
    days: np.ndarray,
    stages: Sequence[str],
    options: Promotion,
    champion_version: str | None = None,
    unusable_champion: str = "",
) -> Verdict:
    """Judge a challenger, against the champion where there is one to compare with.

    Refused is a challenger with too few positives to judge by on any stage, with a stage gone quiet or not
    calibrated; and, beside a champion, one that is worse on any stage, or not better on the named one.

    Args:
        labels: float (n, T), NaN where a label judges nothing.
        challenger, champion: probabilities (n, T) from models that have not learnt from these labels.
        users: a whole number per user (n,).
        days: each exposure's day, datetime64[D] (n,).
    """
    better_on = options.stage or stages[-1]
    figures = []
    for column, stage in enumerate(stages):
        known = ~np.isnan(labels[:, column])
        theirs = None if champion is None else champion[known, column]
        figures.append(
            _stage_figures(
                stage,
                labels[known, column],
                challenger[known, column],
                theirs,
                users=users[known],
                days=days[known],
                options=options,
                must_be_better=stage == better_on,
            )
        )
    return Verdict(champion_version, unusable_champion, better_on, tuple(figures))


def _stage_figures(
    stage: str,
    labels: np.ndarray,
    mine: np.ndarray,
    theirs: np.ndarray | None,
    *,
    users: np.ndarray,
    days: np.ndarray,
    options: Promotion,
    must_be_better: bool,
) -> StageFigures:
    positives, expected, refusals = int(labels.sum()), float(mine.sum()), []
    if positives < options.min_positives:
        refusals.append(
            f"stage {stage!r} has {positives} held-out positives among {len(labels):,} exposures, fewer than "
            f"promotion.min_positives = {options.min_positives}"
        )
    silence = silence_after_last(labels, days)
    if silence and silence.chance < QUIET_CHANCE:
        refusals.append(
            f"stage {stage!r} has gone quiet: no positive among {silence.exposures:,} exposures after "
            f"{silence.since}, where the rate before promises {silence.expected:.1f}"
        )
    if not is_calibrated(labels, mine, gap=options.max_calibration_gap):
        refusals.append(f"stage {stage!r} is not calibrated: {expected:.1f} positives expected, {positives} came")
    my_losses = log_losses(labels, mine)
    their_losses = None if theirs is None else log_losses(labels, theirs)
    difference = None
    if their_losses is not None and len(labels):
        difference = paired_difference(my_losses, their_losses, users)
        if difference.is_worse:
            refusals.append(f"worse on stage {stage!r}: log loss differs by {difference}")
        elif must_be_better and difference.mean >= 0:
            refusals.append(f"not better on stage {stage!r}: log loss differs by {difference}")
    return StageFigures(
        stage=stage,
        exposures=len(labels),
        positives=positives,
        expected=expected,
        log_loss=float(my_losses.mean()) if len(labels) else None,
        champion_log_loss=float(their_losses.mean()) if difference and their_losses is not None else None,
        difference=difference,
        refusals=tuple(refusals),
    )


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Binary log loss in nats of each row (n,).

    >>> log_losses(np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(4).tolist()
    [0.6931, 0.6931]
    """
    likelihood = np.where(labels > 0.5, probabilities, 1.0 - probabilities)
    return -np.log(np.clip(likelihood, 1e-15, 1.0))


def paired_difference(mine: np.ndarray, theirs: np.ndarray, users: np.ndarray) -> Difference:
    """The mean of `mine - theirs` (n,) over exposures, and its standard error with exposures clustered by user.

    A user's exposures share what the user is like, so that n exposures say less than n strangers would. With d_i
    the difference of exposure i, m their mean and e_g the sum of d_i - m over user g's exposures, of G users:
    standard error = sqrt(G / (G - 1) * sum_g e_g^2) / n. It is the cluster-robust error of a regression on a
    constant: Cameron and Miller, "A Practitioner's Guide to Cluster-Robust Inference", Journal of Human Resources
    50(2), 2015, equations 11 and 12. Of one user alone nothing is known: the error is infinite.

    >>> print(paired_difference(np.array([0.2, 0.4, 0.6]), np.zeros(3), np.array([1, 1, 2])))
    +0.40000 ± 0.13333
    """
    differences = mine - theirs
    mean = float(differences.mean())
    _, user = np.unique(users, return_inverse=True)
    sums = np.bincount(user, differences - mean)
    count = len(sums)
    if count < 2:
        return Difference(mean, float("inf"))
    return Difference(mean, float(np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(differences)))


def is_calibrated(labels: np.ndarray, probabilities: np.ndarray, *, gap: float) -> bool:
    """Whether as many positives came as were expected, within a share of those that came or within chance.

    Chance: were the probabilities true, the number of positives would deviate from their sum by sqrt(sum p(1 - p)),
    and by 1.96 times that in one of twenty cases.
    """
    observed, expected = float(labels.sum()), float(probabilities.sum())
    by_chance = Z_CALIBRATED * float(np.sqrt((probabilities * (1.0 - probabilities)).sum()))
    return abs(expected - observed) <= max(gap * observed, by_chance)


def silence_after_last(labels: np.ndarray, days: np.ndarray) -> Silence | None:
    """The exposures on days after the day of the last positive; None without a positive, or with none after.

    At the rate r of the days up to it, the n exposures after would bring r * n positives, and none with
    probability exp(-r * n), by Poisson.
    """
    if not labels.sum():
        return None
    last = days[labels > 0.5].max()
    after = int((days > last).sum())
    if not after:
        return None
    rate = labels.sum() / (len(labels) - after)
    return Silence(last.astype("datetime64[D]").item(), after, float(rate * after))
