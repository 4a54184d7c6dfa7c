"""Calibrators, and the metrics of calibration."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model.calibration.calibrators import Calibrator, calibrate, fit_isotonic, fit_platt, sigmoid
from model.metrics import TaskMetrics, expected_calibration_error, log_loss, reliability


def drawn(rows, distort, seed=0):
    """Distorted logits, labels drawn from the true logits, and the true logits."""
    draw = np.random.default_rng(seed)
    truth = draw.normal(-2.0, 1.2, rows)
    return distort(truth), (draw.random(rows) < sigmoid(truth)).astype(np.float32), truth


def line(logits):
    return 2.0 * logits + 1.5


def steps(logits):
    """Monotone and far from a line: flat except for two jumps."""
    return 0.05 * logits + 3.0 * (logits > -1.0) + 2.0 * (logits > -3.0)


@pytest.mark.parametrize(("distort", "method"), [(line, "platt"), (steps, "isotonic")])
def test_a_planted_miscalibration_is_corrected(distort, method):
    logits, labels, _ = drawn(20_000, distort)
    calibrator, cross_fitted = calibrate(logits, labels, seed=0)
    assert calibrator.method == method
    fresh, fresh_labels, truth = drawn(20_000, distort, seed=1)
    corrected = sigmoid(calibrator(fresh))
    assert expected_calibration_error(fresh_labels, corrected) < 0.015
    assert expected_calibration_error(fresh_labels, sigmoid(fresh)) > 0.05
    assert log_loss(fresh_labels, corrected) == pytest.approx(log_loss(labels, sigmoid(cross_fitted)), abs=0.02)
    if method == "platt":
        assert log_loss(fresh_labels, corrected) == pytest.approx(log_loss(fresh_labels, sigmoid(truth)), abs=1e-3)


def test_isotonic_is_not_chosen_for_a_lucky_curve():
    logits, labels, _ = drawn(20_000, lambda truth: truth)
    assert calibrate(logits, labels, seed=0)[0].method == "platt"


def test_too_few_positives_leave_scores_raw_and_few_allow_only_platt():
    logits, _, _ = drawn(2_000, steps)
    labels = np.zeros(2_000)
    labels[:9] = 1
    assert calibrate(logits, labels, seed=0)[0].method == "identity"
    labels[:150] = 1
    assert calibrate(logits, labels, seed=0)[0].method == "platt"
    assert calibrate(logits, np.ones(2_000), seed=0)[0].method == "identity"


def test_scores_in_the_wrong_order_are_flattened_not_reversed():
    logits, labels, _ = drawn(5_000, lambda truth: -truth)
    calibrator, _ = calibrate(logits, labels, seed=0)
    assert calibrator.slope > 0
    assert sigmoid(calibrator(logits)).mean() == pytest.approx(labels.mean(), rel=0.05)


samples = st.integers(2, 60).flatmap(
    lambda rows: st.tuples(
        arrays.arrays(np.float32, rows, elements=st.floats(-30, 30, width=32)),
        arrays.arrays(np.float64, rows, elements=st.sampled_from([0.0, 1.0])),
    )
)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
@given(sample=samples)
def test_calibrators_keep_the_order_within_a_stage(fit, sample):
    logits, labels = sample[0].astype(np.float64), sample[1]
    calibrator = fit(logits, labels)
    probes = np.unique(np.concatenate([np.linspace(-40, 40, 801), logits]).round(4))
    assert (np.diff(calibrator(probes)) > 0).all() and np.isfinite(calibrator(probes)).all()
    restored = Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(restored(probes), calibrator(probes))


def test_isotonic_matches_a_manual_calculation():
    # Scores 0 and 1, whose rates 1/2 and 1/4 fall, pool to 2/6 at their centre; score 2 has rate 3/4.
    logits = np.repeat([0.0, 1.0, 2.0], [2, 4, 4])
    labels = np.array([1, 0, 1, 0, 0, 0, 1, 1, 1, 0])
    calibrator = fit_isotonic(logits, labels)
    assert calibrator.x == pytest.approx((4 / 6, 2.0))
    assert sigmoid(np.array(calibrator.y)) == pytest.approx([2 / 6, 3 / 4], abs=0.005)


def test_calibration_error_matches_a_manual_calculation():
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    p = np.array([0.1, 0.1, 0.3, 0.3, 0.6, 0.6, 0.8, 0.8])
    # Four bins of two rows: gaps |0.1-0|, |0.3-0.5|, |0.6-1|, |0.8-0.5|.
    assert expected_calibration_error(labels, p, bins=4) == pytest.approx((0.1 + 0.2 + 0.4 + 0.3) / 4)


def test_equal_scores_share_a_bin_in_any_row_order():
    labels = np.array([1, 0, 0, 0] * 25)
    table = reliability(labels, np.full(100, 0.25))
    assert table.rows.tolist() == [100]
    assert expected_calibration_error(np.sort(labels), np.full(100, 0.25)) == pytest.approx(0.0)


def test_metrics_without_rows_are_none():
    empty = np.empty(0)
    figures = TaskMetrics.measure(empty, raw=empty, calibrated=empty)
    assert (figures.rows, figures.auc, figures.log_loss, figures.ece) == (0, None, None, None)
