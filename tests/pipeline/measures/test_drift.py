"""Drift of a column from its baseline: by definition, compared with pandas and scipy, and within chance."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from pipeline.measures.drift import MAX_VALUES, binned, distribution, drift, index_by_chance, psi


def numbers(*values: float | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.float64())])


def texts(*values: str | None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


def by_hand(earlier: list[float], later: list[float]) -> float:
    """PSI by its definition, row by row."""
    edges = sorted({float(np.percentile(earlier, tenth)) for tenth in range(10, 100, 10)})

    def shares(sample: list[float]) -> list[float]:
        counts = [0.5] * (len(edges) + 1)
        for value in sample:
            counts[sum(value > edge for edge in edges)] += 1
        return [count / sum(counts) for count in counts]

    return sum((q - p) * np.log(q / p) for p, q in zip(shares(earlier), shares(later), strict=True))


scores = st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.3, 1.0]) | st.floats(0, 1), min_size=1, max_size=60)


@given(scores, scores)
def test_psi_is_its_definition(earlier: list[float], later: list[float]) -> None:
    found = psi(np.array(earlier), np.array(later))
    assert found == pytest.approx(by_hand(earlier, later), abs=1e-9)
    assert found >= 0
    assert psi(np.array(earlier), np.array(earlier)) == 0


def test_psi_tells_a_shift_from_chance() -> None:
    random = np.random.default_rng(0)
    earlier, same, shifted = (random.beta(2, 20, 5_000) for _ in range(3))
    # By chance alone about 9 x 2 / 5,000.
    assert psi(earlier, same) < 0.01
    assert psi(earlier, shifted * 1.5) > 0.25


def test_a_number_s_drift_is_what_pandas_makes_of_its_deciles() -> None:
    random = np.random.default_rng(1)
    earlier, later = random.gamma(3, 6, 3_000), random.gamma(3, 7, 2_000)
    earlier[random.random(3_000) < 0.1] = np.nan
    later[random.random(2_000) < 0.2] = np.nan
    earlier, later = (pd.Series(values.astype(np.float32)) for values in (earlier, later))
    edges = [-np.inf, *earlier.quantile(np.arange(1, 10) / 10), np.inf]
    p, q = (
        pd.cut(values, edges).value_counts(sort=False, dropna=False).to_numpy() + 0.5 for values in (earlier, later)
    )
    p, q = p / p.sum(), q / q.sum()
    began = distribution(pa.chunked_array([earlier.to_numpy()]))
    found = drift(began, pa.chunked_array([later.to_numpy()]))
    assert found.psi == pytest.approx(((q - p) * np.log(q / p)).sum(), rel=1e-3)
    assert found.missing_share == pytest.approx(later.isna().mean())
    assert found.missing_change == pytest.approx(later.isna().mean() - earlier.isna().mean())
    assert found.unseen_share is None
    assert found.psi_chance == pytest.approx(chi2.isf(0.001, 10) * (1 / 3_000 + 1 / 2_000))


def test_a_category_s_drift_by_hand() -> None:
    began = distribution(texts("a", "a", "a", "b", "b", None))
    assert began.bounds == ("a", "b")
    assert began.rows.tolist() == [1, 3, 2, 0]
    found = drift(began, texts("a", "c", "c", None, None, "b", "c", "d"))
    p, q = np.array([1.5, 3.5, 2.5, 0.5]) / 8, np.array([2.5, 1.5, 1.5, 4.5]) / 10
    assert found.psi == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert found.unseen_share == pytest.approx(4 / 8)
    assert found.missing_change == pytest.approx(2 / 8 - 1 / 6)
    pooled = 3 / 14
    assert found.missing_chance == pytest.approx(3 * np.sqrt(pooled * (1 - pooled) * (1 / 8 + 1 / 6)))


def test_values_that_the_baseline_missed_are_within_chance() -> None:
    """Every user has a distinct id: all ids of the next users are unseen, which says nothing."""
    began = distribution(texts(*(f"id {n}" for n in range(300))))
    found = drift(began, texts(*(f"id {n}" for n in range(300, 600))))
    assert found.unseen_share == 1
    assert found.unseen_chance >= 1


def test_a_category_of_too_many_values_has_no_unseen_share() -> None:
    began = distribution(texts(*(f"id {n}" for n in range(MAX_VALUES + 1)), "id 0"))
    assert began.bounds[0] == "id 0" and len(began.bounds) == MAX_VALUES
    assert began.rows.tolist() == [0, 2, *[1] * (MAX_VALUES - 1), 1]
    assert drift(began, texts("new")).unseen_share is None


@pytest.mark.parametrize("column", [numbers(None, None), texts(None, None)])
def test_a_column_that_was_empty_once_filled(column: pa.ChunkedArray) -> None:
    began = distribution(column)
    assert drift(began, column).psi == 0
    filled = numbers(1.0, None) if pa.types.is_floating(column.type) else texts("a", None)
    assert drift(began, filled).missing_change == -0.5
    assert drift(began, filled).psi > 0


def test_counts_share_bins_where_they_are_equal() -> None:
    counts = pa.chunked_array([pa.array([0] * 85 + [1] * 10 + [5] * 5, pa.int64())])
    began = distribution(counts)
    assert began.bounds == (0.0, 1.0)
    assert began.rows.tolist() == [0, 85, 10, 5]
    assert binned(began.bounds, pa.chunked_array([pa.array([None, 0, 2, 9], pa.int64())])).tolist() == [1, 1, 0, 2]


def test_the_last_bits_of_a_score_do_not_change_its_bin() -> None:
    score = np.full(1_000, 0.1)
    began = distribution(pa.chunked_array([np.nextafter(score, 0)]))
    assert drift(began, pa.chunked_array([np.nextafter(score, 1)])).psi == 0


def test_chance_exceeds_its_bound_in_one_case_of_a_thousand() -> None:
    random = np.random.default_rng(0)
    past = sum(
        psi(random.normal(size=300), random.normal(size=200)) > index_by_chance(10, 300, 200) for _ in range(4_000)
    )
    # Poisson's with mean 4: from 12 on, one case of a thousand.
    assert 0 < past < 12
