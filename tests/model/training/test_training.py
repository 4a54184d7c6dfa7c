"""Training as seen by its caller: what it learns, repeats, hides and rejects."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from model import Categorical, ModelConfig, Numeric, TrainConfig, TrainingError, fit
from model.metrics import auc
from model.training.losses import task_losses
from tests.model.funnels import FEATURES, TASKS, draw_funnel, last_rows, replace

SMALL = ModelConfig(experts=2, expert_units=(8,), tower_units=(), embedding_dim=2)
QUICK = TrainConfig(epochs=2, device="cpu")


def fit_small(table, *, held_out=None, features=FEATURES, tasks=TASKS, model=SMALL, training=QUICK, **options):
    return fit(table, features=features, tasks=tasks, held_out=held_out, model=model, training=training, **options)


def test_scores_rank_nearly_as_well_as_the_true_probabilities(bundle):
    fresh = draw_funnel(20_000, seed=1)
    scores = bundle.predict(fresh.table).calibrated
    for column, task in enumerate(TASKS):
        labels = fresh.label(task)
        assert auc(labels, scores[:, column]) > auc(labels, fresh.truth[:, column]) - 0.02
        assert scores[:, column].mean() == pytest.approx(labels.mean(), rel=0.15)


def test_metrics_count_rows_and_measure_without_context(bundle, funnel):
    for task in TASKS:
        metrics, labels = bundle.metrics[task], funnel.label(task)
        assert (metrics.train_rows, metrics.held_out_rows) == (9_000, 3_000)
        assert (metrics.train_positives, metrics.held_out_positives) == (
            labels[:9_000].sum(),
            labels[9_000:].sum(),
        )
    click = bundle.metrics["click"]
    without = bundle.evaluate(funnel.table.slice(9_000), hide_context=True)["click"]
    assert without.auc == pytest.approx(click.auc, abs=0.005)
    assert click.auc_in_context > click.auc + 0.03  # the offer matters much to a click


def test_an_unknown_context_scores_like_the_average_one(bundle):
    table = draw_funnel(4_000, seed=2).table
    rows = table.num_rows

    def mean_click(offer):
        context = replace(table, offer=offer, hour=pa.nulls(rows, pa.int64()))
        return bundle.predict(context).raw[:, 0].mean()

    plain, bonus = mean_click(["plain"] * rows), mean_click(["bonus"] * rows)
    unknown = mean_click(pa.nulls(rows, pa.string()))
    assert bonus > plain + 0.2
    assert unknown == pytest.approx((plain + bonus) / 2, abs=0.03)
    hidden = bundle.predict(table, hide_context=True)
    nulls = replace(table, offer=pa.nulls(rows), hour=pa.nulls(rows))
    np.testing.assert_array_equal(hidden.raw, bundle.predict(nulls).raw)


def test_an_unseen_value_scores_like_the_average_one(bundle):
    table = draw_funnel(4_000, seed=3).table
    unseen = bundle.predict(replace(table, city=[99] * table.num_rows)).raw.mean(0)
    assert unseen == pytest.approx(bundle.predict(table).raw.mean(0), rel=0.25)


def test_the_same_seed_gives_the_same_scores_and_leaves_the_random_state_alone():
    table = draw_funnel(1_500).table
    held_out = last_rows(1_500)
    torch.manual_seed(5)
    first = fit_small(table, held_out=held_out).predict(table)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    second = fit_small(table, held_out=held_out).predict(table)
    other = fit_small(table, held_out=held_out, training=TrainConfig(epochs=2, seed=1, device="cpu"))
    np.testing.assert_array_equal(first.calibrated, second.calibrated)
    assert not np.array_equal(first.raw, other.predict(table).raw)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_a_masked_label_has_no_influence():
    logits = torch.randn(4, 2, requires_grad=True)
    mask = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    targets = torch.ones(4, 2)
    losses = task_losses(logits, targets, mask.float())
    assert torch.equal(losses, task_losses(logits, targets.masked_fill(~mask, 0.0), mask.float()))
    losses.sum().backward()
    assert torch.equal(logits.grad == 0, ~mask)


def test_immature_and_held_out_labels_do_not_influence_the_weights():
    table = draw_funnel(1_000).table
    immature = table["label_complete"].to_pylist()[:900] + [None] * 100
    held_out = np.zeros((1_000, 3), bool)
    held_out[600:900] = True
    masked = replace(table, label_complete=immature)
    flipped = [1 - label if label is not None and held_out[row, 0] else label for row, label in enumerate(immature)]
    one_epoch = TrainConfig(epochs=1, device="cpu")  # so that held-out labels cannot select an epoch either
    first = fit_small(masked, held_out=held_out, training=one_epoch)
    second = fit_small(replace(table, label_complete=flipped), held_out=held_out, training=one_epoch)
    np.testing.assert_array_equal(first.predict(table).raw, second.predict(table).raw)
    assert (first.metrics["complete"].train_rows, first.metrics["complete"].held_out_rows) == (600, 300)
    assert first.metrics["click"].train_rows == 700


def test_labels_may_be_booleans_or_floats_with_nan():
    table = draw_funnel(400).table
    clicks = np.array(table["label_click"].to_pylist(), np.float64)
    booleans = fit_small(replace(table, label_click=clicks == 1), tasks=["click"])
    floats = fit_small(replace(table, label_click=clicks), tasks=["click"])
    np.testing.assert_array_equal(booleans.predict(table).raw, floats.predict(table).raw)
    clicks[:100] = np.nan
    assert fit_small(replace(table, label_click=clicks), tasks=["click"]).metrics["click"].train_rows == 300


def test_held_out_rows_of_another_type_count_the_same_or_are_refused_before_training():
    table = draw_funnel(600).table
    train, later = table.slice(0, 450), table.slice(450)
    cities = later["city"].to_numpy()
    whole, floats = (fit_small(train, held_out=rows) for rows in (later, replace(later, city=cities.astype(float))))
    assert whole.metrics == floats.metrics
    seen = []
    with pytest.raises(ValueError, match="'city' is of type double and was of type int64 at training"):
        fit_small(train, held_out=replace(later, city=cities + 0.5), on_progress=seen.append)
    assert not seen


def test_training_keeps_the_best_epoch_and_stops_after_patience():
    table = draw_funnel(600).table
    seen = []
    hasty = TrainConfig(epochs=40, learning_rate=0.05, patience=2, device="cpu")
    bundle = fit_small(table, held_out=last_rows(600), training=hasty, on_progress=seen.append)
    losses = [each.held_out for each in seen if each.held_out is not None]
    assert len(losses) < 40 and np.argmin(losses) == len(losses) - 3
    base = table.slice(0, 450)
    relative = []
    for task in TASKS:
        rate = (base[f"label_{task}"].to_numpy().sum() + 0.5) / 451
        entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
        relative.append(bundle.metrics[task].raw_log_loss / entropy)
    assert np.mean(relative) == pytest.approx(min(losses), rel=1e-4)


def test_progress_is_reported_at_the_end_of_each_epoch():
    seen = []
    fit_small(draw_funnel(500).table, held_out=last_rows(500), on_progress=seen.append)
    ends = [each for each in seen if each.held_out is not None]
    assert [(each.epoch, each.epochs, each.batch) for each in ends] == [
        (epoch, 2, each.batches) for epoch, each in zip((1, 2), ends, strict=True)
    ]
    assert all(set(each.loss) == set(TASKS) and each.rows_per_second > 0 for each in ends)


def test_without_held_out_rows_scores_stay_uncalibrated():
    table = draw_funnel(300).table
    bundle = fit_small(table)
    predictions = bundle.predict(table)
    np.testing.assert_array_equal(predictions.raw, predictions.calibrated)
    click = bundle.metrics["click"]
    assert (click.calibration, click.held_out_rows, click.auc, click.log_loss) == ("identity", 0, None, None)


def test_one_class_held_out_falls_back_to_the_identity_for_that_task_alone():
    table = draw_funnel(1_200).table
    labels = np.array(table["label_complete"].to_pylist())
    labels[900:] = 0
    bundle = fit_small(replace(table, label_complete=labels), held_out=last_rows(1_200))
    assert bundle.metrics["complete"].auc is None and bundle.metrics["complete"].calibration == "identity"
    assert bundle.metrics["click"].auc is not None and bundle.metrics["click"].calibration != "identity"


@pytest.mark.parametrize("rows", [1, 2, 65, 129])
def test_any_number_of_rows_trains(rows):
    table = pa.table({"x": np.arange(rows), "label_buy": [1] + [0] * (rows - 1)})
    bundle = fit_small(table, features=[Numeric("x")], tasks=["buy"], training=TrainConfig(epochs=2, batch_size=64))
    assert np.isfinite(bundle.predict(table).calibrated).all()


def test_one_stage_and_only_categoricals_are_enough():
    table = draw_funnel(2_000).table
    bundle = fit_small(table, held_out=last_rows(2_000, tasks=1), features=[Categorical("city")], tasks=["click"])
    assert bundle.predict(table).calibrated.shape == (2_000, 1)
    assert len(np.unique(bundle.predict(table).raw)) == 6


def test_independent_tasks_need_not_fall_along_the_stages():
    table = draw_funnel(2_000).table
    backwards = TASKS[::-1]
    model = ModelConfig(experts=2, expert_units=(8,), head="independent")
    raw = fit_small(table, tasks=backwards, model=model).predict(table).raw
    assert (raw.mean(0)[:-1] < raw.mean(0)[1:]).all()


def without_positive(table):
    return replace(table, label_complete=[0] * table.num_rows)


def without_label(table):
    return replace(table, label_complete=pa.nulls(table.num_rows, pa.int8()))


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (without_positive, {}, r"task 'complete' has no positive among its 200 labels"),
        (without_label, {}, r"task 'complete' has no label in 200 rows"),
        (lambda table: table.slice(0, 0), {}, "no rows"),
        (lambda table: table.drop_columns("age"), {}, "'age' is not in the table"),
        (lambda table: table.drop_columns("label_click"), {}, "'label_click' is not in the table"),
        (lambda table: replace(table, label_click=[2] * 200), {}, "'label_click' holds 2"),
        (lambda table: replace(table, label_click=["no"] * 200), {}, "'label_click' of type string"),
        (
            lambda table: table,
            {"held_out": np.zeros((200, 2), bool)},
            r"held_out is bool of shape \(200, 2\)",
        ),
        (lambda table: table, {"held_out": np.zeros((200, 3))}, "held_out is float64"),
        (lambda table: table, {"tasks": []}, r"tasks is \[\]"),
        (lambda table: table, {"tasks": ["click", "click"]}, "'click' is named more than once"),
        (lambda table: table, {"trained_on": {"when": object()}}, "trained_on is not plain JSON"),
        (lambda table: table, {"training": TrainConfig(device="abacus")}, "device is 'abacus'"),
        (lambda table: table.to_pandas(), {}, r"data is a DataFrame, not .* \(pyarrow.Table.from_pandas takes"),
        (lambda table: table, {"features": ["age"]}, "features hold 'age', not a Categorical"),
        (lambda table: table, {"features": [Numeric("label_click")]}, "feature 'label_click' is a label"),
        (lambda table: table, {"tasks": 3}, "tasks is 3, not a sequence"),
        (lambda table: table, {"model": {"experts": 2}}, r"model is \{'experts': 2\}, not a ModelConfig"),
        (lambda table: table, {"training": {"epochs": 2}}, r"training is \{'epochs': 2\}, not a TrainConfig"),
        (lambda table: table, {"trained_on": [1]}, r"trained_on is \[1\], not a mapping"),
    ],
)
def test_untrainable_input_is_rejected_in_one_line(change, options, words):
    with pytest.raises(ValueError, match=words) as error:
        fit_small(change(draw_funnel(200).table), **options)
    assert "\n" not in str(error.value)


def test_a_non_finite_loss_stops_training_and_names_task_and_step():
    explosive = TrainConfig(learning_rate=1e30, epochs=3, device="cpu")
    with pytest.raises(TrainingError, match=r"loss of task '\w+' is not finite at step \d+"):
        fit_small(draw_funnel(500).table, training=explosive)


def test_a_model_of_constants_ranks_nothing() -> None:
    rows = pa.table({"x": np.ones(900), "label_click": (np.random.default_rng(0).random(900) < 0.2).astype(int)})
    held_out = np.arange(900)[:, None] >= 500
    bundle = fit(rows, features=[Numeric("x")], tasks=["click"], held_out=held_out, training=TrainConfig(epochs=1))
    assert bundle.metrics["click"].auc == bundle.metrics["click"].auc_in_context == 0.5
