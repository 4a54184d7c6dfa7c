"""Earlier scores and their outcomes: on hand-made days, and compared with training's labels and scikit-learn."""

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from model.metrics import expected_calibration_error
from pipeline.analyst.connection import connect
from pipeline.dates import DateRange
from pipeline.features.examples import cached_exposures
from pipeline.monitoring.backtest import (
    MaturedExposures,
    calibration_error,
    calibration_gap,
    measure_quality,
    read_matured,
)
from pipeline.runs.record import StageRun
from tests.support.company import Company
from tests.support.nights import STAGES, publish, publish_scores

NIGHT = date(2026, 3, 1)
SENT = NIGHT + timedelta(days=1)
WINDOWS = dict(zip(STAGES, (3, 7, 14), strict=True))
SCORES = {"ann": 0.4, "bob": 0.2, "cyd": 0.1}


def event(id: str, user: str, day: date, kind: str = "exposure", hour: int = 10) -> dict[str, Any]:
    at = pd.Timestamp(day) + pd.Timedelta(hours=hour)
    return {"event_id": id, "user_id": user, "event": kind, "event_time": at.tz_localize("Asia/Shanghai")}


def land(company: Company, *events: dict[str, Any], on: date | None = None) -> None:
    """Publish events on the day they happened, or all on another."""
    by_day: dict[date, list[dict[str, Any]]] = {}
    for each in events:
        by_day.setdefault(on or each["event_time"].date(), []).append(each)
    for day, rows in by_day.items():
        publish(company, "events", day, rows)


def backtest(company: Company, ds: date) -> dict[str, MaturedExposures]:
    return read_matured(connect(company.settings, "events, user_scores, metrics"), company.settings, ds)


def outcomes(found: MaturedExposures) -> list[tuple[float, int]]:
    return list(zip(found.scores.tolist(), found.outcomes.tolist(), strict=True))


@pytest.fixture
def nights(company: Company) -> Company:
    """One scored night; the day after, two of its three users and a stranger are texted, and one of these registers."""
    publish_scores(company, NIGHT, SCORES)
    registered = event("4", "bob", SENT + timedelta(days=2), "register")
    land(company, event("1", "ann", SENT), event("2", "bob", SENT), event("3", "zoe", SENT), registered)
    return company


def test_scores_meet_their_outcomes_once_these_are_mature(nights: Company) -> None:
    for days, known in ((2, ()), (3, ("click",)), (6, ("click",)), (7, ("click", "register")), (14, STAGES)):
        found = backtest(nights, SENT + timedelta(days=days))
        assert {stage for stage in STAGES if len(found[stage])} == set(known), days
    assert outcomes(found["click"]) == [(0.4, 0), (0.2, 1)], "a registration implies a click, once it is mature"
    assert outcomes(found["register"]) == [(0.2, 0), (0.1, 1)]
    assert outcomes(found["complete"]) == [(0.1, 0), (0.05, 0)]
    click = found["click"]
    assert click.nights.tolist() == [NIGHT, NIGHT]
    assert click.models.tolist() == ["model-1", "model-1"]
    assert click.bands.tolist() == [7, 4]
    assert len(set(click.users)) == 2


def test_an_old_date_gives_its_own_night_s_result(nights: Company) -> None:
    late = event("5", "ann", SENT + timedelta(days=1), "click")
    land(nights, late, on=SENT + timedelta(days=5))
    assert outcomes(backtest(nights, SENT + timedelta(days=4))["click"]) == [(0.4, 0), (0.2, 0)]
    assert outcomes(backtest(nights, SENT + timedelta(days=5))["click"]) == [(0.4, 1), (0.2, 0)]


def test_the_score_is_of_the_night_before(nights: Company) -> None:
    publish_scores(nights, NIGHT - timedelta(days=1), {"ann": 0.9}, model="model-0")
    publish_scores(nights, SENT, {"ann": 0.8}, model="model-2")
    assert outcomes(backtest(nights, SENT + timedelta(days=3))["click"]) == [(0.4, 0), (0.2, 0)]


def test_an_event_that_landed_twice_counts_once(nights: Company) -> None:
    again = {**event("4", "bob", SENT + timedelta(days=2), "register"), "landed_on": None}
    land(nights, again, event("2", "bob", SENT), on=SENT + timedelta(days=6))
    assert outcomes(backtest(nights, SENT + timedelta(days=7))["register"]) == [(0.2, 0), (0.1, 1)]


def test_a_log_of_dates_counts_the_exposure_s_own_day(nights: Company) -> None:
    dated = [event("1", "ann", SENT, hour=0), event("2", "bob", SENT, hour=0), event("4", "bob", SENT, "click", hour=0)]
    land(nights, *dated)
    assert outcomes(backtest(nights, SENT + timedelta(days=3))["click"]) == [(0.4, 0), (0.2, 0)], (
        "one event has a time of day"
    )
    publish(nights, "events", SENT + timedelta(days=2), [])
    assert outcomes(backtest(nights, SENT + timedelta(days=3))["click"]) == [(0.4, 0), (0.2, 1)]


@pytest.mark.parametrize(("name", "same", "other"), [("window_days", 7.0, 5.0), ("is_last_touch", 1.0, 0.0)])
def test_scores_that_predict_something_else_are_left_out(nights: Company, name: str, same: float, other: float) -> None:
    figure = {"ds": NIGHT, "run_id": "r", "model_version": "model-1", "stage": "register", "name": name}
    for value, known in ((same, 2), (other, 0)):
        nights.context().warehouse.replace("metrics", [figure | {"value": value}], where=f"name = '{name}'")
        found = backtest(nights, SENT + timedelta(days=14))
        assert [len(found[stage]) for stage in STAGES] == [2, known, 2]


def test_a_new_stage_has_no_scores_of_earlier_nights(nights: Company) -> None:
    text = nights.config.read_text(encoding="utf-8")
    new = '{ name = "repay", event = "repay", window_days = 1 },\n]\n[source.events]'
    nights.config.write_text(text.replace("]\n[source.events]", new), encoding="utf-8")
    found = backtest(nights, SENT + timedelta(days=14))
    assert [len(found[stage]) for stage in (*STAGES, "repay")] == [2, 2, 2, 0]


def test_only_the_latest_nights_count(make_company: Callable[..., Company]) -> None:
    company = make_company("[monitoring]\nbacktest_nights = 2\n")
    days = [NIGHT + timedelta(days=n) for n in range(5)]
    for number, day in enumerate(days):
        publish_scores(company, day, {"ann": 0.1 * (number + 1)})
        land(company, event(f"{number}", "ann", day + timedelta(days=1)))
    found = backtest(company, days[-1] + timedelta(days=1 + WINDOWS["click"]))
    assert found["click"].nights.tolist() == days[-2:]
    assert found["register"].nights.tolist() == [days[0]]


def test_the_connection_is_left_unchanged(nights: Company) -> None:
    connection = connect(nights.settings, "events, user_scores, metrics")
    before = connection.execute("SELECT count(*) FROM events").fetchall()
    for _ in range(2):
        read_matured(connection, nights.settings, SENT + timedelta(days=60))
    assert connection.execute("SELECT count(*) FROM events").fetchall() == before
    names = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    assert names == [("events",), ("user_scores",)]


@pytest.mark.slow
@pytest.mark.parametrize("attribution", ["last_touch", "any_in_window"])
@pytest.mark.usefixtures("spark")
def test_outcomes_are_the_labels_of_training(make_company: Callable[..., Company], attribution: str) -> None:
    company = make_company(attribution=attribution, timezone="Europe/Paris")
    random = np.random.default_rng(0)
    # Across the night on which the clocks of Paris change.
    first, last = date(2026, 3, 20), date(2026, 4, 12)
    landed = dict[date, list[dict[str, Any]]]()
    for number in range(3_000):
        at = datetime(2026, 3, 20, tzinfo=ZoneInfo("Europe/Paris")) + timedelta(minutes=int(random.integers(23 * 1440)))
        kind = random.choice(["exposure", *STAGES], p=[0.6, 0.2, 0.15, 0.05])
        row = {
            "event_id": f"e{number}",
            "user_id": f"u{random.integers(40)}",
            "event": kind,
            "event_time": at,
            "campaign_id": random.choice(["c", "d"]) if kind != "complete" else None,
        }
        # A source that delivers twice a week; some events land again.
        day = at.date() + timedelta(days=-(at.date() - last).days % 3)
        landed.setdefault(day, []).append(row)
        if random.random() < 0.05:
            landed.setdefault(last, []).append(row)
    for day, rows in landed.items():
        publish(company, "events", day, {row["event_id"]: row for row in rows}.values())
    scored = [day for day in DateRange(first, last) if day.day % 2]
    for day in scored:
        publish_scores(company, day, dict(zip((f"u{n}" for n in range(30)), random.random(30), strict=True)))
    context = company.context()
    with cached_exposures(StageRun(context, "examples", DateRange(last, last)), last) as exposed:
        learnt = exposed.toPandas()
    scores = company.context().warehouse.arrow("user_scores", first=first, last=last).to_pandas()
    scores = scores.drop(columns="feature_as_of")
    joined = learnt.merge(scores, left_on=["user_id", "feature_as_of"], right_on=["user_id", "ds"])
    found = backtest(company, last)
    for stage in STAGES:
        newest = last - timedelta(days=1 + WINDOWS[stage])
        expected = joined[joined[f"mature_{stage}"] & (joined["feature_as_of"] <= newest)]
        expected = expected.sort_values(["feature_as_of", "user_id", "exposure_time", "exposure_id"])
        assert len(found[stage]) == len(expected) > 100
        assert found[stage].outcomes.tolist() == expected[f"label_{stage}"].tolist()
        assert found[stage].scores.tolist() == expected[f"p_{stage}"].tolist()
        assert 0 < found[stage].outcomes.sum() < len(expected)


def test_figures_are_scikit_learn_s_and_pandas() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"score": random.beta(2, 8, 3_000).round(3), "band": random.integers(1, 11, 3_000)})
    frame["outcome"] = (random.random(3_000) < frame["score"] * 1.2).astype(int)
    found = measure_quality(of(frame))
    assert found.exposures == 3_000
    assert found.positives == frame["outcome"].sum()
    assert found.auc == pytest.approx(roc_auc_score(frame["outcome"], frame["score"]))
    best = frame[frame["band"] == 10]
    assert found.lift == pytest.approx(best["outcome"].mean() / frame["outcome"].mean())
    assert found.lift_chance == pytest.approx(3 / np.sqrt(len(best) * frame["outcome"].mean()))


def of(frame: pd.DataFrame) -> MaturedExposures:
    n = len(frame)
    return MaturedExposures(
        scores=frame["score"].to_numpy(),
        outcomes=frame["outcome"].to_numpy(),
        bands=frame["band"].to_numpy(),
        users=np.arange(n),
        models=np.array(["m"] * n, dtype=object),
        nights=np.array([NIGHT] * n, dtype="datetime64[D]"),
    )


def test_the_auc_s_error_is_how_much_it_varies() -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(150):
        outcome = (random.random(400) < 0.2).astype(int)
        found.append(
            measure_quality(of(pd.DataFrame({"score": expit(random.normal(outcome)), "outcome": outcome, "band": 1})))
        )
    spread = np.std(np.array([each.auc for each in found], dtype=float))
    assert np.mean([each.auc_chance for each in found]) == pytest.approx(3 * spread, rel=0.2)


@pytest.mark.parametrize("outcome", [0, 1])
def test_outcomes_of_one_kind_define_no_auc_or_lift(outcome: int) -> None:
    found = measure_quality(of(pd.DataFrame({"score": [0.1, 0.2], "outcome": [outcome] * 2, "band": [9, 9]})))
    assert found.auc is None
    assert found.lift is None
    assert found.positives == 2 * outcome


rows = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.9]) | st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=80
)


@given(rows)
@settings(max_examples=50)
def test_calibration_error_equals_the_model_s(drawn: Iterable[tuple[float, int]]) -> None:
    scores, outcomes = (np.array(column) for column in zip(*drawn, strict=True))
    assert calibration_error(outcomes, scores) == pytest.approx(expected_calibration_error(outcomes, scores), abs=1e-12)


def test_the_gap_is_what_chance_does_not_explain() -> None:
    outcomes, scores = np.repeat([1, 0], [150, 850]), np.full(1_000, 0.1)
    # 150 observed, 100 expected; chance: sqrt(1000 x 0.15 x 0.85) = 11.3, from the observed, exceeds sqrt(90) = 9.5.
    assert calibration_gap(outcomes, scores, np.arange(1_000)) == pytest.approx((50 - 3 * 11.297) / 150, rel=1e-3)
    # With ten equal exposures per user, chance is sqrt(10) times as large.
    assert calibration_gap(outcomes, scores, np.arange(1_000) // 10) == 0
    assert calibration_gap(np.zeros(20), np.full(20, 0.1), np.arange(20)) == 0
    assert calibration_gap(np.zeros(2_000), np.full(2_000, 0.1), np.arange(2_000)) > 100
