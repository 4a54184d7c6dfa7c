"""Train and score a simulated lender: one load, two models, a few nights, and all that a user may check."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pyspark
import pytest

from model import Bundle
from pipeline.config.settings import load
from pipeline.dates import DateRange
from pipeline.features.examples import build_examples
from pipeline.features.samples import is_sampled
from pipeline.models.registry import Registry
from pipeline.monitoring.monitor import monitor
from pipeline.nights import load_history
from pipeline.runs.context import Context
from pipeline.scoring.predict import thousandths_of_log_odds
from pipeline.scoring.scoring import score, with_bands
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from pipeline.training.steps import train
from tests.support.commands import Ended
from tests.support.company import SMALL_SPARK, Company
from tests.support.funnels import files_by_day, sms
from tests.support.places import ROOT

START = date(2026, 1, 1)
TRAINED = START + timedelta(days=54)
NIGHT, NEXT_NIGHT = TRAINED + timedelta(days=1), TRAINED + timedelta(days=2)
DEMO = files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8")
OF_A_RUN = ("run_id", "scored_at")
STAGES = ("click", "register", "complete")


@dataclass
class Lender:
    """A simulated company, its history loaded and the same model trained twice; `scores` by night."""

    company: Company
    versions: tuple[str, str]
    scores: dict[date, pd.DataFrame]

    def score(self, ds: date, config: Path | None = None, model: str | None = None) -> pd.DataFrame:
        settings = load(config or self.company.config)
        score(Context(settings, notify=self.company.lines.append), ds, model=model)
        return self.of(ds)

    def of(self, ds: date) -> pd.DataFrame:
        table = self.company.context().warehouse.arrow("user_scores", first=ds, last=ds)
        return table.to_pandas().sort_values("user_id", ignore_index=True)


@pytest.fixture(scope="module")
def lender(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Lender:
    folder = tmp_path_factory.mktemp("lender")
    # Three texts a week teach from few users what one would from many.
    simulate(Simulation(users=1_500, days=60, start=START, sms_per_week=3, opt_out_share=0.01), folder / "source")
    company = Company(folder, DEMO + SMALL_SPARK)
    load_history(company.context(), DateRange(START, NEXT_NIGHT))
    first, second = (train(company.context(), TRAINED) for _ in range(2))
    made = Lender(company, (first, second), {})
    made.scores = {ds: made.score(ds) for ds in (NIGHT, NEXT_NIGHT)}
    return made


@pytest.mark.slow
class TestLender:
    def test_the_same_seed_and_data_give_the_same_model(self, lender: Lender) -> None:
        registry = Registry(lender.company.settings)
        bundles = [Bundle.load(registry.bundle_path(version)) for version in lender.versions]
        assert lender.versions[0] != lender.versions[1]
        examples = lender.company.context().warehouse.arrow("examples", first=TRAINED, last=TRAINED)
        first, second = (bundle.predict(examples) for bundle in bundles)
        np.testing.assert_array_equal(first.raw, second.raw)
        np.testing.assert_array_equal(first.calibrated, second.calibrated)
        assert len(np.unique(first.raw[:, 0])) > 1_000, "a model that tells nobody apart would be the same too"

    def test_an_equal_challenger_is_refused(self, lender: Lender) -> None:
        registry = Registry(lender.company.settings)
        assert [each.version for each in registry.versions()] == [lender.versions[1], lender.versions[0]]
        assert registry.champion(NIGHT) == lender.versions[0]
        assert lender.company.context().warehouse.arrow("metrics", first=TRAINED, last=TRAINED).num_rows > 0
        first, second = (f"model {version}: " for version in lender.versions)
        assert f"{first}promoted: the first champion, better than a constant on every stage" in lender.company.lines
        refused = (
            f"warning: promote {TRAINED}: {second}not promoted: not better on stage 'complete': log loss differs by"
        )
        assert any(line.startswith(refused) for line in lender.company.lines)

    def test_every_eligible_user_is_scored_once_and_nobody_else(self, lender: Lender) -> None:
        warehouse = lender.company.context().warehouse
        users = warehouse.arrow("users", first=date.min, last=NIGHT).select(["user_id", "consent", "landed_on"])
        latest = users.to_pandas().sort_values("landed_on").groupby("user_id").last()
        events = warehouse.arrow("events", first=date.min, last=NIGHT).select(["user_id", "event"]).to_pandas()
        completed = set(events.loc[events["event"] == "complete", "user_id"])
        withdrawn = set(latest.index[latest["consent"] == False])  # noqa: E712 - null is no withdrawal
        assert len(completed) > 10 and len(withdrawn) > 10
        scored = list(lender.scores[NIGHT]["user_id"])
        assert sorted(scored) == sorted(set(latest.index) - completed - withdrawn)
        assert len(set(scored)) == len(scored)

    def test_scores_are_probabilities_and_monotone_along_the_funnel(self, lender: Lender) -> None:
        for scores in lender.scores.values():
            for kind in ("p", "raw"):
                values = scores[[f"{kind}_{stage}" for stage in STAGES]].to_numpy()
                assert np.isfinite(values).all() and (values > 0).all() and (values < 1).all()
                assert (np.diff(values, axis=1) <= 0).all()

    @pytest.mark.parametrize("ds", [TRAINED, NIGHT])
    def test_training_and_scoring_keep_a_sample_of_features(self, lender: Lender, ds: date) -> None:
        warehouse = lender.company.context().warehouse
        sample = warehouse.arrow("feature_samples", first=ds, last=ds).to_pandas().set_index("user_id")
        if ds == NIGHT:
            assert sorted(sample.index) == sorted(lender.scores[NIGHT]["user_id"])
        users = warehouse.arrow("users", first=date.min, last=ds).to_pandas().sort_values("landed_on")
        latest = users.groupby("user_id").last().loc[sample.index]
        pd.testing.assert_series_equal(sample["city_tier"], latest["city_tier"])
        pd.testing.assert_series_equal(sample["age"], latest["age"])
        tiles = warehouse.arrow("activity", first=date.min, last=ds).to_pandas()
        week = tiles[(tiles["event"] == "exposure") & (tiles["event_date"] > ds - timedelta(days=7))]
        counts = week.groupby("user_id")["n"].sum().reindex(sample.index, fill_value=0)
        assert sample["exposure_n_7d"].tolist() == counts.tolist()

    def test_unchanged_users_raise_no_warning(self, lender: Lender) -> None:
        lender.company.lines.clear()
        monitor(lender.company.context(), NIGHT)
        assert not [line for line in lender.company.lines if line.startswith("warning")]
        rows = lender.company.rows("metrics")
        found = {row["name"] for row in rows if row["ds"] == NIGHT and row["model_version"] == lender.versions[0]}
        assert {"score_psi_training", "feature_psi", "feature_missing_change", "feature_unseen_share"} <= found
        (held_out,) = (
            row["value"]
            for row in rows
            if (row["name"], row["stage"], row["model_version"]) == ("held_out_auc", "click", lender.versions[1])
        )
        assert 0.5 < held_out < 1

    def test_bands_are_ten_equal_shares_by_raw_score(self, lender: Lender) -> None:
        scores = lender.scores[NIGHT]
        for stage in STAGES:
            shares = scores[f"band_{stage}"].value_counts(normalize=True)
            assert sorted(shares.index) == list(range(1, 11))
            assert shares.between(0.07, 0.13).all(), shares
            by_band = scores.groupby(f"band_{stage}")[f"raw_{stage}"].agg(["min", "max"])
            # Ranks are of log-odds rounded to a thousandth, so neighbours may differ by that much the other way.
            odds = np.log(by_band / (1 - by_band))
            assert (odds["min"].to_numpy()[1:] >= odds["max"].to_numpy()[:-1] - 1.1e-3).all()

    def test_rerunning_a_night_gives_the_same_partition_and_touches_no_other(self, lender: Lender) -> None:
        before = files_by_day(lender.company, "user_scores")
        again = lender.score(NIGHT)
        pd.testing.assert_frame_equal(
            again.drop(columns=list(OF_A_RUN)), lender.scores[NIGHT].drop(columns=list(OF_A_RUN)), check_exact=True
        )
        assert set(again["run_id"]).isdisjoint(lender.scores[NIGHT]["run_id"])
        after = files_by_day(lender.company, "user_scores")
        assert after[NEXT_NIGHT] == before[NEXT_NIGHT]
        assert after[NIGHT] != before[NIGHT]

    def test_scores_do_not_depend_on_how_spark_splits_the_work(self, lender: Lender) -> None:
        config = lender.company.folder / "cut.toml"
        cut = {"spark.sql.shuffle.partitions": "7", "spark.sql.execution.arrow.maxRecordsPerBatch": "100"}
        text = SMALL_SPARK.replace('conf."spark.sql.shuffle.partitions" = "2"\n', "")
        text += "".join(f'conf."{key}" = "{value}"\n' for key, value in cut.items())
        config.write_text(DEMO + text, encoding="utf-8")
        kept = list(cut.items())
        spark = lender.company.context().spark
        before = {key: spark.conf.get(key) for key, _ in kept}
        try:
            again = lender.score(NIGHT, config)
            assert {key: spark.conf.get(key) for key, _ in kept} == dict(kept)
        finally:
            for key, value in before.items():
                spark.conf.set(key, value)
        pd.testing.assert_frame_equal(
            again.drop(columns=list(OF_A_RUN)), lender.scores[NIGHT].drop(columns=list(OF_A_RUN)), check_exact=True
        )

    def test_executors_in_processes_of_their_own_give_the_same_scores(self, lender: Lender, tmp_path: Path) -> None:
        config = lender.company.folder / "executors.toml"
        cluster = SMALL_SPARK.replace("[spark]\n", '[spark]\nmaster = "local-cluster[2,1,1024]"\n')
        config.write_text(DEMO + cluster, encoding="utf-8")
        # Spark makes its workers' folders at home.
        home = tmp_path / "spark"
        home.mkdir()
        for each in Path(pyspark.__file__).parent.iterdir():
            if each.name != "work":
                (home / each.name).symlink_to(each)
        command = [sys.executable, "-m", "pipeline", "score", "--ds", str(NIGHT), "-c", str(config)]
        variables = os.environ | {"SPARK_HOME": str(home)}
        ended = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert [line for line in ended.stderr.splitlines() if line.startswith("spark:")] == []
        assert len(list((home / "work").glob("app-*/*"))) == 2
        pd.testing.assert_frame_equal(
            lender.of(NIGHT).drop(columns=list(OF_A_RUN)),
            lender.scores[NIGHT].drop(columns=list(OF_A_RUN)),
            check_exact=True,
        )

    def test_stages_release_the_frames_they_cached_and_no_other(self, lender: Lender) -> None:
        spark = lender.company.context().spark
        caches = spark._jsparkSession.sharedState().cacheManager()
        spark.catalog.clearCache()
        other = spark.range(3).cache()
        load_history(lender.company.context(), DateRange(NEXT_NIGHT, NEXT_NIGHT))
        build_examples(lender.company.context(), TRAINED)
        lender.score(NIGHT)
        assert other.storageLevel.useMemory
        other.unpersist()
        assert caches.isEmpty()

    def test_a_row_names_its_model_and_its_run(self, lender: Lender) -> None:
        scores = lender.scores[NEXT_NIGHT]
        assert set(scores["ds"]) == set(scores["feature_as_of"]) == {NEXT_NIGHT}
        assert set(scores["model_version"]) == {lender.versions[0]}
        (run,) = (row for row in lender.company.rows("runs") if row["stage"] == "score" and row["ds"] == NEXT_NIGHT)
        assert run["rows_out"] == len(scores)
        assert run["run_id"] == scores["run_id"].iloc[0]
        assert run["model_version"] == lender.versions[0]
        assert {table for table, _ in run["inputs"]} >= {"activity", "users"}

    def test_a_night_never_uses_a_model_trained_later(self, lender: Lender, funnel: Callable[..., Ended]) -> None:
        before = files_by_day(lender.company, "user_scores")
        early = TRAINED - timedelta(days=1)
        line = funnel("score", "--ds", early, "-c", lender.company.config).complaint
        assert f"no model trained on data up to {early} was promoted: run `funnel train --as-of`" in line
        assert files_by_day(lender.company, "user_scores") == before

    def test_a_named_version_scores_any_night(self, lender: Lender) -> None:
        early = TRAINED - timedelta(days=1)
        assert set(lender.score(early, model=lender.versions[1])["model_version"]) == {lender.versions[1]}
        lender.company.context().warehouse.rollback("user_scores")

    def test_an_unknown_version_names_the_known_ones(self, lender: Lender, funnel: Callable[..., Ended]) -> None:
        line = funnel("score", "--ds", NIGHT, "--model", "best", "-c", lender.company.config).complaint
        assert "no model 'best'" in line
        assert lender.versions[1] in line

    def test_the_planned_campaign_s_context_moves_the_scores(self, lender: Lender) -> None:
        config = lender.company.folder / "planned.toml"
        config.write_text(
            DEMO + SMALL_SPARK + '[scoring]\ncontext = { offer = "gift", hour = "20" }\n', encoding="utf-8"
        )
        planned = lender.score(NIGHT, config)
        unknown = lender.score(NIGHT)
        assert list(planned["user_id"]) == list(unknown["user_id"])
        assert not np.allclose(planned["raw_click"], unknown["raw_click"], rtol=1e-3)

    def test_a_model_of_other_stages_is_refused(self, lender: Lender, funnel: Callable[..., Ended]) -> None:
        config = lender.company.folder / "fewer.toml"
        last = '  { name = "complete", event = "complete_application", window_days = 14 },\n'
        # The demo's campaign values the stage that goes.
        without_campaigns, _, _ = DEMO.partition("[targeting]")
        assert last in without_campaigns
        config.write_text(without_campaigns.replace(last, "") + SMALL_SPARK, encoding="utf-8")
        line = funnel("score", "--ds", NIGHT, "-c", config).complaint
        assert "knows the stages click, register, complete, funnel.stages has click, register" in line

    def test_a_night_of_one_user(
        self, lender: Lender, funnel: Callable[..., Ended], make_company: Callable[..., Company]
    ) -> None:
        company = make_company()
        text = DEMO + SMALL_SPARK + f'[models]\npath = "{lender.company.folder}/models"\n'
        company.config.write_text(text, encoding="utf-8")
        ds = NIGHT.isoformat()
        company.land(NIGHT, [sms("1", "ann", f"{ds}T10:00:00+08:00", campaign="c", offer="x")])
        # The tests' users have other attributes than the simulated ones: two of the four are missing.
        company.config.write_text(
            text.replace('categorical = ["city_tier", "acquisition"]', 'categorical = ["city_tier"]'), encoding="utf-8"
        )
        ended = funnel("nightly", "--ds", ds, "-c", company.config)
        assert ended.code == 1
        company.config.write_text(
            text.replace(
                'consent = "sms_consent" }', 'consent = "sms_consent", acquisition = "\'ad\'", credit_limit = "1000" }'
            ),
            encoding="utf-8",
        )
        company.land(
            NIGHT,
            [sms("1", "ann", f"{ds}T10:00:00+08:00", campaign="c", offer="x")],
            [{"uid": "ann", "sms_consent": True, "city_tier": "tier1", "age": 30.0}],
        )
        ended = funnel("nightly", "--ds", ds, "-c", company.config)
        assert (ended.code, ended.err) == (0, "")
        (row,) = company.rows("user_scores")
        assert row["user_id"] == "ann"
        assert row["p_click"] >= row["p_register"] >= row["p_complete"] > 0
        assert 1 <= row["band_click"] <= 10

    def test_one_stage_without_users_from_load_to_scores(self, lender: Lender, funnel: Callable[..., Ended]) -> None:
        config = lender.company.folder / "one_stage.toml"
        config.write_text(
            '[funnel]\ntimezone = "Asia/Shanghai"\nexposure = "sms_sent"\n'
            'stages = [{ name = "visit", event = "sms_click", window_days = 2 }]\n'
            '[source.events]\npath = "source/events/{ds}"\n'
            'columns = { event_id = "id", user_id = "uid", event = "type", event_time = "ts" }\n'
            "[features]\nwindows_days = [7]\n"
            "[audit]\nmax_quarantine_share = 0.9\n"  # registrations are unknown events to this funnel
            '[warehouse]\npath = "one/warehouse"\n[models]\npath = "one/models"\n' + SMALL_SPARK,
            encoding="utf-8",
        )
        first, last = START + timedelta(days=30), START + timedelta(days=45)
        assert funnel("backfill", "--start", first, "--end", last, "-c", config).err == ""
        trained = funnel("train", "--as-of", last, "-c", config)
        assert (trained.code, trained.err) == (0, "")
        ended = funnel("score", "--ds", last, "-c", config)
        assert (ended.code, ended.err) == (0, "")
        warehouse = Context(load(config)).warehouse
        scores = warehouse.arrow("user_scores", first=last, last=last).to_pandas()
        events = warehouse.arrow("events", first=first, last=last).to_pandas()
        # Its only stage is its last: who has visited is done, and everybody else ever seen is eligible.
        visited = set(events.loc[events["event"] == "visit", "user_id"])
        assert set(scores["user_id"]) == set(events["user_id"]) - visited
        assert scores["p_visit"].between(0, 1).all()
        assert "p_click" not in scores


def test_log_odds_are_whole_thousandths_and_finite() -> None:
    p = np.array([0.0, 1e-12, 0.25, 0.5, 0.75, 1.0 - 1e-12, 1.0, np.nan])
    assert thousandths_of_log_odds(p).tolist() == [-1_000_000, -27_631, -1_099, 0, 1_099, 27_631, 1_000_000, 0]


@pytest.mark.usefixtures("spark")
def test_a_smaller_sample_is_part_of_a_larger_one(company: Company) -> None:
    users = company.context().spark.range(20_000).selectExpr("CAST(id AS STRING) AS user_id")
    many, few = (
        {row.user_id for row in users.where(is_sampled(20_000, wanted)).collect()} for wanted in (4_000, 1_000)
    )
    assert few < many
    # Drawn by a hash: five standard deviations of a binomial.
    assert abs(len(many) - 4_000) < 5 * 57 and abs(len(few) - 1_000) < 5 * 31
    assert users.where(is_sampled(20_000, 20_000)).count() == 20_000


@pytest.mark.usefixtures("spark")
def test_bands_are_by_middle_rank(company: Company) -> None:
    rng = np.random.default_rng(0)
    # Many ties, a value that more than a tenth of the users share, and one value alone.
    drawn = {
        "click": rng.integers(-40, 40, 997),
        "register": np.where(rng.random(997) < 0.35, 7, rng.integers(0, 99, 997)),
    }
    drawn["complete"] = np.full(997, -3)
    stages = tuple(drawn)
    frame = pd.DataFrame({f"log_odds_{stage}": values.astype("int32") for stage, values in drawn.items()})
    frame["user_id"] = [f"u{number}" for number in range(len(frame))]
    banded = with_bands(company.context().spark.createDataFrame(frame), stages).toPandas()
    assert set(banded.columns) == {"user_id", *(f"band_{stage}" for stage in stages)}
    banded = frame.merge(banded, on="user_id", validate="one_to_one")
    for stage in stages:
        middle = banded[f"log_odds_{stage}"].rank(method="average") - 0.5
        expected = 1 + np.floor(10 * middle / len(banded)).astype(int)
        assert banded[f"band_{stage}"].tolist() == expected.tolist()
    assert set(banded["band_click"]) == set(range(1, 11))
    assert set(banded["band_complete"]) == {6}
