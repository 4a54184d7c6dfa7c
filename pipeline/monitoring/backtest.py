"""Backtest: exposures whose labels have matured, each with the score its user had the night before.

Labels come from the same SQL as those of training, run by DuckDB. Exposures of users without a score the night before
are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import duckdb
import numpy as np

from pipeline.config.funnel import Stage
from pipeline.config.settings import Settings
from pipeline.dates import end_of_day, epoch_micros
from pipeline.engines.duckdb import run_locally
from pipeline.features.precision import knows_only_dates_locally
from pipeline.measures.drift import ERRORS

BEST_BAND = 10
BINS = 15


@dataclass(frozen=True, eq=False)
class MaturedExposures:
    """One stage's exposures with a mature label, in arrays of equal length.

    scores    p_<stage> of the night before the exposure, float64
    outcomes  the label, 0 or 1, int64
    bands     band_<stage> of that score, int64
    users     an integer id per user, int64
    models    the model version that gave the score, object (str)
    nights    that night, datetime64[D]
    """

    scores: np.ndarray
    outcomes: np.ndarray
    bands: np.ndarray
    users: np.ndarray
    models: np.ndarray
    nights: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def scored_by(self, version: str) -> "MaturedExposures":
        """The exposures that one model scored."""
        rows = self.models == version
        return MaturedExposures(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class ScoreQuality:
    """How good scores proved; `auc` and `lift` are None where the outcomes do not define them.

    auc                probability that a positive had a higher score than a negative
    calibration_error  mean distance between scores and observed rates, over bins of about equal size by score
    calibration_gap    distance between expected and observed positives beyond what chance explains, as a share of
                       the observed
    lift               rate of band 10 relative to the overall rate
    *_chance           three standard errors
    """

    exposures: int
    positives: int
    auc: float | None
    auc_chance: float
    calibration_error: float
    calibration_gap: float
    lift: float | None
    lift_chance: float


def read_matured(connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date) -> dict[str, MaturedExposures]:
    """The exposures of each stage that followed the latest `monitoring.backtest_nights` mature nights.

    A night is mature on `ds` once the stage's window after the following day has passed. Only events that had landed
    by `ds` count, so that an old date gives the result its own night would have given. Scores of models that predict a
    stage within another window, or by another attribution, are left out.

    Args:
        connection: has `events`, `user_scores` and `metrics` (`analyst.connection.connect`); it is left unchanged.
    """
    nights = {
        stage.name: _find_nights(stage, settings.monitoring.backtest_nights, ds) for stage in settings.funnel.stages
    }
    earliest = min(first for first, _ in nights.values())
    # Temporary tables and views belong to the cursor, and go with it.
    with connection.cursor() as cursor:
        cursor.execute(f"SET TimeZone = '{settings.funnel.timezone}'")
        _create_exposures(cursor, settings, first=earliest + timedelta(days=1), ds=ds)
        others = _find_others(cursor, settings)
        return {
            stage: _read_stage(cursor, stage, first, last, others.get(stage, []))
            for stage, (first, last) in nights.items()
        }


def _find_nights(stage: Stage, count: int, ds: date) -> tuple[date, date]:
    """The first and last night whose exposures, those of the following day, all have a mature label by `ds`."""
    last = ds - timedelta(days=1 + stage.window_days)
    return last - timedelta(days=count - 1), last


def _create_exposures(cursor: duckdb.DuckDBPyConnection, settings: Settings, *, first: date, ds: date) -> None:
    """Create the table `exposures` by `sql/spark/exposures.sql` as of `ds`, for the days from `first` on."""
    # An outcome belongs to the latest exposure before it, so that those before `first` cannot take one from the rest.
    tolerance_days = -(-settings.source.events.future_tolerance_hours // 24)
    ((database,),) = cursor.execute("SELECT current_database()").fetchall()
    cursor.execute(
        f"CREATE TEMP VIEW events AS FROM {database}.main.events "
        f"WHERE landed_on BETWEEN DATE '{first - timedelta(days=tolerance_days)}' AND DATE '{ds}'"
    )
    seen: Mapping[str, Any] = {"as_of": ds, "end_of_as_of": epoch_micros(end_of_day(ds, settings.zone))}
    by_day = knows_only_dates_locally(cursor, settings, ds)
    again = run_locally(cursor, "landed_again", **seen)
    again.query("again", "CREATE TEMP TABLE landed_again AS FROM again")
    labelled = run_locally(
        cursor,
        "exposures",
        **seen,
        history_days=(ds - first).days + 1,
        attribution=settings.funnel.attribution,
        by_day=by_day,
        stages=settings.funnel.stages,
        context={},
        declared_context={},
    )
    labelled.query("labelled", "CREATE TEMP TABLE exposures AS FROM labelled")


def _find_others(cursor: duckdb.DuckDBPyConnection, settings: Settings) -> dict[str, list[str]]:
    """By stage, the models that predict something else of that name."""
    windows = {stage.name: stage.window_days for stage in settings.funnel.stages}
    told = cursor.execute(
        "SELECT DISTINCT stage, model_version, name, value FROM metrics WHERE name IN ('window_days', 'is_last_touch')"
    ).fetchall()
    now = {"is_last_touch": float(settings.funnel.attribution == "last_touch")}
    others: dict[str, list[str]] = {}
    for stage, model, name, value in told:
        if stage in windows and value != (now | {"window_days": windows[stage]})[name]:
            others.setdefault(stage, []).append(model)
    return others


def _read_stage(
    cursor: duckdb.DuckDBPyConnection, stage: str, first: date, last: date, others: list[str]
) -> MaturedExposures:
    found = cursor.execute(
        f"""
        SELECT
          s.p_{stage} AS scores,
          CAST(x.label_{stage} AS BIGINT) AS outcomes,
          CAST(s.band_{stage} AS BIGINT) AS bands,
          dense_rank() OVER (ORDER BY s.user_id) AS users,
          s.model_version AS models,
          s.ds AS nights
        FROM exposures AS x
        JOIN user_scores AS s ON s.user_id = x.user_id AND s.ds = CAST(x.feature_as_of AS DATE)
        WHERE x.mature_{stage} AND s.ds BETWEEN ? AND ? AND NOT list_contains(?::VARCHAR[], s.model_version)
          -- A stage that is new to the funnel has no scores of earlier nights.
          AND s.p_{stage} IS NOT NULL
        ORDER BY s.ds, s.user_id, x.exposure_time, x.exposure_id
        """,
        [first, last, others],
    ).fetchnumpy()
    return MaturedExposures(**found | {"nights": found["nights"].astype("datetime64[D]")})


def measure_quality(matured: MaturedExposures) -> ScoreQuality:
    """Measure how good the scores of at least one exposure proved.

    The standard error of the AUC is Hanley and McNeil's ("The meaning and use of the area under a receiver operating
    characteristic curve", Radiology 143, 1982); that of the lift assumes a Poisson count and no lift.
    """
    outcomes, best = matured.outcomes, matured.bands == BEST_BAND
    positives, negatives = int(outcomes.sum()), int(len(outcomes) - outcomes.sum())
    auc, auc_error, lift, lift_error = None, 0.0, None, 0.0
    if positives and negatives:
        from sklearn.metrics import roc_auc_score

        auc = float(roc_auc_score(outcomes, matured.scores))
        two_above, two_below = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        variance = auc * (1 - auc) + (positives - 1) * (two_above - auc**2) + (negatives - 1) * (two_below - auc**2)
        auc_error = float(np.sqrt(variance / (positives * negatives)))
    if positives and best.any():
        rate = outcomes.mean()
        lift, lift_error = float(outcomes[best].mean() / rate), float(1 / np.sqrt(best.sum() * rate))
    return ScoreQuality(
        exposures=len(matured),
        positives=positives,
        auc=auc,
        auc_chance=ERRORS * auc_error,
        calibration_error=calibration_error(outcomes, matured.scores),
        calibration_gap=calibration_gap(outcomes, matured.scores, matured.users),
        lift=lift,
        lift_chance=ERRORS * lift_error,
    )


def calibration_error(outcomes: np.ndarray, scores: np.ndarray) -> float:
    """Mean distance between scores and the observed rate over bins of about equal size; equal scores share a bin.

    Equal to `model.metrics.expected_calibration_error`, which names the source, without loading a tensor library.

    >>> calibration_error(np.array([0, 1]), np.array([0.25, 0.5]))
    0.375
    """
    ordered = np.sort(scores)
    edges = np.unique(ordered[[len(ordered) * cut // BINS for cut in range(1, BINS)]])
    bins = np.searchsorted(edges, scores, side="right")
    return float(np.abs(np.bincount(bins, outcomes - scores)).sum() / len(scores))


def calibration_gap(outcomes: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """Distance between expected and observed positives beyond chance, as a share of the observed.

    Chance is three standard errors of the number of positives, the larger of two: sqrt(sum p (1 - p)), which holds for
    true scores and independent exposures; and the one clustered by user, sqrt(G / (G - 1) sum_g e_g^2) for G users,
    with e_g the sum of outcomes minus scores over user g's exposures (see `promotion.paired_difference`). Three rather
    than 1.96, since a nightly check at 1.96 errors would give one false alarm in twenty nights.

    >>> calibration_gap(np.repeat([1, 0], 5000), np.full(10000, 0.5), np.arange(10000))
    0.0
    >>> round(calibration_gap(np.repeat([1, 0], 5000), np.full(10000, 0.8), np.arange(10000)), 3)
    0.57
    """
    observed, expected = float(outcomes.sum()), float(scores.sum())
    sums = np.bincount(np.unique(users, return_inverse=True)[1], outcomes - scores)
    clustered = len(sums) / max(len(sums) - 1, 1) * np.square(sums - sums.mean()).sum()
    error = np.sqrt(max((scores * (1 - scores)).sum(), clustered))
    return float(max(0.0, abs(expected - observed) - ERRORS * error) / max(observed, 1.0))
