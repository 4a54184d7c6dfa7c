"""Planted drift is found, and nothing else, on every seed.

Users and responses are those of the simulated lender, whose true probabilities are known; figures and thresholds are
those of a night.
"""

from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config.settings import Settings
from pipeline.measures.drift import distribution
from pipeline.monitoring.backtest import MaturedExposures
from pipeline.monitoring.baseline import Baseline
from pipeline.monitoring.monitor import measure_feature_drift, measure_outcomes, measure_score_drift
from pipeline.monitoring.thresholds import Measurement, find_breach, resolve_thresholds
from pipeline.simulate.behaviour import ACQUISITIONS, CITY_TIERS, OFFERS, SENDING_HOURS, STAGES, Population, respond
from tests.support.company import Company

SEEDS = range(20)
USERS, TEXTS = 5_000, 12
FEATURES = {"age", "credit_limit", "city_tier", "acquisition"}
Columns = dict[str, np.ndarray]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Company.make(tmp_path_factory.mktemp("company")).settings


def people(seed: int) -> Population:
    return Population(USERS, 60, 2, np.random.default_rng(seed))


def profiles(found: Population) -> Columns:
    return {
        "age": found.age.astype(float),
        "credit_limit": found.limit.copy(),
        "city_tier": np.array(CITY_TIERS, dtype=object)[found.tier],
        "acquisition": np.array(ACQUISITIONS, dtype=object)[found.acquisition],
    }


def chances(found: Population, seed: int) -> np.ndarray:
    """The true probability of each stage of one text to everyone, (stages, n)."""
    random = np.random.default_rng([seed, 1])
    offers = random.integers(len(OFFERS), size=USERS)
    hours = random.choice(list(SENDING_HOURS), size=USERS)
    return found.compute_probabilities(np.arange(USERS), offers, hours, 2, 30)


def with_odds(p: np.ndarray, factor: float) -> np.ndarray:
    return factor * p / (1 - p + factor * p)


def table(columns: Columns) -> pa.Table:
    kinds = {name: pa.string() if values.dtype == object else pa.float64() for name, values in columns.items()}
    return pa.table({name: pa.array(values, kinds[name], from_pandas=True) for name, values in columns.items()})


def began(seed: int) -> Baseline:
    """The baseline of a model whose scores are the true probabilities, with other users than any night's."""
    then = people(1_000 + seed)
    columns, scores = table(profiles(then)), chances(then, 1_000 + seed)
    return Baseline(
        "model",
        date(2026, 2, 1),
        {name: distribution(columns.column(name)) for name in FEATURES},
        {stage: distribution(pa.chunked_array([p])) for stage, p in zip(STAGES, scores, strict=True)},
    )


def outcomes(seed: int, promised: Callable[[np.ndarray], np.ndarray]) -> Iterator[tuple[str, MaturedExposures]]:
    """Twelve texts to everyone, with scores that are a function of the true probabilities."""
    true = np.tile(chances(people(seed), seed), TEXTS)
    came = respond(true, np.zeros(true.shape[1], dtype=np.int64), np.random.default_rng([seed, 2])).outcome
    for stage, p, outcome in zip(STAGES, promised(true), came, strict=True):
        n = len(p)
        yield (
            stage,
            MaturedExposures(
                scores=p,
                outcomes=outcome.astype(np.int64),
                bands=1 + 10 * p.argsort().argsort() // n,
                users=np.tile(np.arange(USERS), TEXTS),
                models=np.full(n, "model", dtype=object),
                nights=np.full(n, np.datetime64("2026-03-01")),
            ),
        )


def of_outcomes(
    seed: int, promised: Callable[[np.ndarray], np.ndarray], settings: Settings
) -> set[tuple[str, str | None]]:
    figures = (figure for stage, found in outcomes(seed, promised) for figure in measure_outcomes(stage, found))
    return past(figures, settings)


def past(figures: Iterator[Measurement], settings: Settings) -> set[tuple[str, str | None]]:
    """Name and feature or stage of each figure that warns."""
    thresholds = resolve_thresholds(settings)
    breaches = ((figure, find_breach(figure, thresholds)) for figure in figures)
    return {
        (figure.name, figure.feature or figure.stage)
        for figure, breach in breaches
        if breach and breach.severity == "warn"
    }


def of_features(
    seed: int, plant: Callable[[Columns, np.random.Generator], None], settings: Settings
) -> set[tuple[str, str | None]]:
    tonight = profiles(people(seed))
    plant(tonight, np.random.default_rng([seed, 3]))
    return past(measure_feature_drift(table(tonight), began(seed), FEATURES), settings)


def nothing(columns: Columns, random: np.random.Generator) -> None:
    pass


def older(columns: Columns, random: np.random.Generator) -> None:
    columns["age"] += 8


def higher_limits(columns: Columns, random: np.random.Generator) -> None:
    columns["credit_limit"] *= 1.6


def a_new_channel(columns: Columns, random: np.random.Generator) -> None:
    columns["acquisition"][random.random(USERS) < 0.08] = "billboard"


def lost_ages(columns: Columns, random: np.random.Generator) -> None:
    columns["age"][random.random(USERS) < 0.14] = np.nan


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (nothing, set()),
        (older, {("feature_psi", "age")}),
        (higher_limits, {("feature_psi", "credit_limit")}),
        (a_new_channel, {("feature_unseen_share", "acquisition")}),
        (lost_ages, {("feature_missing_change", "age")}),
    ],
)
def test_drift_of_features(
    plant: Callable[[Columns, np.random.Generator], None], found: set[tuple[str, str]], settings: Settings
) -> None:
    told = [of_features(seed, plant, settings) for seed in SEEDS]
    # New and missing values shift the index too, and a large share of them shifts it past its threshold.
    besides = {("feature_psi", name) for _, name in found}
    assert [seed for seed in SEEDS if not found <= told[seed]] == []
    assert [told[seed] - found - besides for seed in SEEDS if told[seed] - found - besides] == []


@pytest.mark.parametrize(("factor", "is_drift"), [(1.0, False), (4.0, True), (1 / 4, True)])
def test_drift_of_scores(factor: float, is_drift: bool, settings: Settings) -> None:
    expected = {("score_psi_training", stage) for stage in STAGES} if is_drift else set()
    for seed in SEEDS:
        baseline, tonight = began(seed), with_odds(chances(people(seed), seed), factor)
        by_stage = zip(STAGES, tonight, strict=True)
        figures = (figure for stage, p in by_stage for figure in measure_score_drift(stage, p, baseline))
        assert past(figures, settings) == expected, seed


@pytest.mark.parametrize(("factor", "is_wrong"), [(1.0, False), (1.5, True), (1 / 2, True)])
def test_miscalibration(factor: float, is_wrong: bool, settings: Settings) -> None:
    expected = {("matured_calibration_gap", stage) for stage in STAGES} if is_wrong else set()
    told = [of_outcomes(seed, lambda true: with_odds(true, factor), settings) for seed in SEEDS]
    assert [found for found in told if found != expected] == []


def test_scores_that_rank_nobody(settings: Settings) -> None:
    """Scores are shuffled among texts: calibrated overall, but ranking no better than a coin."""
    random = np.random.default_rng(0)
    for seed in SEEDS:
        told = of_outcomes(seed, lambda true: random.permutation(true, axis=1), settings)
        assert ("matured_auc", "click") in told, seed
        assert not any(name == "matured_calibration_gap" for name, _ in told), seed
