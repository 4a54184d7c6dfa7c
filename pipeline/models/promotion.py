"""Decide whether a challenger becomes champion, from labels and probabilities alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np

from pipeline.config.sections import Promotion

Z = 1.645
"""One-sided 95% quantile of the standard normal distribution."""
Z_CALIBRATED = 1.96
"""Two-sided 95% quantile."""
SILENCE_PROBABILITY = 0.001
"""A silence less probable than this is not put down to chance."""


@dataclass(frozen=True)
class Difference:
    """The challenger's log loss minus another's: mean over exposures, and the mean's standard error."""

    mean: float
    standard_error: float

    @property
    def is_worse(self) -> bool:
        return self.mean > Z * self.standard_error

    @property
    def is_better(self) -> bool:
        """Whether the one-sided 95% interval of the mean ends below 0."""
        return self.mean < -Z * self.standard_error

    def __str__(self) -> str:
        return f"{self.mean:+.5f} ± {self.standard_error:.5f}"


@dataclass(frozen=True)
class Silence:
    """The exposures after a stage's last held-out positive, and the positives expected of them at the rate before."""

    since: date
    exposures: int
    expected: float

    @property
    def probability(self) -> float:
        """The Poisson probability of no positive when `expected` are expected."""
        return float(np.exp(-self.expected))


@dataclass(frozen=True)
class StageFigures:
    """A stage's figures on the held-out exposures; the champion's are None without a champion.

    `gain` is the difference from a constant, None without exposures.
    """

    stage: str
    exposures: int
    positives: int
    expected: float
    log_loss: float | None
    champion_log_loss: float | None
    difference: Difference | None
    refusals: tuple[str, ...]
    constant_log_loss: float | None = None
    gain: Difference | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, with reasons and figures. `champion` is the version the challenger was compared with."""

    champion: str | None
    unusable_champion: str
    """Why the champion could not be compared with; empty if it could, or there is none."""
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
        """The verdict in one line, without the challenger's version."""
        return f"{'promoted' if self.promoted else 'not promoted'}: {self.reason}"

    @property
    def reason(self) -> str:
        """Why it is promoted, or every reason against."""
        if not self.promoted:
            compared = f" (compared with champion {self.champion})" if self.champion else ""
            return "; ".join(self.refusals) + compared
        if self.unusable_champion:
            return f"the champion cannot score these examples ({self.unusable_champion})"
        if self.champion is None:
            return "the first champion, better than a constant on every stage"
        named = next(stage for stage in self.stages if stage.stage == self.better_on)
        others = [repr(stage.stage) for stage in self.stages if stage is not named]
        no_worse = f", no worse on {', '.join(others)}" if others else ""
        return (
            f"better than champion {self.champion} on {self.better_on!r}{no_worse}: log loss "
            f"{named.log_loss:.5f} against {named.champion_log_loss:.5f}, a difference of {named.difference}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse. `promoted` and `line` are derived, for other readers."""
        return {"promoted": self.promoted, "line": self.line, **asdict(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Verdict":
        stages = []
        for each in stored["stages"]:
            # A verdict kept by an earlier version has no gain.
            differences = {
                name: Difference(**each[name]) if each.get(name) else None for name in ("difference", "gain")
            }
            stages.append(StageFigures(**{**each, **differences, "refusals": tuple(each["refusals"])}))
        return cls(stored["champion"], stored["unusable_champion"], stored["better_on"], tuple(stages))


def decide_promotion(
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
    """Decide whether to promote a challenger, compared with the champion if there is one.

    A challenger is refused if any stage has too few positives, has gone quiet or is not calibrated; compared with a
    champion, if it is worse on any stage or not better on the named one; and without a champion, if on any stage it is
    not better than a constant: what has learned nothing ranks nobody.

    Args:
        labels: float (n, T), NaN where a label does not count.
        challenger, champion: probabilities (n, T) of models that were not fitted to these labels.
        users: an integer id per user (n,).
        days: the day of each exposure, datetime64[D] (n,).
    """
    better_on = options.stage or stages[-1]
    figures = []
    for column, stage in enumerate(stages):
        known = ~np.isnan(labels[:, column])
        theirs = None if champion is None else champion[known, column]
        figures.append(
            _measure_stage(
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


def _measure_stage(
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
    silence = find_silence(labels, days)
    if silence and silence.probability < SILENCE_PROBABILITY:
        refusals.append(
            f"stage {stage!r} has gone quiet: no positive among {silence.exposures:,} exposures after "
            f"{silence.since}, where {silence.expected:.1f} were expected at the rate before"
        )
    if not is_calibrated(labels, mine, gap=options.max_calibration_gap):
        refusals.append(f"stage {stage!r} is not calibrated: {expected:.1f} positives expected, {positives} observed")
    my_losses = log_losses(labels, mine)
    their_losses = None if theirs is None else log_losses(labels, theirs)
    difference = gain = constant_losses = None
    if len(labels):
        # The rate of these very labels: no constant has a lower loss, so what is better knows more than a rate.
        constant_losses = log_losses(labels, np.full(len(labels), labels.mean()))
        gain = paired_difference(my_losses, constant_losses, users)
        if their_losses is None and not gain.is_better:
            refusals.append(f"no better than a constant on stage {stage!r}: log loss differs by {gain}")
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
        constant_log_loss=None if constant_losses is None else float(constant_losses.mean()),
        gain=gain,
    )


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Binary log loss of each row (n,), in nats.

    >>> log_losses(np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(4).tolist()
    [0.6931, 0.6931]
    """
    likelihood = np.where(labels > 0.5, probabilities, 1.0 - probabilities)
    return -np.log(np.clip(likelihood, 1e-15, 1.0))


def paired_difference(mine: np.ndarray, theirs: np.ndarray, users: np.ndarray) -> Difference:
    """The mean of `mine - theirs` (n,) over exposures, and its standard error with exposures clustered by user.

    The exposures of one user are correlated, so that n exposures carry less information than n independent ones. With
    d_i the difference of exposure i, m the mean, and e_g the sum of d_i - m over the exposures of user g of G:
    standard error = sqrt(G / (G - 1) * sum_g e_g^2) / n. It is the cluster-robust error of a regression on a
    constant: Cameron and Miller, "A Practitioner's Guide to Cluster-Robust Inference", Journal of Human Resources
    50(2), 2015, equations 11 and 12. With a single user it is infinite.

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
    """Whether observed positives match expected ones, within a share `gap` of the observed or within chance.

    If the probabilities are true, the number of positives has a standard deviation of sqrt(sum p(1 - p)) around their
    sum, and is off by more than 1.96 times that in one case of twenty.
    """
    observed, expected = float(labels.sum()), float(probabilities.sum())
    by_chance = Z_CALIBRATED * float(np.sqrt((probabilities * (1.0 - probabilities)).sum()))
    return abs(expected - observed) <= max(gap * observed, by_chance)


def find_silence(labels: np.ndarray, days: np.ndarray) -> Silence | None:
    """The exposures on the days after the last positive; None if there is no positive, or no exposure after it.

    At the rate r up to that day, the n exposures after it bring r * n positives on average, and none with Poisson
    probability exp(-r * n).
    """
    if not labels.sum():
        return None
    last = days[labels > 0.5].max()
    after = int((days > last).sum())
    if not after:
        return None
    rate = labels.sum() / (len(labels) - after)
    return Silence(last.astype("datetime64[D]").item(), after, float(rate * after))
