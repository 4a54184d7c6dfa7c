"""Scales: each transform, and statistics of a stream of numbers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.inputs import statistics
from model.inputs.feature_spec import FeatureSpec
from model.inputs.numeric import FittedNumeric, NormalScores, Numeric, NumericFit, Standardiser
from model.inputs.statistics import Moments, UniformSample


def fitted(column, feature):
    return FeatureSpec.fit([feature], pa.table({feature.name: column}))


def dense(spec, column):
    return spec.encode(pa.table({"x": column})).dense.tolist()


def normal_scores(column, values):
    return np.array(dense(fitted(column, Numeric("x", transform="quantile")), values))[:, 0]


def test_numeric_is_standardised_with_an_indicator_for_missing():
    spec = fitted([1.0, 3.0, None], Numeric("x"))
    assert dense(spec, [3.0, None, float("nan"), float("inf"), 1e300]) == [[1.0, 0.0]] + [[0.0, 1.0]] * 4


@pytest.mark.parametrize("transform", ["standard", "log", "quantile"])
def test_a_numeric_never_missing_in_training_later_reads_as_the_middle(transform):
    spec = fitted([-3.0, 0.0, 3.0], Numeric("x", transform=transform))
    assert dense(spec, [None, 0.0]) == [[0.0], [0.0]]


def test_log_is_signed():
    spec = fitted([-np.expm1(2.0), np.expm1(2.0)], Numeric("x", transform="log"))
    assert np.ravel(dense(spec, [np.expm1(1.0), 0.0])).tolist() == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("transform", ["standard", "log"])
def test_outliers_and_constants_stay_finite(transform):
    spec = fitted([0.1] * 11, Numeric("x", transform=transform))
    assert dense(spec, [0.1]) == [[0.0]]
    assert dense(spec, [1e30, -1e30]) == [[10.0], [-10.0]]


@pytest.mark.parametrize("transform", ["standard", "log", "quantile"])
@pytest.mark.parametrize("column", [pa.nulls(2), pa.array([None, float("nan")], pa.float64())])
def test_a_column_of_only_missing_numbers_can_be_fitted_and_served(transform, column):
    spec = fitted(column, Numeric("x", transform=transform))
    assert dense(spec, column) == [[0.0, 1.0], [0.0, 1.0]]
    assert spec.edges == ((-1.0, 1.0),)


def test_encoding_does_not_change_the_table():
    for transform in ("standard", "log", "quantile"):
        values = np.array([1.0, np.inf, np.nan])
        dense(fitted([1.0, 2.0], Numeric("x", transform=transform)), values)
        np.testing.assert_array_equal(values, [1.0, np.inf, np.nan])


@settings(deadline=None)
@given(
    st.lists(st.none() | st.floats() | st.sampled_from([3.4028235e38, 3.5e38, -0.0, 1e-320]), max_size=30),
    st.sampled_from([pa.float32(), pa.float64()]),
    st.floats(-1e30, 1e30),
    st.floats(1e-30, 3e38),
)
def test_values_are_standardised_in_float64_and_rounded_once(values, kind, mean, scale):
    column = pa.array(values, pa.float64()).cast(kind, safe=False)
    numeric_ = FittedNumeric(Numeric("x"), Standardiser(mean, scale), indicator=True, edges=(0.0, 1.0))
    expected = []
    for value in column.to_pylist():
        missing = value is None or not abs(value) <= float(np.finfo(np.float32).max)
        expected.append([0.0, 1.0] if missing else [min(max((value - mean) / scale, -10.0), 10.0), 0.0])
    encoded = FeatureSpec((), (), (numeric_,)).encode(pa.table({"x": column})).dense.numpy()
    np.testing.assert_array_equal(encoded, np.array(expected, np.float32).reshape(-1, 2))


def test_quantiles_map_to_those_of_a_standard_normal():
    draw = np.random.default_rng(0)
    scores = normal_scores(np.exp(3 * draw.normal(size=20_000)), np.exp(3 * draw.normal(size=20_000)))
    np.testing.assert_allclose(np.quantile(scores, [0.02, 0.16, 0.5, 0.84, 0.98]), [-2.05, -1, 0, 1, 2.05], atol=0.05)


def test_a_frequent_value_sits_in_the_middle_of_its_share():
    # In the order of 5 references, 1 spans the shares 0.25 to 0.75, and 5 spans 0 to 1.
    assert normal_scores([0.0, 1.0, 1.0, 1.0, 2.0], [1.0]).tolist() == [0.0]
    assert normal_scores([5.0] * 5, [5.0]).tolist() == [0.0]
    # 0 spans 0 to 0.5, its middle 0.25 being -0.6745; 0.5 lies halfway from 0.5 to 0.75.
    assert normal_scores([0.0, 0.0, 0.0, 1.0, 2.0], [0.0, 0.5]).tolist() == pytest.approx([-0.67449, 0.31864], abs=1e-5)


def test_values_beyond_all_training_values_stay_within_5_point_2():
    scores = normal_scores([0.0, 1.0, 2.0], [-1e30, -0.001, 0.0, 2.0, 1e30])
    np.testing.assert_allclose(scores, [-5.1993] * 3 + [5.1993] * 2, atol=1e-4)


@pytest.mark.parametrize("rows", [40, 257, 5_000])
def test_normal_scores_match_scikit_learn_except_for_ties_at_either_end(rows):
    from sklearn.preprocessing import QuantileTransformer

    draw = np.random.default_rng(rows)
    values = np.round(draw.gamma(2.0, 2.0, rows), 1)
    values[: rows // 3] = 2.5
    values[draw.permutation(rows)[: rows // 10]] = np.nan
    known = values[~np.isnan(values)]
    reference = QuantileTransformer(n_quantiles=min(len(known), 257), output_distribution="normal", subsample=None)
    served = np.concatenate([known, draw.uniform(-1, 30, 1_000), [-5.0, 1e6]])
    expected = reference.fit(known[:, None]).transform(served[:, None])[:, 0]
    ours = normal_scores(values, served)
    inside = (served != known.min()) & (served != known.max())
    np.testing.assert_allclose(ours[inside], expected[inside], atol=0.015)  # one reference more or less is a tie
    between = ~np.isin(served, known)
    np.testing.assert_allclose(ours[between], expected[between], atol=1e-5)


def test_edges_are_quantiles_of_the_encoded_values():
    spec = fitted(np.arange(641.0), Numeric("x"))
    expected = (np.arange(0.0, 641.0, 10.0) - 320.0) / np.arange(641.0).std()
    np.testing.assert_allclose(spec.edges[0], expected, atol=1e-5)
    assert fitted([0.0] * 900 + [1.0] * 100, Numeric("x")).edges[0] == pytest.approx((-1 / 3, 3.0), abs=1e-5)


@settings(deadline=None)
@given(
    st.lists(st.none() | st.floats(width=64) | st.sampled_from([0.0, 1e-40, 1.0]), min_size=1, max_size=80),
    st.sampled_from(["standard", "log", "quantile"]),
)
def test_edges_are_distinct_in_float32(values, transform):
    (edges,) = fitted(pa.array(values, pa.float64()), Numeric("x", transform=transform)).edges
    assert 2 <= len(edges) <= 65
    assert np.diff(np.float32(edges)).min() > 1e-6


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e30, 1e30) | st.floats(1e15, 1e15 + 8), min_size=1, max_size=30),
    st.lists(st.integers(0, 30), max_size=4),
)
def test_moments_do_not_depend_on_batch_boundaries(values, cuts):
    whole, parts = Moments(), Moments()
    whole.add(np.array(values))
    for part in np.split(np.array(values), sorted(cuts)):
        parts.add(part)
    assert parts.scale == pytest.approx(whole.scale, rel=1e-9)
    assert abs(parts.mean - whole.mean) <= 1e-9 * max(whole.scale, abs(whole.mean))


def test_moments_are_exact_far_from_zero():
    moments = Moments()
    for part in np.split(1e12 + np.arange(1000.0), 7 * np.arange(1, 100)):
        moments.add(part)
    assert moments.mean == 1e12 + 499.5
    assert moments.scale == pytest.approx(((1000**2 - 1) / 12) ** 0.5, rel=1e-12)


def test_a_sample_is_uniform_and_does_not_depend_on_batch_boundaries(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 500)
    values = np.random.default_rng(1).permutation(20_000).astype(float)
    samples = []
    for pieces in (1, 3, 777):
        sample = UniformSample()
        for piece in np.array_split(values, pieces):
            sample.add(piece)
        samples.append(sample.sorted())
    assert len(samples[0]) == 500
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])
    counts = np.histogram(np.flatnonzero(np.isin(values, samples[0])), 10, (0, 20_000))[0]
    assert counts.min() > 25 and counts.max() < 75  # 50 +- 7 in each tenth of the stream


def test_sampled_quantiles_are_close(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE_ROWS", 10_000)
    fit = NumericFit(Numeric("x", transform="quantile"))
    for start in range(0, 100_000, 10_000):  # sorted: a sample of the first or last rows would be far off
        fit.add(pa.record_batch({"x": np.arange(start, start + 10_000)}))
    scaler = fit.finish().scaler
    assert isinstance(scaler, NormalScores)
    np.testing.assert_allclose(np.array(scaler.quantiles) / 100_000, np.linspace(0, 1, 257), atol=0.02)


def test_an_unknown_transform_is_rejected():
    with pytest.raises(ValueError, match=r"'age'.*transform is 'sqrt', not one of standard, log, quantile"):
        Numeric("age", transform="sqrt")
