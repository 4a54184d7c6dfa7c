"""Losses against manual calculations: row weights, task weights, and learned weights."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from model import ModelConfig, Numeric, Task, TrainConfig, fit
from model.labels import Labels, LabelSummary
from model.training.losses import TaskWeights, task_losses
from tests.model.funnels import FEATURES, TASKS, draw_funnel, replace

SMALL = ModelConfig(experts=2, expert_units=(8,), tower_units=(), embedding_dim=2)


def test_losses_are_weighted_means_by_kind():
    outputs = torch.tensor([[0.0, 1.0], [2.0, 5.0], [1.0, 9.0]])
    targets = torch.tensor([[1.0, 3.0], [0.0, 4.0], [1.0, math.nan]])
    weight = torch.tensor([[3.0, 0.5], [1.0, 1.5], [0.0, 0.0]])
    losses = task_losses(outputs, targets, weight, binary=torch.tensor([True, False]))
    click = (3 * math.log(2) + 1 * (2 + math.log1p(math.exp(-2)))) / 4
    spend = (0.5 * 4 + 1.5 * 1) / 2
    assert losses.tolist() == pytest.approx([click, spend])


def test_parts_of_a_batch_add_up_to_the_whole():
    torch.manual_seed(0)
    outputs, targets, weight = torch.randn(10, 3), torch.rand(10, 3), torch.rand(10, 3)
    whole = task_losses(outputs, targets, weight)
    parts = [
        task_losses(outputs[rows], targets[rows], weight[rows], total=weight.sum(0))
        for rows in (slice(0, 3), slice(3, 10))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_learned_weights_match_the_paper():
    tasks = [Task("click"), Task("spend", kind="regression")]
    weigh = TaskWeights(tasks, learned=True)
    with torch.no_grad():
        weigh.log_variance.copy_(torch.tensor([0.4, -0.6]))
    total = weigh(torch.tensor([2.0, 3.0])).item()
    assert total == pytest.approx(math.exp(-0.4) * 2 + 0.2 + math.exp(0.6) * 3 / 2 - 0.3)
    halves = weigh(torch.tensor([0.5, 3.0]), share=0.5) + weigh(torch.tensor([1.5, 0.0]), share=0.5)
    assert halves.item() == pytest.approx(total)


def test_the_optimal_learned_weight_of_a_constant_loss_is_its_inverse():
    weigh = TaskWeights([Task("click"), Task("spend", kind="regression")], learned=True)
    optimiser = torch.optim.LBFGS(weigh.parameters(), max_iter=100)

    def closure():
        optimiser.zero_grad()
        loss = weigh(torch.tensor([0.25, 4.0]))
        loss.backward()
        return loss

    optimiser.step(closure)
    # d/ds of exp(-s) L + s / 2 is 0 at exp(s) = 2 L, of exp(-s) L / 2 + s / 2 at exp(s) = L.
    assert weigh.log_variance.exp().tolist() == pytest.approx([0.5, 4.0], rel=1e-3)


def test_weighting_a_row_twice_equals_repeating_it():
    table = pa.table({"x": [0.0, 1.0, 2.0], "label_a": [0, 1, 1], "w": [2.0, 1.0, 1.0]})
    labels = Labels.read(table, [Task("a", sample_weight="w")])
    double = Labels.read(table.take([0, 0, 1, 2]), [Task("a")])
    weighted, repeated = LabelSummary.summarise([labels], 1), LabelSummary.summarise([double], 1)
    assert (weighted.mean, weighted.variance) == (pytest.approx(repeated.mean), pytest.approx(repeated.variance))
    outputs = torch.tensor([[0.3], [-1.0], [2.0]])
    once = task_losses(outputs, torch.from_numpy(labels.values).float(), torch.from_numpy(labels.weight))
    twice = task_losses(outputs[[0, 0, 1, 2]], torch.from_numpy(double.values).float(), torch.from_numpy(double.weight))
    torch.testing.assert_close(once, twice)


def test_rows_of_weight_0_have_no_influence():
    table = draw_funnel(600).table
    weight = np.r_[np.ones(500), np.zeros(100)]
    weighted = replace(table, label_click=table["label_click"]).append_column("w", pa.array(weight))
    flipped = np.r_[table["label_click"].to_numpy()[:500], 1 - table["label_click"].to_numpy()[500:]]
    tasks = [Task("click", sample_weight="w")]
    one = TrainConfig(epochs=1, device="cpu")
    first = fit(weighted, features=FEATURES, tasks=tasks, model=SMALL, training=one)
    second = fit(replace(weighted, label_click=flipped), features=FEATURES, tasks=tasks, model=SMALL, training=one)
    np.testing.assert_array_equal(first.predict(table).raw, second.predict(table).raw)
    assert first.metrics["click"].train_rows == 500


def test_a_task_of_weight_0_does_not_influence_shared_weights():
    table = draw_funnel(600).table
    one = TrainConfig(epochs=1, device="cpu", weight_decay=0.0)
    model = ModelConfig(architecture="shared_bottom", head="independent", expert_units=(8,), embedding_dim=2)
    muted = [Task("click"), Task("complete", loss_weight=0.0)]
    first = fit(table, features=FEATURES, tasks=muted, model=model, training=one)
    flipped = replace(table, label_complete=1 - table["label_complete"].to_numpy())
    second = fit(flipped, features=FEATURES, tasks=muted, model=model, training=one)
    np.testing.assert_array_equal(first.predict(table).raw[:, 0], second.predict(table).raw[:, 0])


def test_learned_loss_weights_are_trained_but_not_in_the_bundle():
    table = draw_funnel(600).table
    training = TrainConfig(epochs=2, device="cpu", loss_weights="uncertainty")
    bundle = fit(table, features=FEATURES, tasks=TASKS, model=SMALL, training=training)
    fixed = fit(table, features=FEATURES, tasks=TASKS, model=SMALL, training=TrainConfig(epochs=2, device="cpu"))
    assert set(bundle.network.state_dict()) == set(fixed.network.state_dict())
    assert not np.array_equal(bundle.predict(table).raw, fixed.predict(table).raw)


@pytest.fixture(scope="module")
def spending():
    """A funnel that ends in money: spend in euros, known for those who clicked."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=4000)
    click = draw.random(4000) < 1 / (1 + np.exp(-x))
    spend = 500.0 + 120.0 * x + draw.normal(size=4000) * 60.0
    table = pa.table({"x": x, "label_click": click, "label_spend": pa.array(spend, mask=~click)})
    tasks = [Task("click"), Task("spend", kind="regression")]
    held_out = np.repeat(np.arange(4000)[:, None] >= 3000, 2, axis=1)
    training = TrainConfig(epochs=15, device="cpu")
    return table, fit(table, features=[Numeric("x")], tasks=tasks, held_out=held_out, model=SMALL, training=training)


@pytest.mark.slow
def test_a_regression_is_predicted_in_the_unit_of_its_label(spending):
    table, bundle = spending
    predicted = bundle.predict(pa.table({"x": [-1.0, 0.0, 1.0]}))
    assert predicted.raw[:, 1] == pytest.approx([380.0, 500.0, 620.0], abs=25)
    np.testing.assert_array_equal(predicted.raw[:, 1], predicted.calibrated[:, 1])
    figures = bundle.metrics["spend"]
    assert figures.rmse == pytest.approx(60.0, rel=0.1) and figures.r2 == pytest.approx(0.8, abs=0.06)
    assert figures.auc is None and bundle.metrics["click"].rmse is None
    evaluated = bundle.evaluate(table.slice(3000))
    assert evaluated["spend"].rmse == pytest.approx(figures.rmse) and evaluated["spend"].rows == figures.held_out_rows
    assert set(bundle.reliability(table)) == {"click"}


@pytest.mark.slow
def test_reliability_compares_predicted_and_observed_rates(spending):
    table, bundle = spending
    diagram = bundle.reliability(table)["click"]
    assert diagram.rows.sum() == 4000 and np.abs(diagram.predicted - diagram.observed).max() < 0.12


@pytest.mark.slow
def test_a_regression_survives_a_save(spending, tmp_path):
    table, bundle = spending
    bundle.save(tmp_path / "b")
    loaded = type(bundle).load(tmp_path / "b")
    np.testing.assert_array_equal(loaded.predict(table).raw, bundle.predict(table).raw)
    assert (loaded.tasks, loaded.targets, loaded.metrics) == (bundle.tasks, bundle.targets, bundle.metrics)


@pytest.mark.parametrize(
    ("tasks", "columns", "words"),
    [
        ([Task("a", kind="regression")], {"label_a": [1.0, float("inf")]}, "'label_a' holds inf; a label is a finite"),
        ([Task("a", sample_weight="w")], {"label_a": [1, 0], "w": [1.0, -2.0]}, "'w' holds -2; a weight is"),
        ([Task("a", sample_weight="w")], {"label_a": [1, 0], "w": [1.0, None]}, "'w' holds nan"),
        ([Task("a", sample_weight="w")], {"label_a": [1, 0]}, "'w' is not in the table"),
    ],
)
def test_invalid_labels_and_weights_are_named(tasks, columns, words):
    table = pa.table({"x": [1.0, 2.0], **columns})
    with pytest.raises(ValueError, match=words):
        fit(table, features=[Numeric("x")], tasks=tasks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "ordinal"}, "task 'a': kind is 'ordinal'"),
        ({"loss_weight": -1}, "task 'a': loss_weight is -1"),
        ({"loss_weight": float("nan")}, "task 'a': loss_weight is nan"),
    ],
)
def test_invalid_tasks_are_rejected(options, words):
    with pytest.raises(ValueError, match=words):
        Task("a", **options)
    with pytest.raises(ValueError, match="a task's name is ''"):
        Task("")
