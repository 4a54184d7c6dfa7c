"""Did the messages work: response rates, uplift of target over control, and the Qini curve.

Users are ranked before they are assigned to target or control at random, so that the groups differ only by chance and
by the message. Counts and arrays in, plain values out. Intervals are at 95%.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
PERMUTATIONS = 1000
GROUPS = 100


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def times(self, factor: float) -> "Estimate":
        """The estimate times a known, non-negative factor."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, amount: float) -> "Estimate":
        """The estimate plus a known amount."""
        return Estimate(self.value + amount, self.low + amount, self.high + amount)


@dataclass(frozen=True)
class Response:
    """A group's users, and how many of them reached the stage."""

    users: int
    outcomes: int

    def rate(self) -> Estimate | None:
        """The response rate with Wilson's score interval; None without users.

        Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
        """
        from statsmodels.stats.proportion import proportion_confint

        if not self.users:
            return None
        low, high = proportion_confint(self.outcomes, self.users, alpha=LEVEL, method="wilson")
        return Estimate(self.outcomes / self.users, float(low), float(high))


@dataclass(frozen=True)
class Uplift:
    """The treated group's rate minus the control group's, and its two-sided p-value."""

    difference: Estimate
    p_value: float


@dataclass(frozen=True)
class Qini:
    """A Qini curve at `shares` of the ranked users, best first, in at most 100 equal steps from 0 to 1.

    `gains` are the outcomes that the messages to each share caused; `at_random` those of as many messages in random
    order; between `chance_low` and `chance_high` lie 95% of the curves of an uninformative ranking.

    `coefficient` is the mean height of the curve above the line, per target: the outcomes per message that the ranking
    adds. `chance` is its 95% range for an uninformative ranking.
    """

    shares: np.ndarray
    gains: np.ndarray
    chance_low: np.ndarray
    chance_high: np.ndarray
    coefficient: float
    chance: tuple[float, float]

    @property
    def at_random(self) -> np.ndarray:
        return self.gains[-1] * self.shares

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the best ranks responded to the message more than chance explains."""
        return self.coefficient > self.chance[1]


def uplift(treated: Response, control: Response) -> Uplift | None:
    """Difference of two rates; None if either group is empty.

    Newcombe's hybrid score interval (Interval estimation for the difference between independent proportions, Statistics
    in Medicine 17 (1998), method 10), which keeps its level with few outcomes; the p-value is from Pearson's
    chi-squared test without continuity correction.
    """
    from scipy.stats import chi2_contingency
    from statsmodels.stats.proportion import confint_proportions_2indep

    if not treated.users or not control.users:
        return None
    counts = (treated.outcomes, treated.users, control.outcomes, control.users)
    low, high = confint_proportions_2indep(*counts, compare="diff", method="newcomb", alpha=LEVEL)
    # The test is undefined where nobody or everybody reached the stage.
    alike = treated.outcomes + control.outcomes in (0, treated.users + control.users)
    table = [[group.outcomes, group.users - group.outcomes] for group in (treated, control)]
    p_value = 1.0 if alike else float(chi2_contingency(table, correction=False).pvalue)
    value = treated.outcomes / treated.users - control.outcomes / control.users
    return Uplift(Estimate(value, float(low), float(high)), p_value)


def mean_difference(treated: np.ndarray, control: np.ndarray) -> Estimate | None:
    """Difference of two means with Welch's t interval; None if a group has fewer than two users, or no one differs."""
    from scipy.stats import ttest_ind

    if min(len(treated), len(control)) < 2 or np.ptp(treated) == np.ptp(control) == 0:
        return None
    interval = ttest_ind(treated, control, equal_var=False).confidence_interval(1 - LEVEL)
    return Estimate(float(treated.mean() - control.mean()), float(interval.low), float(interval.high))


def cost_per(cost: float, outcomes: Estimate) -> Estimate | None:
    """The cost per outcome; None if the interval of outcomes reaches 0, where the cost has no upper bound."""
    if outcomes.low <= 0:
        return None
    return Estimate(cost / outcomes.value, cost / outcomes.high, cost / outcomes.low)


def qini(is_target: Sequence[bool] | np.ndarray, outcomes: Sequence[int] | np.ndarray) -> Qini | None:
    """The Qini curve of ranked users, best first; None without targets or without a control group.

    After k users, of whom N_T(k) are targets with R_T(k) outcomes, and N_C(k) control with R_C(k), the messages so far
    have caused R_T(k) - R_C(k) N_T(k) / N_C(k) outcomes (Radcliffe, Using control groups to target on predicted lift:
    building and assessing uplift models, Direct Marketing Analytics Journal 2007); R_T(k) as long as there is no
    control user. The coefficient is the area between the curve and the straight line to its end, by trapezoids over
    shares of users, divided by the targets.

    Chance is simulated by reassigning the same users and outcomes to target and control, with a fixed seed. This is
    exact if the message has no effect, and close if its effect is the same at all ranks; unlike shuffling the ranks, it
    keeps their base rates.

    Args:
        is_target: by rank, whether the user is a target; otherwise control.
        outcomes: by rank, 1 or 0.
    """
    treated, reached = np.asarray(is_target, dtype=bool), np.asarray(outcomes, dtype=bool)
    users, targets = len(treated), int(treated.sum())
    if targets in (0, users):
        return None
    steps = min(GROUPS, users)
    edges = np.round(np.linspace(0, users, steps + 1)).astype(int)
    group = np.repeat(np.arange(steps), np.diff(edges))
    # Users by group and outcome: first the groups' 0s, then their 1s.
    cells = np.bincount(group + steps * reached, minlength=2 * steps)
    control = np.bincount((group + steps * reached)[~treated], minlength=2 * steps)
    redrawn = np.random.default_rng(0).multivariate_hypergeometric(
        cells, users - targets, size=PERMUTATIONS, method="marginals"
    )
    shares = edges / users
    gains = _gains(cells, control[None])
    by_chance = _gains(cells, redrawn)
    above = by_chance - by_chance[:, -1:] * shares
    low, high = np.quantile(above, (LEVEL / 2, 1 - LEVEL / 2), axis=0)
    line = gains[0, -1] * shares
    areas = np.trapezoid(above, shares, axis=1) / targets
    return Qini(
        shares=shares,
        gains=gains[0],
        chance_low=line + low,
        chance_high=line + high,
        coefficient=float(np.trapezoid(gains[0] - line, shares) / targets),
        chance=(float(np.quantile(areas, LEVEL / 2)), float(np.quantile(areas, 1 - LEVEL / 2))),
    )


def _gains(cells: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Caused outcomes after each group, starting with 0, `(draws, groups + 1)`.

    Args:
        cells: users by outcome and group, `(2 groups,)`.
        control: of these, the control users, `(draws, 2 groups)`.
    """
    treated = cells - control
    (t_missed, t_reached), (c_missed, c_reached) = (
        np.cumsum(np.stack(np.split(arm, 2, axis=1)), axis=2) for arm in (treated, control)
    )
    t_users, c_users = t_missed + t_reached, c_missed + c_reached
    gains = t_reached - c_reached * t_users / np.maximum(c_users, 1)
    return np.pad(gains, ((0, 0), (1, 0)))
