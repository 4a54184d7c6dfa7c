"""The funnel benchmark's split, metrics and fits, on a few rows."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from model import Categorical, Numeric
from tests.benchmarks.funnel import (
    HIDDEN,
    MMOE,
    NETWORKS,
    SINGLE,
    TAUGHT,
    TREES,
    choose,
    compute_budget,
    final_jobs,
    network_config,
    run,
    tuning_jobs,
)
from tests.benchmarks.funnel_data import Borders, Funnel, assign_part, read, write
from tests.benchmarks.funnel_measures import TRUTH, Judged, Rarest, Spread, auc_and_influence, expected_auc
from tests.benchmarks.funnel_report import report
from tests.benchmarks.tuning import FeatureSpec, parameters

pytestmark = pytest.mark.slow

STAGES, WINDOWS = ("click", "buy"), (1, 3)
FIRST, DAYS = date(2026, 1, 1), 60
DAY = np.timedelta64(1, "D")


@pytest.fixture(scope="module")
def funnel() -> Funnel:
    """Texts of 60 days; a click depends on x and the offer, a purchase on a click and x again."""
    rng = np.random.default_rng(0)
    n = 1500
    exposed = np.datetime64(FIRST, "us") + np.sort(rng.integers(0, DAYS * 86_400_000_000, n)).astype("timedelta64[us]")
    x, offer = rng.normal(size=n), rng.integers(0, 2, n)
    click = 1 / (1 + np.exp(1 - x - offer))
    truth = np.stack([click, click / (1 + np.exp(1 - x))])
    drawn = rng.random(n)
    borders = Borders.before(FIRST + timedelta(days=DAYS - 1), longest_window=max(WINDOWS))
    instants = tuple(np.array([borders.validation, borders.test, borders.end], "datetime64[us]"))
    columns = {
        "user_id": pa.array(rng.integers(0, 400, n).astype(str)),
        "exposure_time": pa.array(exposed, pa.timestamp("us", tz="UTC")),
        "exposure_date": pa.array(exposed.astype("datetime64[D]")),
        "x": pa.array(np.where(rng.random(n) < 0.1, np.nan, x), from_pandas=True),
        "context_offer": pa.array(np.array(["cash", "gift"])[offer]),
    }
    for stage, window, p in zip(STAGES, WINDOWS, truth, strict=True):
        columns[f"label_{stage}"] = pa.array((drawn < p).astype(np.int32))
        columns[f"truth_{stage}"] = pa.array(p)
        columns[f"part_{stage}"] = pa.array(assign_part(exposed, window, instants))
    features = (Numeric("x"), Categorical("context_offer"))
    return Funnel("lender", pa.table(columns), features, ("context_offer",), STAGES, WINDOWS, borders)


@given(st.lists(st.integers(0, 59 * 24), min_size=1, max_size=30), st.integers(1, 14))
def test_no_label_of_a_part_needs_a_day_beyond_it(hours: list[int], window: int) -> None:
    exposed = np.datetime64("2026-01-01", "us") + np.array(hours).astype("timedelta64[h]")
    borders = tuple(np.array(["2026-01-20", "2026-02-10", "2026-02-20"], "datetime64[us]"))
    parts = assign_part(exposed, window, borders)
    closed = exposed + window * DAY
    assert (closed[parts == "train"] <= borders[0]).all()
    assert (exposed[parts == "validation"] >= borders[0]).all()
    assert (closed[parts == "validation"] <= borders[1]).all()
    assert ((exposed >= borders[1]) & (exposed < borders[2]) == (parts == "test")).all()


def test_the_last_test_label_matures_on_the_last_day() -> None:
    borders = Borders.before(date(2026, 4, 30), longest_window=14)
    last_exposed = borders.end - timedelta(days=1)
    assert last_exposed + timedelta(days=14) == date(2026, 4, 30)
    assert borders.validation < borders.test < borders.end


def test_parts_share_no_label_and_all_stages_are_judged_on_the_same_rows(funnel: Funnel) -> None:
    split = funnel.split()
    counts = [
        sum(table.num_rows - table[f"label_{stage}"].null_count for table in vars(split).values()) for stage in STAGES
    ]
    assert counts == [int((np.asarray(funnel.table[f"part_{stage}"]) != "").sum()) for stage in STAGES]
    assert all(split.test[f"label_{stage}"].null_count == 0 for stage in STAGES)
    # The rows nearest the border teach only the stage with the shorter window.
    assert split.train["label_buy"].null_count > split.train["label_click"].null_count


def test_a_funnel_comes_back_from_its_file_as_it_went(funnel: Funnel, tmp_path: Path) -> None:
    write(funnel, tmp_path / "lender.parquet")
    back = read(tmp_path / "lender.parquet")
    assert back.table.equals(funnel.table)
    assert (back.features, back.context, back.stages) == (funnel.features, funnel.context, funnel.stages)
    assert (back.windows_days, back.borders) == (funnel.windows_days, funnel.borders)
    assert back.features_with_context()[1] == Categorical("context_offer", context=True)


@pytest.mark.parametrize("model", NETWORKS)
def test_every_network_is_within_a_few_percent_of_the_budget(funnel: Funnel, model: str) -> None:
    spec = FeatureSpec.fit(funnel.features, funnel.table)
    fitted = [(stage,) for stage in STAGES] if model == SINGLE else [STAGES]
    whole = compute_budget(funnel, funnel.table, STAGES)
    sizes = []
    for stages in fitted:
        budget = compute_budget(funnel, funnel.table, stages)
        sizes.append(parameters(spec, stages, network_config(model, {"dropout": 0.0}, spec, stages, budget=budget)))
    assert abs(sum(sizes) - whole) < 0.03 * whole


def test_each_stage_of_a_model_per_stage_keeps_the_options_that_suited_it_best(funnel: Funnel) -> None:
    tried = [job for job in tuning_jobs(funnel, 2) if job["model"] == TREES]
    # The first options are better for clicks, the second for purchases.
    losses = {("click", 0): 0.1, ("click", 1): 0.2, ("buy", 0): 0.4, ("buy", 1): 0.3}
    order = [tried[0]["options"], tried[-1]["options"]]
    results = [{"validation_loss": losses[job["stages"][0], order.index(job["options"])]} for job in tried]
    assert choose(tried, results) == {(TREES, "click"): order[0], (TREES, "buy"): order[1]}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=40))
def test_the_auc_is_that_of_scikit_learn_and_the_influences_add_up_to_nothing(rows: list[tuple[int, int]]) -> None:
    score, label = map(np.array, zip(*rows, strict=True))
    if len(set(label)) < 2:
        return
    whole, influence = auc_and_influence(score, label)
    assert whole == pytest.approx(roc_auc_score(label, score))
    assert influence.sum() == pytest.approx(0.0, abs=1e-12)


def test_the_auc_to_expect_is_the_mean_auc_of_labels_drawn_by_the_truth() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(500) ** 3
    score = truth + 0.3 * rng.normal(size=500)
    drawn = [roc_auc_score(rng.random(500) < truth, score) for _ in range(100)]
    assert expected_auc(score, truth) == pytest.approx(np.mean(drawn), abs=0.008)


def test_the_bootstrap_draws_users_with_all_their_rows() -> None:
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(200), 5)
    effect = rng.normal(size=200)
    gap = Spread(user, replicates=2000).mean(effect[user][None])[:, 0]
    # Five equal rows per user carry no more information than one: the deviation is that of 200 values, not 1,000.
    assert gap.std() == pytest.approx(effect.std() / 200**0.5, rel=0.1)
    low, high = Spread(user, replicates=500).difference(np.zeros((500, 3)), np.ones((500, 1)))
    assert (low, high) == (1.0, 1.0)


def test_the_bootstrap_of_the_auc_is_near_the_auc_of_the_rows_drawn() -> None:
    rng = np.random.default_rng(3)
    user, label = np.repeat(np.arange(400), 3), (rng.random(1200) < 0.2).astype(float)
    score = label + rng.normal(size=1200)
    spread = Spread(user, replicates=200)
    exact = [roc_auc_score(label, score, sample_weight=times[user]) for times in spread.times]
    error = spread.auc(score[None], label)[:, 0] - exact
    assert np.sqrt(np.mean(error**2)) < 0.15 * np.std(exact)


def test_from_jobs_to_the_report(funnel: Funnel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.funnel.EPOCHS", 2)
    monkeypatch.setattr("tests.benchmarks.funnel.ROUNDS", 20)
    pytest.importorskip("lightgbm")
    write(funnel, tmp_path / "lender.parquet")
    tried = [job for job in tuning_jobs(funnel, 1) if job["model"] in (MMOE, TREES)]
    chosen = choose(tried, [run(tmp_path, job) for job in tried])
    models = {MMOE: 2, HIDDEN: 2, TREES: 2, TAUGHT: 1}
    unasked = {(model, *STAGES): {} for model in NETWORKS} | {(SINGLE, stage): {} for stage in STAGES}
    jobs = [job for job in final_jobs(funnel, unasked | chosen, 2) if job["model"] in models]
    results = [run(tmp_path, job) for job in jobs]
    judged = Judged.of(funnel, jobs, tmp_path)
    assert {model: len(each) for model, each in judged.scores.items()} == models
    assert not any(np.isnan(each).any() for each in judged.scores.values())
    rarest = Rarest.of(judged, replicates=50)
    assert rarest.true_auc and rarest.true_auc[TRUTH][0] > 0
    report([(funnel, jobs, results)], tmp_path, tmp_path / "results", replicates=50)
    written = (tmp_path / "results" / "funnel.md").read_text(encoding="utf-8")
    assert f"| {HIDDEN} |" in written and "wins against" in written
    assert (tmp_path / "results" / "funnel.svg").stat().st_size < 200_000
