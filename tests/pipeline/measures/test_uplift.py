"""The statistics of campaigns: against independent calculations, and against uplift that was planted or was not."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from pipeline.measures.control_group import controls_needed
from pipeline.measures.uplift import (
    Estimate,
    Response,
    Uplift,
    cost_per,
    mean_difference,
    qini,
    uplift,
)

SEEDS = range(20)
BASE = 0.12 * np.linspace(1, 0, 12_000) ** 2 + 0.02
"""The true response without a message, by rank: from 14% down to 2%, 6% on average."""
PLANTED = 0.02
"""Two points of 6%."""
EVEN = np.full(len(BASE), PLANTED)
CONCENTRATED = 4 * PLANTED * np.linspace(1, 0, len(BASE)) ** 3
"""As much on average, nearly all of it in the first half of the ranks."""

groups = st.integers(1, 400).flatmap(lambda users: st.tuples(st.integers(0, users), st.just(users)))


def draw(seed: int, lift: np.ndarray, *, control_share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """By rank: who is a target, and who got there; the message adds `lift` to each target's base."""
    random = np.random.default_rng(seed)
    is_target = random.random(len(BASE)) >= control_share
    return is_target, random.random(len(BASE)) < BASE + lift * is_target


def measured(is_target: np.ndarray, reached: np.ndarray) -> Uplift:
    arms = (Response(int(arm.sum()), int(reached[arm].sum())) for arm in (is_target, ~is_target))
    found = uplift(*arms)
    assert found is not None
    return found


def at_least(trials: int, share: float) -> int:
    """So many of the trials succeed at this share but once in a thousand times."""
    return int(binom.ppf(0.001, trials, share))


def at_most(trials: int, share: float) -> int:
    return int(binom.ppf(0.999, trials, share))


@given(groups)
def test_a_rate_has_wilson_s_interval(group: tuple[int, int]) -> None:
    outcomes, users = group
    rate = Response(users, outcomes).rate()
    assert rate is not None
    interval = binomtest(outcomes, users).proportion_ci(0.95, method="wilson")
    assert (rate.value, rate.low, rate.high) == pytest.approx(
        (outcomes / users, interval.low, interval.high), abs=1e-12
    )


@given(groups, groups)
def test_uplift_has_newcombe_s_interval_and_the_two_proportion_z_test_s_p(
    treated: tuple[int, int], control: tuple[int, int]
) -> None:
    (x, n), (y, m) = treated, control
    found = uplift(Response(n, x), Response(m, y))
    assert found is not None
    p, q = x / n, y / m
    (p_low, p_high), (q_low, q_high) = (
        tuple(binomtest(*group).proportion_ci(0.95, method="wilson")) for group in (treated, control)
    )
    low, high = p - q - math.hypot(p - p_low, q_high - q), p - q + math.hypot(p_high - p, q - q_low)
    difference = found.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((p - q, low, high), abs=1e-9)
    pooled = (x + y) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    assert found.p_value == pytest.approx(2 * norm.sf(abs(p - q) / error) if error else 1, abs=1e-9)


def test_a_published_example_of_newcombe_s() -> None:
    # Newcombe 1998, table II, 56/70 against 48/80 by method 10.
    found = uplift(Response(70, 56), Response(80, 48))
    assert found is not None
    assert (round(found.difference.low, 4), round(found.difference.high, 4)) == (0.0524, 0.3339)


def test_nobody_has_no_rate_and_no_uplift() -> None:
    assert Response(0, 0).rate() is None
    assert uplift(Response(0, 0), Response(5, 1)) is None
    assert uplift(Response(5, 1), Response(0, 0)) is None


def test_means_are_compared_by_welch() -> None:
    random = np.random.default_rng(1)
    treated, control = random.exponential(3, 300), random.exponential(2, 40)
    found = mean_difference(treated, control)
    assert found is not None
    expected = CompareMeans(DescrStatsW(treated), DescrStatsW(control)).tconfint_diff(usevar="unequal")
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == pytest.approx(treated.mean() - control.mean())
    assert mean_difference(treated, control[:1]) is None
    assert mean_difference(np.zeros(5), np.zeros(5)) is None


def test_what_an_outcome_cost() -> None:
    assert cost_per(100, Estimate(20, 10, 40)) == Estimate(5, 2.5, 10)
    assert cost_per(100, Estimate(20, 0, 40)) is None
    assert cost_per(100, Estimate(-20, -30, -10)) is None


def fleiss_power(targets: int, control: int, rate: float, measurable: float) -> float:
    """Power of the two-sided z-test of two proportions, written out."""
    p, q = rate, rate * (1 - measurable)
    mean = (targets * p + control * q) / (targets + control)
    null = math.sqrt(mean * (1 - mean) * (1 / targets + 1 / control))
    alternative = math.sqrt(p * (1 - p) / targets + q * (1 - q) / control)
    return float(sum(norm.cdf((side * (p - q) - 1.959964 * null) / alternative) for side in (1, -1)))


@given(st.integers(10, 200_000), st.floats(0.002, 0.6), st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_the_control_group_is_the_smallest_that_has_the_power(targets: int, rate: float, measurable: float) -> None:
    needed = controls_needed(targets, rate, measurable)
    if needed is None:
        assert fleiss_power(targets, 10**9, rate, measurable) < 0.8 + 1e-4
    else:
        assert fleiss_power(targets, needed, rate, measurable) > 0.8 - 1e-4
        assert needed == 1 or fleiss_power(targets, needed - 1, rate, measurable) < 0.8 + 1e-4


def test_groups_of_equal_size_need_what_the_textbook_says() -> None:
    needed = controls_needed(3_000, 0.06, 1 / 3)
    expected = samplesize_proportions_2indep_onetail(
        0.02, 0.04, 0.8, ratio=needed / 3_000, alpha=0.025, alternative="larger"
    )
    assert expected == pytest.approx(3_000, rel=0.01)


def test_no_control_group_can_help_too_few_targets() -> None:
    assert controls_needed(100, 0.01, 0.2) is None
    assert controls_needed(0, 0.1, 0.5) is None
    assert controls_needed(1000, 0.0, 0.5) is None


@pytest.mark.parametrize(
    ("targets", "rate", "measurable"), [(9_000, 0.06, 1 / 3), (1_000, 0.3, 0.3), (3_000, 0.1, 0.5)]
)
def test_the_power_is_kept_by_the_interval_that_is_shown(targets: int, rate: float, measurable: float) -> None:
    control = controls_needed(targets, rate, measurable)
    assert control is not None
    random = np.random.default_rng(0)
    treated, untreated = random.binomial(targets, rate, 400), random.binomial(control, rate * (1 - measurable), 400)
    found = [
        uplift(Response(targets, int(x)), Response(control, int(y))) for x, y in zip(treated, untreated, strict=True)
    ]
    seen = sum(each is not None and each.difference.low > 0 for each in found)
    assert at_least(400, 0.8) <= seen <= at_most(400, 0.88)


@pytest.mark.slow
def test_planted_uplift_is_within_its_interval_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(1000):
        is_target, reached = draw(seed, EVEN)
        difference = measured(is_target, reached).difference
        covered += difference.low <= PLANTED <= difference.high
    assert at_least(1000, 0.95) <= covered <= at_most(1000, 0.97)


def test_planted_uplift_is_found_and_none_is_not() -> None:
    # These 8,400 targets and 3,600 of control have a power of 0.98 for two points, of 0.9999 for three.
    found = [measured(*draw(seed, EVEN * 1.5)).difference.low > 0 for seed in SEEDS]
    assert all(found)
    by_chance = [measured(*draw(seed, EVEN * 0)).difference.is_clear for seed in SEEDS]
    assert sum(by_chance) <= at_most(len(SEEDS), 0.05)


def qini_by_hand(is_target: list[bool], reached: list[bool], after: list[int]) -> list[float]:
    """The curve by its definition, after so many users each."""
    gains = []
    for k in after:
        targets = sum(is_target[:k])
        control = k - targets
        of_targets = sum(r for t, r in zip(is_target[:k], reached[:k], strict=True) if t)
        of_control = sum(r for t, r in zip(is_target[:k], reached[:k], strict=True) if not t)
        gains.append(of_targets - (of_control * targets / control if control else 0))
    return gains


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=250))
@settings(deadline=None, max_examples=50)
def test_the_qini_curve_is_its_definition(users: list[tuple[bool, bool]]) -> None:
    is_target, reached = [t for t, _ in users], [r for _, r in users]
    found = qini(is_target, reached)
    if found is None:
        assert len(set(is_target)) == 1
        return
    after = [round(share * len(users)) for share in found.shares]
    assert after[0] == 0 and after[-1] == len(users)
    assert len(after) == min(100, len(users)) + 1
    expected = qini_by_hand(is_target, reached, after)
    assert found.gains == pytest.approx(expected)
    heights = [gain - expected[-1] * share for gain, share in zip(expected, found.shares, strict=True)]
    corners = pairwise(zip(found.shares, heights, strict=True))
    area = sum((right - left) * (low + high) / 2 for (left, low), (right, high) in corners)
    assert found.coefficient == pytest.approx(area / sum(is_target), abs=1e-12)


def test_the_curve_ends_at_what_the_messages_caused() -> None:
    is_target, reached = draw(0, EVEN)
    found = qini(is_target, reached)
    assert found is not None
    assert found.gains[-1] == pytest.approx(measured(is_target, reached).difference.value * is_target.sum())
    assert found.at_random[50] == pytest.approx(found.gains[-1] / 2)


def test_chance_is_what_arms_drawn_anew_give() -> None:
    random = np.random.default_rng(5)
    is_target, reached = draw(5, CONCENTRATED)
    kept = np.sort(random.choice(len(BASE), 400, replace=False))
    is_target, reached = is_target[kept], reached[kept]
    found = qini(is_target, reached)
    assert found is not None
    coefficients, middles = [], []
    for _ in range(1500):
        drawn = qini_curve_at(random.permutation(is_target), reached, found.shares)
        line = drawn[-1] * found.shares
        coefficients.append(np.trapezoid(drawn - line, found.shares) / is_target.sum())
        middles.append((drawn - line)[50])
    spread = np.std(coefficients)
    assert found.chance == pytest.approx(tuple(np.quantile(coefficients, [0.025, 0.975])), abs=0.25 * spread)
    band = found.chance_low[50] - found.at_random[50], found.chance_high[50] - found.at_random[50]
    assert band == pytest.approx(tuple(np.quantile(middles, [0.025, 0.975])), abs=0.25 * np.std(middles))


def qini_curve_at(is_target: np.ndarray, reached: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The curve at these shares, from running sums over users."""
    after = np.round(shares * len(is_target)).astype(int)
    sums = [
        np.concatenate([[0], np.cumsum(each)])[after]
        for each in (is_target, ~is_target, is_target & reached, ~is_target & reached)
    ]
    return np.asarray(sums[2] - sums[3] * sums[0] / np.maximum(sums[1], 1))


@pytest.mark.slow
def test_uplift_in_the_high_ranks_is_told_from_an_even_one_and_from_none() -> None:
    beyond = {
        name: sum(found.is_beyond_chance for seed in SEEDS if (found := qini(*draw(seed, lift))))
        for name, lift in (("concentrated", CONCENTRATED), ("even", EVEN), ("none", EVEN * 0))
    }
    assert beyond["concentrated"] == len(SEEDS)
    # By chance one of 40 lies above the range of 95%.
    assert max(beyond["even"], beyond["none"]) <= at_most(len(SEEDS), 0.025)


def test_a_qini_curve_needs_both_arms() -> None:
    assert qini([True, True], [1, 0]) is None
    assert qini([False], [1]) is None
    assert qini([], []) is None


def test_the_same_list_gives_the_same_chance() -> None:
    first, second = (qini(*draw(3, EVEN)) for _ in range(2))
    assert first and second and first.chance == second.chance
