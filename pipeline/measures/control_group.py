"""The control group's size that a campaign's uplift takes to be detected, by the power of a test of two proportions.

Targets reach the goal at the mean rate r of their predicted probabilities, the control group at r (1 - uplift): the
uplift is the share of the targets' outcomes that the messages cause. The test is two-sided at the 5% level, with a
power of 80%.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.05
POWER = 0.8
SHARES = np.arange(1, 51) / 100
"""The shares of a list considered for a control group, up to half."""


def power(targets: int, controls: int, rate: float, uplift: float) -> float:
    """The probability that the test detects an uplift.

    The variance is pooled under the null hypothesis and each group's own under the alternative (Fleiss, Levin and
    Paik, Statistical Methods for Rates and Proportions, 3rd edition, section 4.3, without continuity correction).
    """
    from statsmodels.stats.proportion import power_proportions_2indep

    if not (targets and controls and rate > 0):
        return 0.0
    return float(
        power_proportions_2indep(
            rate * uplift,
            rate * (1 - uplift),
            nobs1=targets,
            ratio=controls / targets,
            alpha=LEVEL,
            return_results=False,
        )
    )


def smallest_uplift(targets: int, controls: int, rate: float) -> float | None:
    """The smallest uplift that the groups detect; None: not even an uplift of 1."""
    from scipy.optimize import brentq

    if power(targets, controls, rate, 1.0) < POWER:
        return None
    return float(brentq(lambda uplift: power(targets, controls, rate, uplift) - POWER, 1e-9, 1.0))


def controls_needed(targets: int, rate: float, uplift: float) -> int | None:
    """The smallest control group that detects an uplift; None: no size does."""
    too_few, enough = 0, 1
    while power(targets, enough, rate, uplift) < POWER:
        too_few, enough = enough, 2 * enough
        if enough > 2**40:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if power(targets, middle, rate, uplift) < POWER:
            too_few = middle
        else:
            enough = middle
    return enough


def smallest_share(
    drawn: "NDArray[np.float64]", p_goal: "NDArray[np.float64]", texts: int | None, uplift: float
) -> float | None:
    """The smallest of `SHARES` whose control group detects an uplift; None: none does.

    Args:
        drawn: the random number of each user on the list, best rank first; control are those below the share.
        p_goal: their probabilities of reaching the goal.
        texts: the largest number of targets; None: no limit.
    """
    for share in SHARES:
        is_target = drawn >= share
        # As in `sql/duckdb/targets.sql`, the list ends with its last target.
        within = np.cumsum(is_target) - is_target < (len(drawn) if texts is None else texts)
        targets = int(np.sum(is_target & within))
        controls = int(np.sum(~is_target & within))
        if targets and power(targets, controls, float(p_goal[is_target & within].mean()), uplift) >= POWER:
            return float(share)
    return None
