"""The Census-Income benchmark reads, splits, sizes, chooses and measures as its report says."""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from model import FeatureSpec
from tests.benchmarks.census_data import COLUMNS, FILE, GROUPS, NOT_INPUTS, features, read, split
from tests.benchmarks.census_measures import Judged, find_jobs, placements
from tests.benchmarks.census_models import (
    MMOE,
    NETWORKS,
    SINGLE,
    TREES,
    TRIALS,
    choose,
    compute_budget,
    configurations,
    final_jobs,
    fitted,
    network_config,
    run,
    scores_path,
    tree_inputs,
    tuning_jobs,
)
from tests.benchmarks.census_report import MARGIN, reasons, report, verdicts
from tests.benchmarks.tuning import parameters
from tests.support.places import SHARED_DATA

pytestmark = pytest.mark.slow

ROWS = 600
PERSON = dict.fromkeys(COLUMNS, "Not in universe") | dict.fromkeys(
    ("age", "employer_size", "weeks_worked", "wage_per_hour", "capital_gains", "capital_losses", "dividends"), "0"
)


def write(folder: Path, people: list[dict[str, str]]) -> Path:
    lines = [", ".join((PERSON | person)[name] for name in COLUMNS) for person in people]
    (folder / FILE).write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Invented people: the older they are, the more of them are married and earn much."""
    draw = np.random.default_rng(0)
    people = []
    for age, chance in zip(draw.integers(0, 91, ROWS), draw.random(ROWS), strict=True):
        people.append(
            {
                "age": str(age),
                "industry": str(draw.integers(0, 5)),
                "dividends": "0" if chance < 0.9 else str(draw.integers(1, 2000)),
                "education": "Masters degree(MA MS MEng MEd MSW MBA)" if draw.random() < age / 150 else "Children",
                "marital_status": "Never married" if draw.random() > age / 90 else "Widowed",
                "income": "50000+." if draw.random() < age / 120 else "- 50000.",
            }
        )
    return write(tmp_path_factory.mktemp("census"), people)


@pytest.fixture(scope="module")
def spec(folder: Path) -> FeatureSpec:
    return FeatureSpec.fit(features(), split(read(folder)).train)


@pytest.fixture(scope="session")
def census() -> Path:
    if not (SHARED_DATA / "census_income" / FILE).is_file():
        pytest.skip(f"no Census-Income data at {SHARED_DATA}; set FUNNEL_TEST_DATA to the folder of census_income/")
    return SHARED_DATA / "census_income"


def test_labels_are_read_from_the_columns_of_the_tasks(tmp_path: Path) -> None:
    people = [
        {"education": "Some college but no degree", "marital_status": "Never married", "income": "- 50000."},
        {"education": "Associates degree-occup /vocational", "marital_status": "Widowed", "income": "50000+."},
        {"education": "High school graduate", "marital_status": "Divorced", "income": "50000+."},
        {"education": "Doctorate degree(PhD EdD)", "marital_status": "Married-A F spouse present"},
    ]
    table = read(write(tmp_path, people))
    assert table["label_college"].to_pylist() == [0, 1, 0, 1]
    assert table["label_never_married"].to_pylist() == [1, 0, 0, 0]
    assert table["label_income"].to_pylist() == [0, 1, 1, 0]


def test_no_column_of_a_task_nor_the_weight_is_an_input(folder: Path) -> None:
    names = {each.name for each in features()}
    assert not names & set(NOT_INPUTS)
    assert {name.removesuffix("_exact") for name in names} == set(COLUMNS) - set(NOT_INPUTS)
    assert not set(NOT_INPUTS) & set(read(folder).column_names)


def test_an_amount_of_0_is_null_as_a_number_and_0_as_a_label(tmp_path: Path) -> None:
    table = read(write(tmp_path, [{"dividends": "0"}, {"dividends": "250"}]))
    assert table["dividends"].to_pylist() == [None, 250.0]
    assert table["dividends_exact"].to_pylist() == ["0", "250"]


def test_the_split_is_two_to_one_with_a_fifth_for_validation_and_no_row_twice() -> None:
    parts = split(pa.table({"row": np.arange(1500)}))
    rows = [set(part["row"].to_pylist()) for part in (parts.train, parts.validation, parts.test)]
    assert [len(each) for each in rows] == [800, 200, 500]
    assert set.union(*rows) == set(range(1500))
    again = split(pa.table({"row": np.arange(1500)}))
    assert again.test.equals(parts.test) and again.train.equals(parts.train)


def test_all_networks_of_a_group_have_the_same_number_of_parameters_within_a_hundredth(spec: FeatureSpec) -> None:
    whole = compute_budget(spec, GROUPS["income"])
    for model in NETWORKS:
        sizes = []
        for tasks in fitted("income", model):
            config = network_config(model, configurations(model)[0], spec, tasks, budget=compute_budget(spec, tasks))
            assert (config.architecture, config.head) == (model, "independent")
            sizes.append(parameters(spec, tasks, config))
        assert sum(sizes) == pytest.approx(whole, rel=0.01), model


def test_every_model_is_tried_with_equally_many_configurations_and_none_twice() -> None:
    for model in (*NETWORKS, TREES):
        tried = configurations(model)
        assert len({str(options) for options in tried}) == TRIALS
    own = {str({**options, "l2_constraint": None}) for options in configurations("l2_constrained")}
    assert own == {str({**options, "l2_constraint": None}) for options in configurations(MMOE)}


def test_only_final_fits_are_judged_on_the_test_part_and_each_model_has_a_fit_a_seed() -> None:
    tried = tuning_jobs()
    assert {job["judged"] for job in tried} == {"validation"}
    chosen = choose(tried, [{"auc": dict.fromkeys(job["tasks"], 0.5)} for job in tried])
    final = final_jobs(chosen, 3)
    assert {job["judged"] for job in final} == {"test"}
    assert {job["seed"] for job in final}.isdisjoint(job["seed"] for job in tried)
    for group, model in product(GROUPS, (*NETWORKS, TREES)):
        for tasks in fitted(group, model):
            mine = {job["seed"] for job in final if job["model"] == model and job["tasks"] == list(tasks)}
            assert mine == {0, 1, 2}


def test_a_model_of_its_own_for_each_task_gets_a_configuration_of_its_own_for_each_task() -> None:
    tried = tuning_jobs()
    # For every model, the first configuration is best for income, the last for never married.
    results = [{"auc": {task: _rank(job, task) for task in job["tasks"]}} for job in tried]
    chosen = choose(tried, results)
    for model in (SINGLE, TREES):
        assert chosen[(model, "income")] == configurations(model)[0]
        assert chosen[(model, "never_married")] == configurations(model)[-1]


def _rank(job: dict, task: str) -> float:
    place = configurations(job["model"]).index(job["options"])
    return place / 10 if task == "never_married" else -place / 10


def test_trees_read_a_label_by_its_code_in_the_training_rows_and_a_new_one_as_missing(tmp_path: Path) -> None:
    table = read(write(tmp_path, [{"race": race, "age": age} for race, age in (("a", "7"), ("b", "8"), ("c", "9"))]))
    train, later = tree_inputs([table.slice(0, 2), table.slice(1, 2)])
    names = [each.name for each in features()]
    race, age = names.index("race"), names.index("age")
    assert train[0, race] != train[1, race] == later[0, race]
    assert np.isnan(later[1, race])
    assert later[:, age].tolist() == [8.0, 9.0]


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_placement_of_either_class_is_the_auc_also_where_scores_tie(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], draw.integers(0, 2, 80)])
    scores = draw.integers(0, 10, 82) / 10
    positives, negatives = placements(labels, scores)
    assert positives.mean() == pytest.approx(roc_auc_score(labels, scores))
    assert negatives.mean() == pytest.approx(roc_auc_score(labels, scores))


def make_judged(shift: float, *, seeds: int = 3, n: int = 2000, group: str = "income", task: str = "income") -> Judged:
    """Every model ranks alike up to noise; MMoE's positives are lifted by ``shift``."""
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1], [n - n // 4, n // 4])
    shared = labels + draw.normal(size=n)
    scores = {}
    for model in (*NETWORKS, TREES):
        noise = 0.05 * draw.normal(size=(seeds, n))
        scores[model] = shared + noise + (shift * labels if model == MMOE else 0.0)
    return Judged(group, task, labels, scores)


def test_the_error_over_people_is_what_drawing_people_anew_gives() -> None:
    judged = make_judged(0.05, seeds=2, n=800)
    seeds, overall = judged.over_seeds(MMOE, TREES), judged.overall(MMOE, TREES)
    people = (overall.half**2 - seeds.half**2) ** 0.5 / 1.96
    draw, means = np.random.default_rng(1), []
    for _ in range(150):
        rows = draw.integers(0, len(judged.labels), len(judged.labels))
        again = Judged("", "", judged.labels[rows], {each: judged.scores[each][:, rows] for each in (MMOE, TREES)})
        means.append(again.over_seeds(MMOE, TREES).mean)
    assert people == pytest.approx(np.std(means), rel=0.25)


def test_a_model_beside_itself_differs_by_nothing() -> None:
    judged = make_judged(0.0)
    assert judged.overall(MMOE, MMOE) == (0.0, 0.0)


@pytest.mark.parametrize(("shift", "word"), [(0.3, "holds"), (-0.3, "fails")])
def test_the_report_says_plainly_whether_mmoe_is_ahead(shift: float, word: str) -> None:
    text = "\n".join(verdicts([make_judged(shift)]))
    assert f"reaches LightGBM less {MARGIN} on every task: {word}" in text
    assert f"beats shared_bottom on the main task: {word}" in text
    assert f"beats single_task on the main task: {word}" in text
    assert text.count("beyond the noise of seeds and people") == 3


def test_a_fit_of_a_network_and_of_trees_learns_and_leaves_its_scores_of_the_test_part(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lightgbm")
    pytest.importorskip("rtdl_num_embeddings")
    labels = split(read(folder)).test["label_never_married"].to_numpy()
    for model, tasks in ((MMOE, ["income", "never_married"]), (TREES, ["never_married"])):
        job = {"model": model, "tasks": tasks, "options": configurations(model)[0], "seed": 0, "judged": "test"}
        measured = run(folder, tmp_path, job)["auc"]["never_married"]
        scores = np.load(scores_path(tmp_path, job))[:, -1]
        assert measured == roc_auc_score(labels, scores)
        assert measured > 0.7


def test_a_task_of_both_groups_counts_once_in_what_a_group_took() -> None:
    tried = tuning_jobs()
    chosen = choose(tried, [{"auc": dict.fromkeys(job["tasks"], 0.5)} for job in tried])
    final = final_jobs(chosen, 2)
    for group, model in product(GROUPS, (*NETWORKS, TREES)):
        mine = [(final[place]["seed"], *final[place]["tasks"]) for place in find_jobs(final, group, model)]
        assert sorted(mine) == sorted((seed, *tasks) for seed in (0, 1) for tasks in fitted(group, model))


def test_the_report_is_a_page_and_a_plot(tmp_path: Path) -> None:
    judged = [make_judged(0.0, n=400, group=group, task=task) for group, tasks in GROUPS.items() for task in tasks]
    tried = tuning_jobs()
    chosen = choose(tried, [{"auc": dict.fromkeys(job["tasks"], 0.5)} for job in tried])
    jobs = final_jobs(chosen, 3)
    results = [{"length": 5, "seconds": 2.0, "parameters": 10, "rows_per_second": 100} for _ in jobs]
    text = report(judged, jobs, results, tmp_path, command="python -m x")
    assert (tmp_path / "census_income.md").read_text(encoding="utf-8") == text
    assert "<svg" in (tmp_path / "census_income.svg").read_text(encoding="utf-8")
    for model in (*NETWORKS, TREES):
        assert text.count(f"\n| {model} | ") == 6  # in each group, a row per task and a row of costs


def test_the_real_file_has_the_rows_rates_and_correlations_that_its_description_gives(census: Path) -> None:
    table = read(census)
    assert table.num_rows == 99_762
    labels = {task: table[f"label_{task}"].to_numpy() for task in ("income", "college", "never_married")}
    assert labels["income"].mean() == pytest.approx(0.0620, abs=5e-5)
    for main, correlation in (("income", -0.18), ("college", -0.24)):
        assert np.corrcoef(labels[main], labels["never_married"])[0, 1] == pytest.approx(correlation, abs=0.005)


def test_what_averaging_the_seeds_gains_is_told_of_the_main_task() -> None:
    judged = make_judged(0.0)
    own = roc_auc_score(judged.labels, judged.scores[MMOE].mean(axis=0))
    assert judged.averaged(MMOE) == pytest.approx(own) and own > np.mean(judged.aucs(MMOE))
    main = Judged("income", "income", judged.labels, judged.scores)
    assert f"{MMOE} has {own:.4f}" in reasons([main])
