"""Joint calibration of a funnel's stages: no stage's score exceeds that of the stage before.

Every stage's map increases, so that the rows of a stage keep their order. A row's raw logits fall along the stages,
s_k <= s_(k-1). If the maps also fall along the stages, at every logit, then so do the calibrated logits:
g_k(s_k) <= g_(k-1)(s_k) <= g_(k-1)(s_(k-1)). If every row's logit is at least m below that of the stage before,
g_k(z) <= g_(k-1)(z + m) is enough, and costs far less correction: no row is certain to go on. Separately fitted maps
are moved as little as that takes; where they conflict, the stage with more rows there carries more weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.calibration.calibrators import PLATT_SHARE, SLOPE_RANGE, Calibrator, sigmoid

GRID_REACH = 40.0
"""The grid extends at least to this logit on both sides, whatever the rows."""
EVEN_POINTS, ROW_POINTS, KNOT_POINTS = 40, 100, 60
"""Grid points that are evenly spaced, at quantiles of the rows, and at knots; the latter two are split among stages."""
GRID_STEP = 2.0**-10
"""Grid points are multiples of this: far enough apart to divide by, and exact in float32, as raw logits are."""
MIN_SLOPE = PLATT_SHARE * SLOPE_RANGE[0]
"""No fitted calibrator is flatter, so none is moved for its slope alone. With this slope, neighbouring float32 logits
further than 0.001 from 0 stay distinct in float64."""
MAX_LOGIT = 30.0
"""Larger logits count as equal: their probabilities are within 1e-13 of 0 or 1."""
MIN_WEIGHT = 1e-3
"""Weight, in rows, that every stage has at each grid point in addition to its rows: where it has none, any row of
another stage decides; where no stage has rows, all weigh the same."""


def measure_gaps(raw: np.ndarray) -> np.ndarray:
    """Measure the smallest gap between each stage's logit and that of the stage before.

    **Shape**: rows (n, T) -> (T - 1,).

    >>> measure_gaps(np.array([[0.0, -1.0], [2.0, 1.5]])).tolist()
    [0.5]
    """
    gaps = -np.diff(raw, axis=1).max(axis=0, initial=-GRID_REACH)
    return np.maximum(np.floor(gaps / GRID_STEP) * GRID_STEP, 0.0)


def order_stages(
    calibrators: Sequence[Calibrator], logits: Sequence[np.ndarray], *, gaps: Sequence[float] | None = None
) -> tuple[Calibrator, ...]:
    """Make a funnel's calibrators, first stage first, fall along the stages.

    Calibrators that already do are returned unchanged. The others are evaluated on a shared grid of up to 200 logits
    and replaced by the nearest maps that increase with the logit and fall along the stages: least squares in
    probability, each row counting once. For proportions, this is also the maximum likelihood estimate under the order
    (Robertson, Wright and Dykstra, Order Restricted Statistical Inference, 1988, section 1.5), and it preserves the
    expected number of positives over all stages. Each keeps the name of the method that fitted it; beyond the grid all
    run parallel.

    Args:
        calibrators: One per stage.
        logits: Raw logits of each stage's held-out rows, (n_k,), possibly none.
        gaps: By how much logits fall from stage to stage at least, (T - 1,): the result falls for every row that keeps
            these gaps. By default, for every row whose logits fall at all.

    Raises:
        ValueError: The numbers of calibrators and of arrays of logits differ.

    >>> stages = [Calibrator("platt", (0.0,), (0.0,), 1.0), Calibrator("platt", (0.0,), (0.5,), 1.0)]
    >>> both = order_stages(stages, [np.zeros(300), np.zeros(100)])  # 300 rows at 1/2, 100 at sigmoid(0.5)
    >>> [round(float(sigmoid(stage(np.zeros(1)))[0]), 3) for stage in both]
    [0.531, 0.531]
    """
    if len(calibrators) != len(logits):
        raise ValueError(f"logits of {len(logits)} stages for {len(calibrators)} calibrators, not one array for each")
    if gaps is not None:
        # Shifted right by the gaps before it, a stage that keeps its gaps simply falls.
        below = np.concatenate([[0.0], np.cumsum(gaps)])
        moved = [_shift(calibrator, by) for calibrator, by in zip(calibrators, below, strict=True)]
        fallen = order_stages(moved, [stage + by for stage, by in zip(logits, below, strict=True)])
        return tuple(
            own if after is before else _shift(after, -by)
            for own, before, after, by in zip(calibrators, moved, fallen, below, strict=True)
        )
    if _is_ordered(calibrators):
        return tuple(calibrators)
    grid = _build_grid(calibrators, logits)
    # Subtracted here and added back at the end, so that a stretch pooled to one value still rises.
    ramp = MIN_SLOPE * grid
    maps = np.stack([calibrator(grid) for calibrator in calibrators]) - ramp
    rows = np.stack([_count_rows_near(grid, stage.astype(np.float64)) for stage in logits])
    p = project_to_order(sigmoid(np.clip(maps, -MAX_LOGIT, MAX_LOGIT)), rows + MIN_WEIGHT)
    # The minimum undoes any violation of the order by rounding in the logarithms.
    ordered = np.minimum.accumulate(np.log(p) - np.log1p(-p), axis=0) + ramp
    # All stages share one slope: a stage with a larger one would cross the others in one of the tails.
    slope = float(np.mean([calibrator.slope for calibrator in calibrators]))
    return tuple(
        Calibrator(calibrator.method, tuple(grid.tolist()), tuple(curve.tolist()), slope)
        for calibrator, curve in zip(calibrators, ordered, strict=True)
    )


def project_to_order(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Find the matrix nearest to ``values``, in weighted least squares, whose rows never fall and columns never rise.

    A block of cells, initially all of them, is split in two where that gains most, and so are its parts, until no split
    gives the upper part the greater mean: Spouge, Wan and Wilbur, "Least Squares Isotonic Regression in Two
    Dimensions", Journal of Optimization Theory and Applications 117(3), 2003. No split ever needs undoing, so the
    result is exact, however unequal the weights.

    **Shape**: ``values`` and ``weights`` (T, m) -> (T, m).

    >>> project_to_order(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([[3.0, 1.0], [1.0, 1.0]])).tolist()
    [[0.125, 1.0], [0.125, 0.5]]
    """
    nearest = np.empty_like(values)
    blocks = [np.ones(values.shape, np.bool_)]
    while blocks:
        block = blocks.pop()
        mean = _average(values, weights, block)
        upper = block & _find_best_upper_set(np.where(block, weights * (values - mean), 0.0))
        lower = block & ~upper
        if upper.any() and lower.any() and _average(values, weights, upper) > _average(values, weights, lower):
            blocks += [upper, lower]
        else:
            nearest[block] = mean
    # Rounding may have separated equal values. Running maxima along rows keep columns from rising, and running minima
    # along columns keep rows from falling.
    return np.minimum.accumulate(np.maximum.accumulate(nearest, axis=1), axis=0)


def _find_best_upper_set(gains: np.ndarray) -> np.ndarray:
    """Find the set with the greatest total gain, bool (T, m), that contains everything right of and above its cells.

    In no row does such a set start further left than in the row above, so dynamic programming finds the best starts
    row by row.
    """
    from_start_on = np.pad(np.cumsum(gains[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
    totals = [from_start_on[0]]
    for row in from_start_on[1:]:
        totals.append(row + np.maximum.accumulate(totals[-1]))
    starts = [int(totals[-1].argmax())]
    for total in totals[-2::-1]:
        starts.append(int(total[: starts[-1] + 1].argmax()))
    return np.arange(gains.shape[1]) >= np.array(starts[::-1])[:, None]


def _average(values: np.ndarray, weights: np.ndarray, block: np.ndarray) -> float:
    return float((values[block] * weights[block]).sum() / weights[block].sum())


def _shift(calibrator: Calibrator, by: float) -> Calibrator:
    """The same map for logits larger by ``by``."""
    return replace(calibrator, x=tuple(each + by for each in calibrator.x))


def _is_ordered(calibrators: Sequence[Calibrator]) -> bool:
    """Whether the maps fall along the stages. Knots and slopes decide, since elsewhere all maps are lines."""
    knots = np.unique(np.concatenate([calibrator.x for calibrator in calibrators]))
    maps = np.stack([calibrator(knots) for calibrator in calibrators])
    slopes = {calibrator.slope for calibrator in calibrators}
    return len(slopes) == 1 and bool((np.diff(maps, axis=0) <= 0).all())


def _build_grid(calibrators: Sequence[Calibrator], logits: Sequence[np.ndarray]) -> np.ndarray:
    """Build up to 200 increasing logits that span all rows and knots and are dense where those are."""
    stages = len(calibrators)
    rows = [_pick_evenly(stage.astype(np.float64), ROW_POINTS // stages) for stage in logits]
    knots = [_pick_evenly(np.array(calibrator.x), KNOT_POINTS // stages) for calibrator in calibrators]
    points = np.concatenate(rows + knots)
    first, last = np.floor(points.min(initial=-GRID_REACH)), np.ceil(points.max(initial=GRID_REACH))
    even = np.linspace(first, last, EVEN_POINTS)
    return np.unique(np.round(np.concatenate([points, even]) / GRID_STEP) * GRID_STEP)


def _pick_evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Pick ``count`` values at evenly spaced ranks, including minimum and maximum; all values if there are fewer."""
    ranks = np.linspace(0, len(values) - 1, min(count, len(values)))
    return np.sort(values)[ranks.round().astype(np.int64)]


def _count_rows_near(grid: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Count the rows at each grid point, (m,); a row between two points is split by its distance to each."""
    right = np.clip(np.searchsorted(grid, logits), 1, len(grid) - 1)
    share = (logits - grid[right - 1]) / (grid[right] - grid[right - 1])
    return np.bincount(right - 1, 1.0 - share, len(grid)) + np.bincount(right, share, len(grid))
