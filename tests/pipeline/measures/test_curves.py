"""Gains, rates and groups of scores with known outcomes, compared with scikit-learn, pandas and statsmodels."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from pipeline.measures.curves import equal_groups, gains, rates


def drawn(seed: int, *, digits: int = 17) -> tuple[np.ndarray, np.ndarray]:
    """Scores and outcomes that follow them; few digits make ties."""
    random = np.random.default_rng(seed)
    scores = random.beta(1, 8, 500).round(digits)
    return scores, (random.random(500) < scores).astype(np.int64)


def test_gains_are_what_pandas_counts() -> None:
    scores, outcomes = drawn(1)
    ordered = pd.Series(outcomes, index=scores).sort_index(ascending=False)
    shares, found = gains(scores, outcomes)
    np.testing.assert_allclose(shares, np.arange(501) / 500)
    np.testing.assert_allclose(found[1:], ordered.cumsum() / ordered.sum())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), digits=st.sampled_from([1, 2, 17]))
def test_the_area_under_gains_is_the_auc_s(seed: int, digits: int) -> None:
    """Where a share p has the outcome, the area is p / 2 + (1 - p) AUC; with ties, too."""
    scores, outcomes = drawn(seed, digits=digits)
    shares, found = gains(scores, outcomes)
    positive = outcomes.mean()
    expected = positive / 2 + (1 - positive) * roc_auc_score(outcomes, scores)
    assert np.trapezoid(found, shares) == pytest.approx(expected, abs=1e-12)


def test_rates_and_intervals_are_those_of_pandas_and_statsmodels() -> None:
    scores, outcomes = drawn(2)
    groups = np.random.default_rng(3).choice([0, 1, 2, 4], 500)
    found = rates(groups, 5, scores, outcomes)
    table = pd.DataFrame({"group": groups, "score": scores, "outcome": outcomes}).groupby("group")
    expected = table.agg(n=("score", "size"), score=("score", "mean"), k=("outcome", "sum"), rate=("outcome", "mean"))
    there = expected.index.to_numpy()
    np.testing.assert_array_equal(found.rows[there], expected.n)
    np.testing.assert_allclose(found.expected[there], expected.score)
    np.testing.assert_allclose(found.observed[there], expected.rate)
    low, high = proportion_confint(expected.k, expected.n, method="wilson")
    np.testing.assert_allclose(found.low[there], low)
    np.testing.assert_allclose(found.high[there], high)
    assert found.rows[3] == 0
    assert np.isnan([found.expected[3], found.observed[3], found.low[3], found.high[3]]).all()


@pytest.mark.parametrize("outcome", [0, 1])
def test_an_interval_stays_a_share(outcome: int) -> None:
    found = rates(np.zeros(7, dtype=int), 1, np.full(7, 0.5), np.full(7, outcome))
    ends = found.low[0], found.high[0]
    assert min(ends) >= 0 and max(ends) <= 1
    assert ends[outcome] == pytest.approx(outcome, abs=1e-12)
    assert ends[1] - ends[0] > 0.3, "seven messages say little"


def test_groups_are_quantiles() -> None:
    scores, _ = drawn(4)
    np.testing.assert_array_equal(equal_groups(scores, 10), pd.qcut(scores, 10, labels=False))


def test_equal_scores_share_a_group() -> None:
    assert set(equal_groups(np.full(40, 0.2), 10)) == {5}
    scores, _ = drawn(5, digits=1)
    groups = pd.Series(equal_groups(scores, 10))
    assert (groups.groupby(scores).nunique() == 1).all()
    assert groups.groupby(scores).first().is_monotonic_increasing
