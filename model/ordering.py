"""Calibration of a funnel's stages together: no stage's score above the score of the stage before.

Every stage's map increases, so that the rows of a stage keep their order. A row's raw logits fall along the
stages, s_k <= s_(k-1). If the maps fall along the stages too, at every logit, then so do the calibrated ones:
g_k(s_k) <= g_(k-1)(s_k) <= g_(k-1)(s_(k-1)). Maps that were fitted apart are moved as little as that takes,
and where they disagree the stage with more rows there has more say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.calibration import PLATT_SHARE, SLOPES, Calibrator, sigmoid

REACH = 40.0
"""The grid goes at least as far as this logit on both sides, whatever the rows."""
EVEN_POINTS, ROW_POINTS, KNOT_POINTS = 40, 100, 60
"""Grid points evenly from end to end, at quantiles of the rows and at knots, the latter two shared out among the
stages."""
STEP = 2.0**-10
"""Grid points are multiples of this: far enough apart to divide by, and exact in float32 as the raw logits are."""
LEAST_SLOPE = PLATT_SHARE * SLOPES[0]
"""No fitted calibrator is flatter, so none is moved for the sake of its slope."""
CERTAIN = 30.0
"""Probabilities of larger logits are 0 or 1 but for 1e-13: all these count as equal."""
FAINT = 0.1
"""What a stage weighs at each grid point beside its rows, in rows: where it has none, the rows of the others
decide, and where no stage has any, all have the same say. Nearer to nothing, the search below takes long."""
TOLERANCE = 1e-8
"""In probability, when to stop."""
ITERATIONS = 500
"""As a rule some ten will do; what is left after so many is in places without rows."""


def order_stages(calibrators: Sequence[Calibrator], logits: Sequence[np.ndarray]) -> tuple[Calibrator, ...]:
    """The calibrators of a funnel's stages, first stage first, made to fall along the stages at every logit.

    ``logits`` are the raw logits of each stage's held-out rows, (n_k,), perhaps none. Calibrators that fall
    already come back as they are. Others are read off at one grid of up to 200 logits and replaced by the
    nearest maps that increase with the logit and fall along the stages: least squares in probability, each row
    counting once. For proportions that is also the most likely ordered set (Robertson, Wright and Dykstra,
    Order Restricted Statistical Inference, 1988, section 1.5), and the positives expected of all stages
    together stay as many as they were. Each keeps the name of the method it was fitted by; beyond the grid
    they run parallel.

    Raises ValueError if there are not as many arrays of logits as calibrators.

    >>> stages = [Calibrator("platt", (0.0,), (0.0,), 1.0), Calibrator("platt", (0.0,), (0.5,), 1.0)]
    >>> both = order_stages(stages, [np.zeros(300), np.zeros(100)])  # 300 rows at 1/2, 100 at sigmoid(0.5)
    >>> [round(float(sigmoid(stage(np.zeros(1)))[0]), 3) for stage in both]
    [0.531, 0.531]
    """
    if len(calibrators) != len(logits):
        raise ValueError(f"logits of {len(logits)} stages for {len(calibrators)} calibrators, not one array for each")
    if _fall_everywhere(calibrators):
        return tuple(calibrators)
    grid = _grid(calibrators, logits)
    # Without the least slope, that of a stretch where all is pooled, the rest need not increase strictly.
    ramp = LEAST_SLOPE * grid
    maps = np.stack([calibrator(grid) for calibrator in calibrators]) - ramp
    rows = np.stack([_rows_near(grid, stage.astype(np.float64)) for stage in logits])
    p = nearest_ordered(sigmoid(np.clip(maps, -CERTAIN, CERTAIN)), rows + FAINT)
    # The minimum takes back what rounding in the logarithms may have done to the order.
    ordered = np.minimum.accumulate(np.log(p) - np.log1p(-p), axis=0) + ramp
    # One slope serves both tails: were it larger for one stage, that stage would cross the others on one side.
    slope = float(np.mean([calibrator.slope for calibrator in calibrators]))
    return tuple(
        Calibrator(calibrator.method, tuple(grid.tolist()), tuple(curve.tolist()), slope)
        for calibrator, curve in zip(calibrators, ordered, strict=True)
    )


def nearest_ordered(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The matrix (T, m) nearest to ``values`` in weighted least squares whose rows never fall and whose columns
    never rise.

    The two orders are imposed in turn, each time adding back what the same order took away the time before:
    Dykstra and Robertson, "An Algorithm for Isotonic Regression for Two or More Independent Variables", Annals
    of Statistics 10(3), 1982. When the results of both turns agree, they are the solution. Whatever is left
    between them goes in a minimum along the columns, which leaves both orders exact: the minimum of rows that
    never fall never falls. What has not converged may also lie outside the range of the values: it is clipped.

    >>> nearest_ordered(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([[3.0, 1.0], [1.0, 1.0]])).tolist()
    [[0.125, 1.0], [0.125, 0.5]]
    """
    nearest = values
    from_columns = from_rows = np.zeros_like(values)
    for _ in range(ITERATIONS):
        raised = nearest + from_columns
        falling = _falling_columns(raised, weights)
        from_columns = raised - falling
        raised = falling + from_rows
        nearest = _rising_rows(raised, weights)
        from_rows = raised - nearest
        if np.abs(nearest - falling).max() <= TOLERANCE:
            break
    return np.minimum.accumulate(np.clip(nearest, values.min(), values.max()), axis=0)


def _falling_columns(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest matrix whose columns never rise, by the min-max formula: in each place, the least over starts
    above it of the greatest mean of a run from there that reaches it.

    Robertson, Wright and Dykstra 1988, section 1.4. There are few stages, so all columns are done at once.
    """
    nearest = np.full_like(values, np.inf)
    for start in range(len(values)):
        total = np.cumsum(weights[start:], axis=0)
        mean = np.cumsum(weights[start:] * values[start:], axis=0) / total
        greatest = np.maximum.accumulate(mean[::-1], axis=0)[::-1]
        nearest[start:] = np.minimum(nearest[start:], greatest)
    return nearest


def _rising_rows(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest matrix whose rows never fall, by pooling adjacent violators."""
    # Imported where it is used: a calibrator that is fitted needs none of scikit-learn.
    from sklearn.isotonic import isotonic_regression

    return np.stack(
        [isotonic_regression(row, sample_weight=weight) for row, weight in zip(values, weights, strict=True)]
    )


def _fall_everywhere(calibrators: Sequence[Calibrator]) -> bool:
    """Between neighbouring knots of all of them and beyond the last on either side they are lines, so the knots
    and the slopes tell."""
    knots = np.unique(np.concatenate([calibrator.x for calibrator in calibrators]))
    maps = np.stack([calibrator(knots) for calibrator in calibrators])
    slopes = {calibrator.slope for calibrator in calibrators}
    return len(slopes) == 1 and bool((np.diff(maps, axis=0) <= 0).all())


def _grid(calibrators: Sequence[Calibrator], logits: Sequence[np.ndarray]) -> np.ndarray:
    """Up to 200 increasing logits, with all rows and knots between the outermost: dense where rows and knots
    are."""
    stages = len(calibrators)
    rows = [_spread(stage.astype(np.float64), ROW_POINTS // stages) for stage in logits]
    knots = [_spread(np.array(calibrator.x), KNOT_POINTS // stages) for calibrator in calibrators]
    points = np.concatenate(rows + knots)
    first, last = np.floor(points.min(initial=-REACH)), np.ceil(points.max(initial=REACH))
    even = np.linspace(first, last, EVEN_POINTS)
    return np.unique(np.round(np.concatenate([points, even]) / STEP) * STEP)


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the values at even ranks, the least and the greatest among them; all if they are fewer."""
    ranks = np.linspace(0, len(values) - 1, min(count, len(values)))
    return np.sort(values)[ranks.round().astype(np.int64)]


def _rows_near(grid: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """How many rows lie at each grid point (m,); a row between two is split by its nearness to either."""
    right = np.clip(np.searchsorted(grid, logits), 1, len(grid) - 1)
    share = (logits - grid[right - 1]) / (grid[right] - grid[right - 1])
    return np.bincount(right - 1, 1.0 - share, len(grid)) + np.bincount(right, share, len(grid))
