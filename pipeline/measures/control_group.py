"""How large a control group must be to show what a campaign causes, by the power of a test of two proportions.

A user of the list gets to the goal with the mean probability r of those who are texted, one of the control group with
r (1 - uplift): the uplift is the share of the list's outcomes that the messages cause. The test is two-sided at the
5% level, its power 80%.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.05
POWER = 0.8
SHARES = np.arange(1, 51) / 100
"""The shares of a list that are tried for a control group: beyond half, its users are better texted."""


def power(targets: int, controls: int, rate: float, uplift: float) -> float:
    """The probability that the test finds an uplift which is there.

    The variance is the pooled one without an uplift and each group's own with it (Fleiss, Levin and Paik, Statistical
    Methods for Rates and Proportions, 3rd edition, section 4.3, without the correction for continuity).
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
    """The smallest uplift that the groups show; None: not even one of all outcomes."""
    from scipy.optimize import brentq

    if power(targets, controls, rate, 1.0) < POWER:
        return None
    return float(brentq(lambda uplift: power(targets, controls, rate, uplift) - POWER, 1e-9, 1.0))


def controls_needed(targets: int, rate: float, uplift: float) -> int | None:
    """The smallest control group that shows an uplift of a list of so many; None: no number of users does."""
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
    """The smallest of `SHARES` whose control group shows an uplift; None: none of them does.

    Args:
        drawn: of each user of the list, the best first, the number that is below the share for the control group.
        p_goal: their probabilities of the goal.
        texts: how many targets there may be; None: any number.
    """
    for share in SHARES:
        is_target = drawn >= share
        # So many targets come before, as `sql/duckdb/targets.sql` has it: the list ends with its last target.
        within = np.cumsum(is_target) - is_target < (len(drawn) if texts is None else texts)
        targets = int(np.sum(is_target & within))
        controls = int(np.sum(~is_target & within))
        if targets and power(targets, controls, float(p_goal[is_target & within].mean()), uplift) >= POWER:
            return float(share)
    return None
