"""Scores beside what came of them: the exposures whose labels have matured, each with the night's score before it.

A stage's label is the one that training learns from, by the same SQL, on DuckDB. Exposures of users who had no score
the night before are left out: there is nothing to hold against their outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import duckdb
import numpy as np

from pipeline.config.sections import Stage
from pipeline.config.settings import Settings
from pipeline.dates import end_of_day, epoch_micros
from pipeline.engines.duckdb import run_locally
from pipeline.measures.drift import ERRORS

BEST_BAND = 10
BINS = 15


@dataclass(frozen=True, eq=False)
class Matured:
    """One stage's exposures whose label is mature, in arrays of equal length.

    scores    p_<stage> that the night before the exposure gave, float64
    outcomes  the label, 0 or 1, int64
    bands     band_<stage> of that score, int64
    users     a whole number per user, int64
    models    the model version of that score, object (str)
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

    def of_model(self, version: str) -> "Matured":
        """The exposures that one model scored."""
        rows = self.models == version
        return Matured(**{name: values[rows] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Quality:
    """How good scores were, in hindsight; `auc` and `lift` are None where the outcomes cannot tell.

    auc                chance that one with the outcome had a higher score than one without
    calibration_error  mean distance of scores from rates, over bins of about equal size by score
    calibration_gap    distance of the positives expected from those that came, beyond what chance explains, as a share
                       of those that came
    lift               rate of band 10 to the rate of all
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


def matured(connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date) -> dict[str, Matured]:
    """Of each stage, the exposures that followed the latest `monitoring.backtest_nights` nights known to the end.

    A night is known to the end on `ds` once the stage's window after the day that followed it has passed. Only what
    had landed by `ds` counts, so that an old date gives what its own night would have given.

    Args:
        connection: has `events` and `user_scores` (`analyst.connect`); it is left as it was.
    """
    nights = {stage.name: _nights(stage, settings.monitoring.backtest_nights, ds) for stage in settings.funnel.stages}
    first = min(of_stage[0] for of_stage in nights.values())
    # What is made here is temporary, and a cursor's own.
    own = connection.cursor()
    own.execute(f"SET TimeZone = '{settings.funnel.timezone}'")
    _label(own, settings, first=first + timedelta(days=1), ds=ds)
    return {stage: _of_stage(own, stage, *of_stage) for stage, of_stage in nights.items()}


def _nights(stage: Stage, count: int, ds: date) -> tuple[date, date]:
    """The first and the last of the nights whose exposures, those of the day after, all have a label by `ds`."""
    last = ds - timedelta(days=1 + stage.window_days)
    return last - timedelta(days=count - 1), last


def _label(own: duckdb.DuckDBPyConnection, settings: Settings, *, first: date, ds: date) -> None:
    """Make the table `exposures`: by `sql/spark/exposures.sql` as of `ds`, those of the days from `first` on."""
    # No exposure before the first can take an outcome from a later one, the latest before an outcome counts.
    tolerance_days = -(-settings.source.events.future_tolerance_hours // 24)
    ((database,),) = own.execute("SELECT current_database()").fetchall()
    own.execute(
        f"CREATE TEMP VIEW events AS FROM {database}.main.events "
        f"WHERE landed_on BETWEEN DATE '{first - timedelta(days=tolerance_days)}' AND DATE '{ds}'"
    )
    seen: Mapping[str, Any] = {"as_of": ds, "end_of_as_of": epoch_micros(end_of_day(ds, settings.zone))}
    again = run_locally(own, "landed_again", **seen)
    again.query("again", "CREATE TEMP TABLE landed_again AS FROM again")
    labelled = run_locally(
        own,
        "exposures",
        **seen,
        history_days=(ds - first).days + 1,
        attribution=settings.funnel.attribution,
        stages=settings.funnel.stages,
        context=(),
        declared_context={},
    )
    labelled.query("labelled", "CREATE TEMP TABLE exposures AS FROM labelled")


def _of_stage(own: duckdb.DuckDBPyConnection, stage: str, first: date, last: date) -> Matured:
    found = own.execute(
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
        WHERE x.mature_{stage} AND s.ds BETWEEN ? AND ?
        ORDER BY s.ds, s.user_id, x.exposure_id
        """,
        [first, last],
    ).fetchnumpy()
    return Matured(**found | {"nights": found["nights"].astype("datetime64[D]")})


def quality(found: Matured) -> Quality:
    """The figures of exposures, at least one.

    The standard error of the AUC is Hanley and McNeil's ("The meaning and use of the area under a receiver operating
    characteristic curve", Radiology 143, 1982); that of the lift is Poisson's, were there none.
    """
    outcomes, best = found.outcomes, found.bands == BEST_BAND
    positives, negatives = int(outcomes.sum()), int(len(outcomes) - outcomes.sum())
    auc, auc_error, lift, lift_error = None, 0.0, None, 0.0
    if positives and negatives:
        from sklearn.metrics import roc_auc_score

        auc = float(roc_auc_score(outcomes, found.scores))
        two_above, two_below = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        variance = auc * (1 - auc) + (positives - 1) * (two_above - auc**2) + (negatives - 1) * (two_below - auc**2)
        auc_error = float(np.sqrt(variance / (positives * negatives)))
    if positives and best.any():
        rate = outcomes.mean()
        lift, lift_error = float(outcomes[best].mean() / rate), float(1 / np.sqrt(best.sum() * rate))
    return Quality(
        exposures=len(found),
        positives=positives,
        auc=auc,
        auc_chance=ERRORS * auc_error,
        calibration_error=calibration_error(outcomes, found.scores),
        calibration_gap=calibration_gap(outcomes, found.scores, found.users),
        lift=lift,
        lift_chance=ERRORS * lift_error,
    )


def calibration_error(outcomes: np.ndarray, scores: np.ndarray) -> float:
    """The mean distance of scores from the rate that came, over bins of about equal size; equal scores share one.

    It is `model.metrics.expected_calibration_error`, which says where it is from, without a tensor library to load.

    >>> calibration_error(np.array([0, 1]), np.array([0.25, 0.5]))
    0.375
    """
    ordered = np.sort(scores)
    edges = np.unique(ordered[[len(ordered) * cut // BINS for cut in range(1, BINS)]])
    bins = np.searchsorted(edges, scores, side="right")
    return float(np.abs(np.bincount(bins, outcomes - scores)).sum() / len(scores))


def calibration_gap(outcomes: np.ndarray, scores: np.ndarray, users: np.ndarray) -> float:
    """How far the positives expected lie from those that came, beyond chance, as a share of those that came.

    Chance is three standard errors of the number of positives, the larger of two: sqrt(sum p (1 - p)), were the
    scores true and the exposures strangers' to one another; and the one clustered by user, with e_g the sum of
    outcomes less scores over user g's exposures, sqrt(G / (G - 1) sum_g e_g^2) (see `promotion.paired_difference`).
    A rule that is asked every night at 1.96 errors would cry wolf on one night of twenty.

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
