"""The shared model against separate models: planted seesaws, intervals by scipy, scores by separate fits."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from model import Categorical, ModelConfig, Numeric, Seesaw, Task, TrainConfig, fit, seesaw
from model.calibration.calibrators import sigmoid
from tests.model.funnels import draw_funnel

ROWS = 1_600
HELD = np.arange(ROWS) >= 800
STARVED = ModelConfig(
    architecture="shared_bottom", head="independent", expert_units=(1,), tower_units=(), activation="tanh"
)
QUICK = TrainConfig(epochs=4, learning_rate=0.05, batch_size=256, device="cpu")


def draw_table(directions: dict[str, list[float]], *, taught: dict[str, range]) -> pa.Table:
    """Draw twelve numbers per row and a binary task per direction of its logit.

    Labels are known in the held-out rows and in the rows ``taught``.
    """
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, 12))
    columns = {f"x{column}": x[:, column] for column in range(12)}
    for task, direction in directions.items():
        label = (draw.random(ROWS) < sigmoid(x[:, : len(direction)] @ np.array(direction))).astype(int)
        columns[f"label_{task}"] = pa.array(label, mask=~HELD & ~np.isin(np.arange(ROWS), taught[task]))
    return pa.table(columns)


def compare(table: pa.Table, tasks: list[str], model: ModelConfig) -> Seesaw:
    return seesaw(
        table,
        features=[Numeric(f"x{column}") for column in range(12)],
        tasks=tasks,
        held_out=np.repeat(HELD[:, None], len(tasks), axis=1),
        model=model,
        training=QUICK,
        seeds=range(3),
    )


@pytest.mark.slow
def test_a_bottom_too_small_for_two_directions_is_a_seesaw():
    same, other = [2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 1.0, 1.0]
    taught = {"click": range(800), "register": range(60), "unlike": range(800)}
    found = compare(draw_table({"click": same, "register": same, "unlike": other}, taught=taught), [*taught], STARVED)
    assert found.verdicts["unlike"] == "loses" and found.verdicts["register"] == "wins"
    assert found.difference[2] < -0.1 and found.difference[1] > 0.02
    assert found.is_seesaw and "unlike" in found.losers and "register" in found.winners


def test_agreeing_tasks_are_no_seesaw():
    same = [2.0, 2.0, 2.0]
    taught = {"click": range(50), "register": range(50, 100)}
    found = compare(draw_table({"click": same, "register": same}, taught=taught), [*taught], STARVED)
    assert found.losers == () and not found.is_seesaw
    assert (found.difference > 0.02).all()  # each learns from the other's rows


def by_hand(shared: np.ndarray, single: np.ndarray) -> Seesaw:
    seeds, tasks = shared.shape
    names = tuple(f"t{task}" for task in range(tasks))
    return Seesaw(names, ("AUC",) * tasks, tuple(range(seeds)), shared, single)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_interval_is_students_t_over_paired_differences(seeds):
    draw = np.random.default_rng(seeds)
    shared, single = draw.random((2, seeds, 5))
    found = by_hand(shared, single)
    for task in range(5):
        paired = shared[:, task] - single[:, task]
        low, high = stats.t.interval(0.95, seeds - 1, loc=paired.mean(), scale=stats.sem(paired))
        np.testing.assert_allclose(found.interval[task], [low, high], rtol=1e-9)
        assert found.difference[task] == pytest.approx(paired.mean())
        p = stats.ttest_rel(shared[:, task], single[:, task]).pvalue
        assert (found.verdicts[f"t{task}"] == "undecided") == (p > 0.05)


@pytest.mark.parametrize(
    ("gains", "verdicts", "is_seesaw", "conclusion"),
    [
        ([0.1, -0.1, 0.0], ["wins", "loses", "undecided"], True, "a seesaw over 2 seeds: sharing wins t0 and loses t1"),
        ([0.1, 0.1, 0.0], ["wins", "wins", "undecided"], False, "no seesaw over 2 seeds: sharing wins t0, t1"),
        ([-0.1, 0.0, 0.0], ["loses", "undecided", "undecided"], False, "no seesaw over 2 seeds: sharing loses t0"),
        ([0.0, 0.0, 0.0], ["undecided"] * 3, False, "no seesaw over 2 seeds: sharing decides nothing"),
    ],
)
def test_a_seesaw_needs_a_winner_and_a_loser(gains, verdicts, is_seesaw, conclusion):
    jitter = np.array([[0.001], [-0.001]])
    found = by_hand(0.5 + np.array(gains) + jitter, np.full((2, 3), 0.5))
    assert list(found.verdicts.values()) == verdicts
    assert found.is_seesaw == is_seesaw
    assert str(found).splitlines()[-1] == conclusion


@pytest.fixture(scope="module")
def small() -> dict:
    """A funnel and a regression, with context, masks that differ by task, and non-default options."""
    table = draw_funnel(400).table
    spend = np.random.default_rng(0).normal(size=400) + table["age"].to_numpy() / 10
    rows = np.arange(400)
    return {
        "data": table.append_column("label_spend", pa.array(spend)),
        "features": [Numeric("age"), Categorical("city"), Categorical("offer", context=True)],
        "tasks": ["click", Task("spend", kind="regression", loss_weight=0.0)],
        "held_out": np.stack([rows >= 250, rows < 120], axis=1),
        "model": ModelConfig(experts=2, expert_units=(4,), tower_units=(4,), dropout=0.1, numeric_embedding="periodic"),
        "training": TrainConfig(epochs=3, stop_on="click", patience=1, device="cpu"),
    }


def own_model(small: dict, column: int, held_out: np.ndarray | pa.Table | None, seed: int):
    return fit(
        small["data"],
        features=small["features"],
        tasks=["click" if column == 0 else Task("spend", kind="regression")],
        held_out=held_out,
        model=dataclasses.replace(small["model"], architecture="single_task", head="independent"),
        training=dataclasses.replace(small["training"], seed=seed, stop_on=None),
    )


@pytest.mark.slow
def test_scores_equal_those_of_separate_fits_on_the_held_out_rows(small):
    found = seesaw(**small, seeds=[3, 8])
    assert found.tasks == ("click", "spend") and found.scores == ("AUC", "R²") and found.seeds == (3, 8)
    for row, seed in enumerate(found.seeds):
        shared = fit(**small | {"training": dataclasses.replace(small["training"], seed=seed)}).metrics
        assert found.shared[row].tolist() == [shared["click"].auc, shared["spend"].r2]
        own = [own_model(small, column, small["held_out"][:, [column]], seed).metrics for column in range(2)]
        assert found.single[row].tolist() == [own[0]["click"].auc, own[1]["spend"].r2]


@pytest.mark.parametrize("held_rows", [0, 150])
def test_a_test_table_replaces_the_held_out_rows(small, held_rows):
    rows, test = small["data"], small["data"].slice(100, 200)
    held_out = rows.slice(0, held_rows) if held_rows else None
    training = dataclasses.replace(small["training"], stop_on=None)
    found = seesaw(**small | {"held_out": held_out, "training": training}, seeds=[0, 1], test=test)
    shared = fit(**small | {"held_out": held_out, "training": training}).evaluate(test, hide_context=True)
    assert found.shared[0].tolist() == [shared["click"].auc, shared["spend"].r2]
    own = own_model(small, 1, held_out, 1).evaluate(test, hide_context=True)
    assert found.single[1, 1] == own["spend"].r2


def one_class(table: pa.Table) -> pa.Table:
    return table.filter(pa.compute.equal(table["label_click"], 0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [4]}, r"seeds are \[4\], not at least 2 distinct ones: an interval needs them"),
        ({"seeds": [4, 4]}, r"seeds are \[4, 4\], not at least 2 distinct ones: an interval needs them"),
        ({"seeds": [0, -1]}, "seed is -1, not a non-negative integer"),
        ({"held_out": None}, "held_out and test are both None; one of them has the rows to compare models on"),
        ({"held_out": np.zeros((400, 2), bool)}, "task 'click' needs two distinct labels among the rows to compare.*"),
        ({"held_out": np.zeros((400, 1), bool)}, r"held_out is bool of shape \(400, 1\), not bool of shape \(400, 2\)"),
        ({"test": one_class}, "task 'click' needs two distinct labels among the rows to compare models on"),
        ({"held_out": one_class}, "task 'click' needs two distinct labels among the rows to compare models on"),
        ({"data": lambda table: table.slice(0, 0), "test": lambda table: table}, "the table has no rows to train on"),
        ({"tasks": []}, r"tasks is \[\], not a sequence of at least one task"),
    ],
)
def test_incomparable_input_is_rejected_in_one_line(small, changes, words):
    made = {name: change(small["data"]) if callable(change) else change for name, change in changes.items()}
    with pytest.raises(ValueError, match=f"^{words}$"):
        seesaw(**small | made)
