"""A night's figures: compared with manual calculations, and written once each however often monitor runs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.analyst.connection import connect
from pipeline.config.figures import FIGURES
from pipeline.errors import FunnelError
from pipeline.measures.drift import distribution
from pipeline.monitoring.baseline import read_baseline, write_baseline
from pipeline.monitoring.monitor import monitor
from tests.pipeline.measures.test_drift import by_hand
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import STAGES, call_before_connecting, publish, publish_activity, publish_scores, record

D1 = date(2026, 3, 1)
D2 = D1 + timedelta(days=1)
MIDNIGHT = datetime(2026, 3, 2, 16, tzinfo=UTC)
"""The end of D2 in Shanghai."""
TRAINED = D1 - timedelta(days=1)
EARLIER = {f"u{n}": 0.01 * (n + 1) for n in range(20)}
TONIGHT = {f"u{n}": 0.01 * (n + 4) for n in range(5, 30)}


def figures(company: Company, ds: date) -> dict[tuple[str, str | None], float]:
    """A night's figures by name and stage, each once."""
    rows = [row for row in company.rows("metrics") if row["ds"] == ds]
    found = {(row["name"], row["stage"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def nights(company: Company) -> Company:
    """Two scored nights and the record of the second."""
    publish_scores(company, D1, EARLIER)
    publish_scores(company, D2, TONIGHT)
    record(company, D2, "ingest", MIDNIGHT, rows_in=200, rows_out=180, duplicates=10, quarantined=10)
    record(company, D2, "score", MIDNIGHT + timedelta(hours=2), seconds=1800.0)
    return company


def test_a_night_s_figures(nights: Company) -> None:
    monitor(nights.context(), D2)
    found = figures(nights, D2)
    assert {name for name, _ in found} == {
        "rows_landed",
        "quarantined_share",
        "hours_to_scores",
        "users_scored",
        "users_in_common",
        "mean_score",
        "score_psi",
    }
    assert found["rows_landed", None] == 180
    assert found["quarantined_share", None] == 10 / 200
    assert found["users_scored", None] == 25
    assert found["users_in_common", None] == 15 / 25
    assert found["hours_to_scores", None] == pytest.approx(2.5)
    assert found["mean_score", "click"] == pytest.approx(0.01 * (4 + 17))
    assert found["mean_score", "complete"] == pytest.approx(0.01 * (4 + 17) / 4)
    assert found["score_psi", "register"] == pytest.approx(by_hand(list(EARLIER.values()), list(TONIGHT.values())))


def test_a_night_s_figures_are_of_the_scores_that_are_recorded(
    nights: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_before_connecting(monkeypatch, lambda: publish_scores(nights, D2, dict.fromkeys(TONIGHT, 0.3)))
    monitor(nights.context(), D2)
    (run,) = (row for row in nights.rows("runs") if row["stage"] == "monitor")
    assert figures(nights, D2)["mean_score", "click"] == pytest.approx(0.3), "those of the newer scores"
    assert dict(run["inputs"])["user_scores"] == nights.context().warehouse.pin("user_scores").snapshot_id


def test_scores_are_fresh_when_they_are_published_not_when_made(nights: Company) -> None:
    record(nights, D2, "publish", MIDNIGHT + timedelta(hours=3), seconds=3600.0)
    record(nights, D2, "publish", MIDNIGHT + timedelta(hours=9), run_id="another, whose scores these are not")
    monitor(nights.context(), D2)
    assert figures(nights, D2)["hours_to_scores", None] == pytest.approx(4)


def test_the_first_night_has_nothing_to_be_compared_with(nights: Company) -> None:
    monitor(nights.context(), D1)
    names = {name for name, _ in figures(nights, D1)}
    assert names == {"users_scored", "mean_score"}


def test_a_night_is_compared_with_the_newest_before_it(nights: Company) -> None:
    publish_scores(nights, D2 + timedelta(days=5), TONIGHT)
    monitor(nights.context(), D2 + timedelta(days=5))
    found = figures(nights, D2 + timedelta(days=5))
    assert found["users_in_common", None] == 1
    assert found["score_psi", "click"] == 0


def test_a_rerun_replaces_its_own_figures_and_no_others(nights: Company) -> None:
    warehouse = nights.context().warehouse
    trained = {"ds": D2, "name": "held_out_auc", "stage": "click", "value": 0.7, "run_id": "training"}
    warehouse.append("metrics", [trained])
    monitor(nights.context(), D1)
    monitor(nights.context(), D2)
    of_d1 = figures(nights, D1)
    publish_scores(nights, D2, {user: p / 2 for user, p in EARLIER.items()})
    monitor(nights.context(run_id="again"), D2)
    found = figures(nights, D2)
    assert found.pop(("held_out_auc", "click")) == 0.7
    assert found["users_scored", None] == 20
    assert "hours_to_scores" in {name for name, _ in found}
    again = [row for row in nights.rows("metrics") if row["run_id"] == "again"]
    assert len(again) == len(found)
    assert figures(nights, D1) == of_d1


def test_nights_monitored_at_once_lose_nothing(company: Company) -> None:
    days = [D1 + timedelta(days=n) for n in range(4)]
    for day in days:
        publish_scores(company, day, EARLIER)
    contexts = [company.context() for _ in days]
    with ThreadPoolExecutor(len(days)) as pool:
        list(pool.map(monitor, contexts, days))
    assert [figures(company, day)["users_scored", None] for day in days] == [20] * len(days)


def test_a_rerun_that_is_rolled_back_leaves_the_figures_before(nights: Company) -> None:
    monitor(nights.context(), D2)
    before = figures(nights, D2)
    publish_scores(nights, D2, EARLIER)
    monitor(nights.context(), D2)
    nights.context().warehouse.rollback("metrics")
    assert figures(nights, D2) == before


def test_a_night_without_scores_is_one_line_and_no_record(nights: Company, funnel: Callable[..., Ended]) -> None:
    ended = funnel("monitor", "--ds", "2026-03-09", "-c", nights.config)
    assert ended.complaint == (
        "no scores of 2026-03-09, the newest night is 2026-03-02: run `funnel nightly --ds 2026-03-09` first"
    )
    assert {row["stage"] for row in nights.rows("runs")} == {"ingest", "score"}


def test_no_scores_at_all(company: Company) -> None:
    with pytest.raises(FunnelError, match="no night has any yet"):
        monitor(company.context(), D1)


def users(random: np.random.Generator, *, older: float = 0.0, tiers: str = "abc") -> list[dict[str, Any]]:
    """Features of 400 users, one of ten without an age."""
    return [
        {
            "user_id": f"u{n}",
            "age": None if n % 10 == 0 else 18 + float(random.integers(40)) + older,
            "city_tier": tiers[n % len(tiers)],
            **{f"{event}_n_{days}d": int(random.integers(3)) for event in ("exposure", *STAGES) for days in (1, 7, 30)},
        }
        for n in range(400)
    ]


def begin(company: Company, history_days: int = 30) -> np.ndarray:
    """Write a model's baseline as training does: users' features, and scores around 0.1, which are returned."""
    random = np.random.default_rng(0)
    publish_activity(company, TRAINED - timedelta(days=history_days - 1), (10, 1, 1, 1))
    publish(company, "feature_samples", TRAINED, users(random))
    sample = company.context().warehouse.arrow("feature_samples", first=TRAINED, last=TRAINED)
    scores = random.beta(2, 18, 400)
    write_baseline(company.context(), "model-1", TRAINED, sample, np.column_stack([scores, scores / 2, scores / 4]))
    return scores


def score_night(company: Company, ds: date, scores: np.ndarray, features: list[dict[str, Any]]) -> None:
    publish_scores(company, ds, {f"u{n}": float(p) for n, p in enumerate(scores)})
    publish(company, "feature_samples", ds, features)


def figures_without_feature(company: Company, ds: date) -> dict[tuple[str, str | None], float]:
    """A night's figures that are not about a feature."""
    return {
        (row["name"], row["stage"]): row["value"]
        for row in company.rows("metrics")
        if row["ds"] == ds and row["feature"] is None
    }


def feature_figures(company: Company, ds: date) -> dict[tuple[str, str], float]:
    rows = [row for row in company.rows("metrics") if row["ds"] == ds and row["feature"]]
    assert {row["model_version"] for row in rows} <= {"model-1"}
    return {(row["name"], row["feature"]): row["value"] for row in rows}


def past_thresholds(company: Company, ds: date) -> dict[tuple[str, str], str]:
    """The column `past` of a night's figures, by name and by feature or stage, where it is set."""
    return {
        (row["name"], row["feature"] or row["stage"]): row["past"]
        for row in company.rows("metrics")
        if row["ds"] == ds and row["past"]
    }


def warnings(company: Company) -> list[str]:
    return [line for line in company.lines if line.startswith("warning: ")]


def test_a_baseline_is_read_as_it_was_written(company: Company) -> None:
    scores = begin(company)
    baseline = read_baseline(connect(company.settings, "baselines, metrics"), "model-1")
    assert baseline is not None
    assert str(baseline) == f"model model-1 as of {TRAINED}"
    sample = company.context().warehouse.arrow("feature_samples", first=TRAINED, last=TRAINED)
    expected = {
        name: distribution(sample.column(name)) for name in sample.column_names if name not in ("user_id", "ds")
    }
    expected |= {stage: distribution(pa.chunked_array([scores / 2**n])) for n, stage in enumerate(STAGES)}
    found = {**baseline.features, **baseline.scores}
    assert set(found) == set(expected)
    for name, each in found.items():
        assert each.bounds == expected[name].bounds
        assert each.rows.tolist() == expected[name].rows.tolist()
    assert read_baseline(connect(company.settings, "baselines, metrics"), "model-2") is None


def test_unchanged_users_warn_of_nothing(company: Company) -> None:
    """Features that follow the days of the week are measured, but not checked."""
    scores = begin(company)
    tonight = [user | {"exposure_n_1d": 9, "exposure_days_since": 0} for user in users(np.random.default_rng(1))]
    score_night(company, D2, scores, tonight)
    monitor(company.context(), D2)
    assert warnings(company) == []
    assert figures_without_feature(company, D2)["score_psi_training", "click"] == pytest.approx(0, abs=1e-9)
    found = feature_figures(company, D2)
    assert found["feature_missing_share", "age"] == 0.1
    assert found["feature_psi", "exposure_n_1d"] > 1
    assert found["feature_missing_change", "exposure_days_since"] == -1
    for row in (row for row in company.rows("metrics") if row["ds"] == D2):
        per = FIGURES[row["name"]].per
        assert (row["stage"] is not None) == (per in ("stage", "model")), row
        assert (row["feature"] is not None) == (per == "feature"), row
        assert (row["model_version"] is not None) == (per != "night"), row


def test_counts_over_more_than_the_history_there_was_are_left_out(company: Company) -> None:
    begin(company, history_days=20)
    baseline = read_baseline(connect(company.settings, "baselines, metrics"), "model-1")
    assert baseline is not None
    assert {"age", "exposure_n_7d", "click_n_1d", "click_days_since"} <= set(baseline.features)
    assert not any(feature.endswith("_30d") for feature in baseline.features)


def test_warnings_name_what_has_drifted(company: Company) -> None:
    scores = begin(company)
    tonight = users(np.random.default_rng(1), older=15, tiers="abcd")
    for user in tonight[::4]:
        user["age"] = None
    score_night(company, D2, scores * 2, tonight)
    monitor(company.context(), D2)
    found = feature_figures(company, D2)
    missing = sum(user["age"] is None for user in tonight) / 400
    assert found["feature_missing_change", "age"] == pytest.approx(missing - 0.1)
    assert found["feature_unseen_share", "city_tier"] == pytest.approx(0.25)
    of_scores = figures_without_feature(company, D2)["score_psi_training", "click"]
    against = f"(against model model-1 as of {TRAINED})"
    expected = [
        f"drift of the scores of click: PSI {of_scores:.3g} > 0.25 {against}",
        f"drift of age: PSI {found['feature_psi', 'age']:.3g} > 0.25 {against}",
        f"change in the missing share of age {missing - 0.1:.3g} > 0.1 {against}",
        f"share of users with a value of city_tier unseen at training 0.25 > 0.05 {against}",
    ]
    lines = [line.removeprefix(f"warning: monitor {D2}: ") for line in warnings(company)]
    assert [line for line in lines if line in expected] == expected
    assert {line.split(":")[0].removeprefix("drift of ") for line in lines if line not in expected} <= {
        "the scores of register",
        "the scores of complete",
        "city_tier",
    }
    (run,) = (row for row in company.rows("runs") if row["stage"] == "monitor")
    assert run["warnings"].splitlines() == lines
    past = past_thresholds(company, D2)
    topics = run["warning_topics"].splitlines()
    assert sorted(topics) == sorted(f"{name} {subject}" for name, subject in past)
    assert topics[lines.index(expected[1])] == "feature_psi age"
    assert {("score_psi_training", "click"), ("feature_psi", "age"), ("feature_unseen_share", "city_tier")} <= set(past)
    assert len(past) == len(lines) and set(past.values()) == {"warn"}


def test_a_stop_fails_the_night_and_keeps_its_figures(make_company: Callable[..., Company]) -> None:
    company = make_company("[monitoring.thresholds]\nfeature_psi = { warn = 0.1, stop = 0.5 }\n")
    scores = begin(company)
    score_night(company, D2, scores, users(np.random.default_rng(1), older=30))
    with pytest.raises(FunnelError, match=f"^monitor {D2}: drift of age: PSI .* > 0.5 .*: past a stop of") as error:
        monitor(company.context(), D2)
    assert "\n" not in str(error.value)
    assert feature_figures(company, D2)["feature_psi", "age"] > 0.5
    assert past_thresholds(company, D2)["feature_psi", "age"] == "stop"
    assert [row["status"] for row in company.rows("runs")] == ["failed"]


def test_volumes_are_compared_with_the_median_of_the_last_week(company: Company) -> None:
    for n, rows in enumerate((9_000, 1_000, 1_100, 1_200, 400)):
        day = D1 + timedelta(days=n)
        # Profiles land beside the events; a day without changes to them is not a quiet one.
        record(company, day, "ingest", MIDNIGHT, rows_in=rows, rows_out=50_000)
        publish(company, "events", day, [{"event_id": str(n), "user_id": "ann"} for n in range(rows)])
        publish_scores(company, day, EARLIER)
    last = D1 + timedelta(days=4)
    monitor(company.context(), last)
    found = figures(company, last)
    assert found["rows_landed_ratio", None] == pytest.approx(400 / 1_150)
    assert found["users_scored_ratio", None] == 1
    assert warnings(company) == [
        f"warning: monitor {last}: events landed, relative to the median of the last 7 nights, 0.348 < 1/2"
    ]
    monitor(company.context(), D1 + timedelta(days=2))
    assert ("rows_landed_ratio", None) not in figures(company, D1 + timedelta(days=2)), (
        "two nights do not make a median"
    )


def test_late_scores_warn_unless_they_are_a_backfill(nights: Company) -> None:
    record(nights, D2, "publish", MIDNIGHT + timedelta(hours=9), seconds=1800.0)
    monitor(nights.context(), D2)
    assert warnings(nights) == [f"warning: monitor {D2}: hours from the end of the day to its scores 9.5 > 8"]
    nights.lines.clear()
    record(nights, D2, "publish", MIDNIGHT + timedelta(hours=49))
    monitor(nights.context(), D2)
    assert warnings(nights) == []
    assert past_thresholds(nights, D2) == {}


def test_earlier_scores_that_were_too_high(company: Company) -> None:
    """Two models' nights: both are measured, the one that scored last is checked."""
    random = np.random.default_rng(0)
    messages: list[dict[str, Any]] = []
    clicks: list[dict[str, Any]] = []
    for ds, model, true in ((D1, "model-1", 0.05), (D2, "model-2", 0.25)):
        scores = {f"u{n}": 0.1 + 0.001 * (n % 300) for n in range(1_500)}
        publish_scores(company, ds, scores, model=model)
        noon = datetime(ds.year, ds.month, ds.day, 4, tzinfo=UTC) + timedelta(days=1)
        for user in scores:
            sent = {"event_id": f"{ds} {user}", "user_id": user, "event": "exposure", "event_time": noon}
            messages.append(sent)
            if random.random() < true:
                clicks.append(
                    sent | {"event_id": f"click {ds} {user}", "event": "click", "event_time": noon + timedelta(hours=1)}
                )
    publish(company, "events", D2 + timedelta(days=1), messages + clicks)
    ds = D2 + timedelta(days=4)
    publish_scores(company, ds, EARLIER, model="model-2")
    monitor(company.context(), ds)
    found = {
        (row["name"], row["model_version"]): row["value"]
        for row in company.rows("metrics")
        if row["name"].startswith("matured_") and row["stage"] == "click"
    }
    for model, day in (("model-1", D1), ("model-2", D2)):
        positives = sum(click["event_id"].startswith(f"click {day}") for click in clicks)
        assert found["matured_exposures", model] == 1_500
        assert found["matured_positives", model] == positives
    assert found["matured_calibration_gap", "model-1"] > 1
    assert found["matured_calibration_gap", "model-2"] == 0
    assert not any("calibration gap" in line for line in warnings(company))
    view = connect(company.settings, "SELECT * FROM model_quality").sql("SELECT * FROM model_quality").df()
    assert sorted(view["model_version"]) == ["model-1", "model-2"]
    (first,) = view[view["model_version"] == "model-1"].to_dict("records")
    for column in ("auc", "calibration_error", "calibration_gap", "lift", "exposures", "positives"):
        assert first[column] == found[f"matured_{column}", "model-1"]


def test_a_new_stage_has_no_night_before(nights: Company) -> None:
    text = nights.config.read_text(encoding="utf-8")
    new = '{ name = "repay", event = "repay", window_days = 1 },\n]\n[source.events]'
    nights.config.write_text(text.replace("]\n[source.events]", new), encoding="utf-8")
    stages = (*STAGES, "repay")
    rows = [
        {"user_id": user, "model_version": "m2", "run_id": "night"}
        | {f"p_{stage}": p for stage in stages}
        | {f"band_{stage}": 1 for stage in stages}
        for user, p in TONIGHT.items()
    ]
    publish(nights, "user_scores", D2, rows)
    monitor(nights.context(), D2)
    found = figures(nights, D2)
    assert found["mean_score", "repay"] == pytest.approx(found["mean_score", "click"])
    assert ("score_psi", "click") in found and ("score_psi", "repay") not in found
