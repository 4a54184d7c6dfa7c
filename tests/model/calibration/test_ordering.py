"""Calibrators made to fall along a funnel's stages."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model.calibration.calibrators import IDENTITY, Calibrator, calibrate, sigmoid
from model.calibration.ordering import measure_gaps, order_stages, project_to_order
from model.metrics import expected_calibration_error


def platt(slope, shift):
    return Calibrator("platt", (0.0,), (shift,), slope)


def curve(start, steps, slope):
    """Knots from ``start``, each one step right of and above the last."""
    x, y = np.cumsum([start, *steps], axis=0).T
    return Calibrator("isotonic", tuple(x.tolist()), tuple(y.tolist()), slope)


SLOPE = st.floats(-3, 3).map(np.exp)
STEP = st.tuples(st.floats(1e-3, 4), st.floats(1e-4, 6))
LINE = st.builds(platt, SLOPE, st.floats(-8, 8))
CURVE = st.builds(curve, st.tuples(st.floats(-20, 5), st.floats(-20, 5)), st.lists(STEP, max_size=20), SLOPE)
LOGITS = arrays.arrays(np.float32, st.integers(0, 60), elements=st.floats(-40, 40, width=32))
STAGES = st.lists(st.tuples(LINE | CURVE, LOGITS), min_size=1, max_size=4)


def along_stages(calibrators, logits):
    return np.stack([calibrator(logits) for calibrator in calibrators])


@settings(max_examples=30, deadline=None)
@given(stages=STAGES, probes=arrays.arrays(np.float64, 50, elements=st.floats(-60, 60)))
def test_stages_fall_at_every_logit_and_every_map_still_rises(stages, probes):
    calibrators, logits = zip(*stages, strict=True)
    ordered = order_stages(calibrators, logits)
    probes = np.unique(np.concatenate([probes, np.linspace(-60, 60, 2001), [-1e4, 1e4], *logits]).round(4))
    maps = along_stages(ordered, probes)
    rounding = 4 * np.spacing(np.abs(maps).max(0))
    assert (np.diff(maps, axis=0) <= rounding).all()
    assert (np.diff(maps, axis=1) > 0).all()
    assert [stage.method for stage in ordered] == [stage.method for stage in calibrators]
    assert all(len(stage.x) <= 200 for stage in ordered)
    restored = [Calibrator.from_dict(json.loads(json.dumps(stage.to_dict(), allow_nan=False))) for stage in ordered]
    assert tuple(restored) == ordered
    # Stages that already fall stay unchanged.
    again = order_stages(ordered, logits)
    assert all(before is after for before, after in zip(ordered, again, strict=True))


@settings(max_examples=15, deadline=None)
@given(stages=STAGES, seed=st.integers(0, 2**32 - 1))
def test_neighbouring_float32_logits_stay_distinct(stages, seed):
    ordered = order_stages(*zip(*stages, strict=True))
    draw = np.random.default_rng(seed)
    logits = (draw.uniform(0.001, 40, 500) * draw.choice([-1, 1], 500)).astype(np.float32)
    above = np.nextafter(logits, np.float32(np.inf))
    if ordered[0] is not stages[0][0]:  # calibrators returned unchanged may be flatter
        assert (
            along_stages(ordered, above.astype(np.float64)) > along_stages(ordered, logits.astype(np.float64))
        ).all()


@settings(max_examples=15, deadline=None)
@given(stages=STAGES, seed=st.integers(0, 2**32 - 1))
def test_calibrated_scores_fall_and_keep_the_order_of_rows(stages, seed):
    ordered = order_stages(*zip(*stages, strict=True))
    draw = np.random.default_rng(seed)
    raw = np.minimum.accumulate(draw.normal(-2.0, 3.0, (300, len(stages))).astype(np.float32), axis=1)
    calibrated = np.stack([stage(column.astype(np.float64)) for stage, column in zip(ordered, raw.T, strict=True)], 1)
    assert (np.diff(calibrated, axis=1) <= 4 * np.spacing(np.abs(calibrated[:, 1:]))).all()
    calibrated = np.minimum.accumulate(calibrated, axis=1)
    for before, after in zip(raw.T, calibrated.T, strict=True):
        np.testing.assert_array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))


def test_stages_that_already_fall_are_returned_unchanged():
    logits = [np.zeros(5)] * 3
    for stages in (
        [platt(2.0, 1.0), platt(2.0, 1.0), platt(2.0, -1.0)],
        [curve((0.0, 0.0), [(1.0, 1.0), (1.0, 3.0)], 1.0), platt(1.0, 0.0), platt(1.0, -0.5)],
        [IDENTITY] * 3,
    ):
        assert all(a is b for a, b in zip(order_stages(stages, logits), stages, strict=True))
    alone = platt(3.0, 1.0)
    assert order_stages([alone], [np.empty(0)])[0] is alone


@pytest.mark.parametrize(
    "stages",
    [
        [platt(1.0, 0.0), platt(1.0, 1e-6)],  # everywhere, by very little
        [platt(1.0, 5.0), platt(1.001, 0.0)],  # only beyond 5000
        [platt(1.0, 0.0), curve((-2.0, -2.5), [(1.0, 2.0), (2.0, 0.5)], 1.0)],  # only at one knot inside
    ],
)
def test_any_crossing_is_found(stages):
    ordered = order_stages(stages, [np.empty(0)] * 2)
    probes = np.array([-1e6, -1.0, 0.0, 1.0, 1e6])
    assert np.diff(along_stages(stages, probes), axis=0).max() > 0
    assert np.diff(along_stages(ordered, probes), axis=0).max() <= 0


@pytest.mark.parametrize("crowded", [0, 1])
def test_where_maps_cross_the_stage_with_more_rows_prevails(crowded):
    lines = [platt(0.5, 0.0), platt(1.5, 0.0)]  # the second is above from 0 on
    logits = [np.linspace(-6, -3, 2_000)] * 2
    logits[crowded] = np.linspace(-1, 3, 2_000)
    ordered = order_stages(lines, logits)
    crossing = np.linspace(0.2, 2.8, 50)
    wanted = sigmoid(lines[crowded](crossing))
    assert np.abs(sigmoid(lines[1 - crowded](crossing)) - wanted).max() > 0.15
    for stage in ordered:
        assert np.abs(sigmoid(stage(crossing)) - wanted).max() < 0.003
    # Where they do not cross, both stay, up to interpolation between grid points.
    apart = np.linspace(-8, -0.2, 50)
    assert along_stages(ordered, apart) == pytest.approx(along_stages(lines, apart), abs=1e-6)


def test_stages_with_rows_at_the_same_logit_are_averaged_in_proportion():
    # 3000 rows at 1/2 and 1000 at 3/4 make 4000 at 9/16.
    stages = order_stages([IDENTITY, platt(1.0, np.log(3.0))], [np.zeros(3_000), np.zeros(1_000)])
    for stage in stages:
        assert sigmoid(stage(np.zeros(1)))[0] == pytest.approx(9 / 16, abs=1e-4)


def test_ordering_preserves_the_expected_number_of_positives():
    draw = np.random.default_rng(0)
    logits = [draw.normal(-1.0, 1.0, 4_000), draw.normal(-2.0, 1.5, 3_000), draw.normal(-3.0, 1.0, 2_000)]
    stages = [platt(0.8, 0.0), platt(1.3, 0.5), platt(0.9, 0.2)]

    def expected(calibrators):
        return sum(sigmoid(stage(rows)).sum() for stage, rows in zip(calibrators, logits, strict=True))

    assert expected(order_stages(stages, logits)) == pytest.approx(expected(stages), rel=2e-3)


def funnel(rows, seed):
    """Raw logits (n, 3) of a chain, and labels whose true logits in stages 2 and 3 are higher by 0.3."""
    draw = np.random.default_rng(seed)
    conditional = draw.normal([-1.0, -2.0, -2.0], 0.5, (rows, 3))
    p = np.cumprod(sigmoid(conditional), axis=1)
    raw = np.log(p) - np.log1p(-p)
    return raw, (draw.random((rows, 3)) < sigmoid(raw + np.array([0.0, 0.3, 0.3]))).astype(np.float64)


@pytest.mark.slow
def test_ordering_costs_little_calibration_unlike_a_running_minimum():
    raw, labels = funnel(100_000, seed=0)
    apart = [calibrate(raw[:, stage], labels[:, stage], seed=0)[0] for stage in range(3)]
    ordered = order_stages(apart, list(raw.T))
    fresh, fresh_labels = funnel(200_000, seed=1)

    def errors(maps):
        return np.array(
            [
                expected_calibration_error(fresh_labels[:, stage], sigmoid(maps(stage, fresh[:, stage])))
                for stage in range(3)
            ]
        )

    before = errors(lambda stage, logits: apart[stage](logits))
    after = errors(lambda stage, logits: ordered[stage](logits))
    minimum = errors(lambda stage, logits: along_stages(apart[: stage + 1], logits).min(0))
    assert (after <= before + 0.002).all()
    assert minimum[1] > before[1] + 0.008
    assert minimum[2] > 2 * before[2] and after[2] < 1.2 * before[2]


def project_by_formula(values, weights):
    """The min-max formula: maximum over upper sets of the minimum over lower sets of the mean of their overlap."""
    stages, points = values.shape
    starts = itertools.combinations_with_replacement(range(points + 1), stages)
    upper = [np.arange(points) >= np.array(start)[:, None] for start in starts]
    nearest = np.empty_like(values)
    for cell in np.ndindex(*values.shape):
        nearest[cell] = max(
            min(np.average(values[u & ~lower], weights=weights[u & ~lower]) for lower in upper if not lower[cell])
            for u in upper
            if u[cell]
        )
    return nearest


@settings(max_examples=15, deadline=None)
@given(
    values=arrays.arrays(np.float64, (3, 3), elements=st.floats(0, 1)),
    weights=arrays.arrays(np.float64, (3, 3), elements=st.floats(-12, 12).map(np.exp)),
)
def test_the_nearest_ordered_matrix_matches_the_min_max_formula(values, weights):
    nearest = project_to_order(values, weights)
    assert (np.diff(nearest, axis=1) >= 0).all() and (np.diff(nearest, axis=0) <= 0).all()
    assert nearest == pytest.approx(project_by_formula(values, weights), abs=1e-9)


def test_logits_are_required_for_each_calibrator():
    with pytest.raises(ValueError, match="logits of 1 stages for 2 calibrators"):
        order_stages([IDENTITY, IDENTITY], [np.zeros(3)])


@settings(max_examples=20, deadline=None)
@given(stages=STAGES, seed=st.integers(0, 2**32 - 1))
def test_rows_that_keep_their_gaps_fall_and_keep_their_order(stages, seed):
    draw = np.random.default_rng(seed)
    distance = draw.uniform(0, 2, len(stages))
    raw = draw.normal(3.0, 3.0, (200, 1)) - np.cumsum(draw.exponential(1.0, (200, len(stages))) + distance, axis=1)
    raw = raw.astype(np.float32).astype(np.float64)
    ordered = order_stages(*zip(*stages, strict=True), gaps=measure_gaps(raw))
    calibrated = np.stack([stage(column) for stage, column in zip(ordered, raw.T, strict=True)], 1)
    assert (np.diff(calibrated, axis=1) <= 4 * np.spacing(np.abs(calibrated[:, 1:]))).all()
    assert (np.argsort(calibrated, axis=0, kind="stable") == np.argsort(raw, axis=0, kind="stable")).all()


def test_gaps_spare_maps_that_cross_only_where_no_row_is():
    lines, logits = [IDENTITY, platt(1.0, 0.3)], [np.linspace(-3, 0, 500), np.linspace(-5, -1, 500)]
    assert order_stages(lines, logits, gaps=[0.5])[1] is lines[1]
    assert order_stages(lines, logits, gaps=[0.2])[1](np.array([-2.0]))[0] < -1.7 - 0.01
    assert measure_gaps(np.array([[1.0, 0.5, 0.5], [0.0, -1.0, -3.0]])).tolist() == [0.5, 0.0]
