"""Calibration of a funnel's stages together: no stage's score above the score of the stage before.

Every stage's map increases, so that the rows of a stage keep their order. A row's raw logits fall along the
stages, s_k <= s_(k-1). If the maps fall along the stages too, at every logit, then so do the calibrated ones:
g_k(s_k) <= g_(k-1)(s_k) <= g_(k-1)(s_(k-1)). Where a stage's logit lies at least m below that of the stage
before, g_k(z) <= g_(k-1)(z + m) is enough, and much cheaper: nobody is sure to go on. Maps that were fitted
apart are moved as little as that takes, and where they disagree the stage with more rows there has more say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.calibration.calibrators import PLATT_SHARE, SLOPE_RANGE, Calibrator, sigmoid

GRID_REACH = 40.0
"""The grid goes at least as far as this logit on both sides, whatever the rows."""
EVEN_POINTS, ROW_POINTS, KNOT_POINTS = 40, 100, 60
"""Grid points evenly from end to end, at quantiles of the rows and at knots, the latter two shared out among the
stages."""
GRID_STEP = 2.0**-10
"""Grid points are multiples of this: far enough apart to divide by, and exact in float32 as the raw logits are."""
MIN_SLOPE = PLATT_SHARE * SLOPE_RANGE[0]
"""No fitted calibrator is flatter, so none is moved for the sake of its slope. With it float32 neighbours further
from 0 than 0.001 stay apart in float64."""
MAX_LOGIT = 30.0
"""Probabilities of larger logits are 0 or 1 but for 1e-13: all these count as equal."""
MIN_WEIGHT = 1e-3
"""What a stage weighs at each grid point beside its rows, in rows: where it has none, any row of another stage
decides, and where no stage has one, all have the same say."""


def measure_gaps(raw: np.ndarray) -> np.ndarray:
    """By how much each stage's logit lies below that of the stage before, at least, (T - 1,), over rows (n, T).

    >>> measure_gaps(np.array([[0.0, -1.0], [2.0, 1.5]])).tolist()
    [0.5]
    """
    gaps = -np.diff(raw, axis=1).max(axis=0, initial=-GRID_REACH)
    return np.maximum(np.floor(gaps / GRID_STEP) * GRID_STEP, 0.0)


def order_stages(
    calibrators: Sequence[Calibrator], logits: Sequence[np.ndarray], *, gaps: Sequence[float] | None = None
) -> tuple[Calibrator, ...]:
    """The calibrators of a funnel's stages, first stage first, made to fall along the stages.

    They do for every row whose logits fall by at least ``gaps`` (T - 1,) from stage to stage; by default for
    every row whose logits fall at all. ``logits`` are the raw logits of each stage's held-out rows, (n_k,),
    perhaps none. Calibrators that fall already come back as they are. Others are read off at one grid of up to
    200 logits and replaced by the nearest maps that increase with the logit and fall along the stages: least
    squares in probability, each row counting once. For proportions that is also the most likely ordered set
    (Robertson, Wright and Dykstra, Order Restricted Statistical Inference, 1988, section 1.5), and the
    positives expected of all stages together stay as many as they were. Each keeps the name of the method it
    was fitted by; beyond the grid they run parallel.

    Raises ValueError if there are not as many arrays of logits as calibrators.

    >>> stages = [Calibrator("platt", (0.0,), (0.0,), 1.0), Calibrator("platt", (0.0,), (0.5,), 1.0)]
    >>> both = order_stages(stages, [np.zeros(300), np.zeros(100)])  # 300 rows at 1/2, 100 at sigmoid(0.5)
    >>> [round(float(sigmoid(stage(np.zeros(1)))[0]), 3) for stage in both]
    [0.531, 0.531]
    """
    if len(calibrators) != len(logits):
        raise ValueError(f"logits of {len(logits)} stages for {len(calibrators)} calibrators, not one array for each")
    if gaps is not None:
        # Moved right by the gaps before it, a stage that falls by more than these falls at all.
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
    # Taken off here and put back at the end, so that a stretch pooled to one value still rises.
    ramp = MIN_SLOPE * grid
    maps = np.stack([calibrator(grid) for calibrator in calibrators]) - ramp
    rows = np.stack([_count_rows_near(grid, stage.astype(np.float64)) for stage in logits])
    p = project_to_order(sigmoid(np.clip(maps, -MAX_LOGIT, MAX_LOGIT)), rows + MIN_WEIGHT)
    # The minimum takes back what rounding in the logarithms may have done to the order.
    ordered = np.minimum.accumulate(np.log(p) - np.log1p(-p), axis=0) + ramp
    # One slope serves both tails: were it larger for one stage, that stage would cross the others on one side.
    slope = float(np.mean([calibrator.slope for calibrator in calibrators]))
    return tuple(
        Calibrator(calibrator.method, tuple(grid.tolist()), tuple(curve.tolist()), slope)
        for calibrator, curve in zip(calibrators, ordered, strict=True)
    )


def project_to_order(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The matrix (T, m) nearest to ``values`` in weighted least squares whose rows never fall and whose columns
    never rise.

    A block of places, at first all of them, is split in two where that gains most, and so are its parts, until
    no split makes the upper part's mean the greater one: Spouge, Wan and Wilbur, "Least Squares Isotonic
    Regression in Two Dimensions", Journal of Optimization Theory and Applications 117(3), 2003. No split is
    ever to be taken back, so the result is exact, however unequal the weights.

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
    # Rounding may have split what should be equal. Maxima of columns that never rise never rise, and minima of
    # rows that never fall never fall.
    return np.minimum.accumulate(np.maximum.accumulate(nearest, axis=1), axis=0)


def _find_best_upper_set(gains: np.ndarray) -> np.ndarray:
    """Of the sets that hold, with a place, all places right of it and above it, the one of the greatest total
    gain: bool (T, m).

    Such a set starts in no row further left than in the row above: the best start row by row, by dynamic
    programming.
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
    """The same map for logits that are larger by this much."""
    return replace(calibrator, x=tuple(each + by for each in calibrator.x))


def _is_ordered(calibrators: Sequence[Calibrator]) -> bool:
    """Between neighbouring knots of all of them and beyond the last on either side they are lines, so the knots
    and the slopes tell."""
    knots = np.unique(np.concatenate([calibrator.x for calibrator in calibrators]))
    maps = np.stack([calibrator(knots) for calibrator in calibrators])
    slopes = {calibrator.slope for calibrator in calibrators}
    return len(slopes) == 1 and bool((np.diff(maps, axis=0) <= 0).all())


def _build_grid(calibrators: Sequence[Calibrator], logits: Sequence[np.ndarray]) -> np.ndarray:
    """Up to 200 increasing logits, with all rows and knots between the outermost: dense where rows and knots
    are."""
    stages = len(calibrators)
    rows = [_pick_evenly(stage.astype(np.float64), ROW_POINTS // stages) for stage in logits]
    knots = [_pick_evenly(np.array(calibrator.x), KNOT_POINTS // stages) for calibrator in calibrators]
    points = np.concatenate(rows + knots)
    first, last = np.floor(points.min(initial=-GRID_REACH)), np.ceil(points.max(initial=GRID_REACH))
    even = np.linspace(first, last, EVEN_POINTS)
    return np.unique(np.round(np.concatenate([points, even]) / GRID_STEP) * GRID_STEP)


def _pick_evenly(values: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the values at even ranks, the least and the greatest among them; all if they are fewer."""
    ranks = np.linspace(0, len(values) - 1, min(count, len(values)))
    return np.sort(values)[ranks.round().astype(np.int64)]


def _count_rows_near(grid: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """How many rows lie at each grid point (m,); a row between two is split by its nearness to either."""
    right = np.clip(np.searchsorted(grid, logits), 1, len(grid) - 1)
    share = (logits - grid[right - 1]) / (grid[right] - grid[right - 1])
    return np.bincount(right - 1, 1.0 - share, len(grid)) + np.bincount(right, share, len(grid))
