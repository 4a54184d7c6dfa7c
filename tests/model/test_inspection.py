"""Expert use against fixed gates and a plain loop; importance against evaluating a shuffled table."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from model import (
    Bundle,
    Categorical,
    CategoricalList,
    FeatureSpec,
    Importance,
    ModelConfig,
    Numeric,
    Task,
    TrainConfig,
    expert_use,
    fit,
    permutation_importance,
)
from model.calibration.calibrators import IDENTITY
from model.labels import TargetScale
from model.network.multitask import build_model
from tests.model.funnels import TASKS, draw_funnel, replace


def with_model(bundle: Bundle, **options: object) -> Bundle:
    """The bundle with a fresh, untrained network, whose weights are large enough to matter."""
    config = ModelConfig(expert_units=(4,), tower_units=(4,), init_std=0.5, **options)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_model(bundle.spec, bundle.tasks, config)
    return dataclasses.replace(bundle, config=config, network=network)


def set_gates(gates: torch.nn.Sequential, weights: torch.Tensor) -> None:
    """Make the gates return these weights (G, k) for every row."""
    with torch.no_grad():
        gates[-1].weight.zero_()
        gates[-1].bias.copy_(weights.log())


def with_gates(spec: FeatureSpec, weights: torch.Tensor) -> Bundle:
    tasks = tuple(map(Task, TASKS))
    config = ModelConfig(experts=weights.shape[1], expert_units=(4,))
    network = build_model(spec, tasks, config)
    set_gates(network.architecture.gates, weights)
    return untrained(spec, tasks, config, network)


def untrained(spec, tasks, config, network) -> Bundle:
    return Bundle(
        spec=spec,
        config=config,
        training=TrainConfig(),
        tasks=tasks,
        targets=(TargetScale(),) * len(tasks),
        network=network,
        calibration=(IDENTITY,) * len(tasks),
        metrics={},
        trained_on={},
    )


def test_manually_set_gates_are_read_back():
    table = draw_funnel(50).table
    spec = FeatureSpec.fit([Numeric("age")], table)
    weights = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01]])
    use = expert_use(with_gates(spec, weights), table)
    np.testing.assert_allclose(use.mean, weights, atol=1e-6)
    np.testing.assert_allclose(use.deviation, 0.0, atol=1e-6)
    last = -0.98 * math.log(0.98) - 0.02 * math.log(0.01)
    np.testing.assert_allclose(use.entropy, [1.5 * math.log(2), math.log(3), last], atol=1e-6)
    np.testing.assert_allclose(use.entropy_share, use.entropy / math.log(3), atol=1e-6)
    assert str(use).splitlines() == [
        "expert          click     register     complete",
        "0         0.50 ± 0.00  0.33 ± 0.00  0.98 ± 0.00",
        "1         0.25 ± 0.00  0.33 ± 0.00  0.01 ± 0.00",
        "2         0.25 ± 0.00  0.33 ± 0.00  0.01 ± 0.00",
        "entropy          1.04         1.10         0.11",
        "of log k          95%         100%          10%",
    ]


@pytest.mark.parametrize("architecture", ["mmoe", "omoe", "ple"])
def test_expert_use_equals_a_loop_over_rows(bundle, architecture):
    shown = with_model(bundle, architecture=architecture, experts=3, levels=2, dropout=0.5)
    shown.network.train()
    table = draw_funnel(2_500, seed=1).table  # more than one piece
    use = expert_use(shown, table)
    encoded = shown.encode(table)
    with torch.inference_mode():
        rows = shown.network.expert_weights(*encoded.tensors).double().numpy()
    assert rows.shape[1:] == use.mean.shape == (3, len(use.experts))
    for task in range(3):
        entropies = [sum(-p * math.log(p) for p in row if p > 0) for row in rows[:, task]]
        assert use.entropy[task] == pytest.approx(sum(entropies) / 2_500, abs=1e-5)
        for expert in range(len(use.experts)):
            weights = rows[:, task, expert]
            assert use.mean[task, expert] == pytest.approx(weights.sum() / 2_500, abs=1e-6)
            spread = math.sqrt(((weights - weights.mean()) ** 2).sum() / 2_500)
            assert use.deviation[task, expert] == pytest.approx(spread, abs=1e-6)
    assert use.deviation.max() > 0.01  # the gates depend on the row


def test_hidden_context_does_not_influence_the_gates(bundle):
    table = draw_funnel(300, seed=2).table
    other = replace(table, offer=["bonus"] * 300, hour=[8] * 300)
    hidden, hidden_other = (expert_use(bundle, each, hide_context=True) for each in (table, other))
    np.testing.assert_array_equal(hidden.mean, hidden_other.mean)
    assert np.abs(expert_use(bundle, table).mean - expert_use(bundle, other).mean).max() > 0.01


def test_other_tasks_experts_have_no_weight_and_do_not_count_in_the_entropy(bundle):
    shown = with_model(bundle, architecture="ple", experts=1, task_experts=2)
    set_gates(shown.network.architecture.last.gates, torch.ones(3, 7))
    use = expert_use(shown, draw_funnel(20).table)
    assert use.experts == ("click 0", "click 1", "register 0", "register 1", "complete 0", "complete 1", "shared 0")
    third = 1 / 3
    np.testing.assert_allclose(
        use.mean,
        [
            [third, third, 0, 0, 0, 0, third],
            [0, 0, third, third, 0, 0, third],
            [0, 0, 0, 0, third, third, third],
        ],
        atol=1e-6,
    )
    assert (use.mean == 0).sum() == 12  # exactly 0
    np.testing.assert_allclose(use.entropy, math.log(3), atol=1e-6)
    np.testing.assert_allclose(use.entropy_share, 1.0, atol=1e-6)
    assert str(use).splitlines()[1] == "click 0     0.33 ± 0.00            -            -"


def test_a_single_expert_has_no_share_of_entropy(bundle):
    use = expert_use(with_model(bundle, experts=1), draw_funnel(5).table)
    assert use.entropy.tolist() == [0.0] * 3
    assert np.isnan(use.entropy_share).all() and str(use).splitlines()[-1].split() == ["of", "log", "k", "-", "-", "-"]


@pytest.mark.parametrize("architecture", ["shared_bottom", "single_task", "cross_stitch", "aitm", "esmm"])
def test_an_architecture_without_gates_is_rejected(bundle, architecture):
    with pytest.raises(ValueError, match=r"^.* has no gates to inspect$"):
        expert_use(with_model(bundle, architecture=architecture), draw_funnel(5).table)


@pytest.mark.parametrize("look", [expert_use, permutation_importance])
def test_an_empty_table_is_rejected(bundle, look):
    with pytest.raises(ValueError, match=r"^the table has no rows to inspect$"):
        look(bundle, draw_funnel(5).table.slice(0, 0))


@pytest.fixture(scope="module")
def mixed() -> tuple[Bundle, pa.Table]:
    """Every kind of feature and task, with missing values, and an untrained network."""
    rows, draw = 300, np.random.default_rng(0)
    viewed = [[f"v{each}" for each in draw.integers(0, 5, draw.integers(0, 4))] or None for _ in range(rows)]
    table = pa.table(
        {
            "city": pa.array([f"c{each}" for each in draw.integers(0, 4, rows)], mask=draw.random(rows) < 0.2),
            "viewed": viewed,
            "age": pa.array(draw.normal(size=rows), mask=draw.random(rows) < 0.4),
            "visits": draw.poisson(2.0, rows),
            "offer": draw.integers(0, 2, rows).astype(str),
            "label_click": pa.array(draw.integers(0, 2, rows), mask=draw.random(rows) < 0.3),
            "label_spend": pa.array(draw.normal(size=rows), mask=draw.random(rows) < 0.3),
        }
    )
    features = [
        Numeric("age"),
        CategoricalList("viewed", max_length=3),
        Categorical("city"),
        Numeric("visits", transform="log"),
        Categorical("offer", context=True),
    ]
    spec = FeatureSpec.fit(features, table)
    tasks = (Task("click"), Task("spend", kind="regression", sample_weight="not there"))
    config = ModelConfig(experts=2, expert_units=(4,), init_std=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(spec, tasks, config)
    return untrained(spec, tasks, config, network), table


@pytest.mark.parametrize("hide_context", [False, True])
def test_importance_equals_evaluating_a_table_with_the_column_shuffled(mixed, hide_context):
    bundle, table = mixed
    found = permutation_importance(bundle, table, repeats=3, seed=5, hide_context=hide_context)
    draw = np.random.default_rng(5)
    orders = [draw.permutation(table.num_rows) for _ in range(3)]
    before = bundle.evaluate(table, hide_context=hide_context)
    assert found.baseline.tolist() == [before["click"].auc, before["spend"].r2]
    assert found.scores == ("AUC", "R²")
    for row, feature in enumerate(found.features):
        drops = []
        for order in orders:
            shuffled = replace(table, **{feature: table[feature].take(pa.array(order)).combine_chunks()})
            after = bundle.evaluate(shuffled, hide_context=hide_context)
            drops.append([before["click"].auc - after["click"].auc, before["spend"].r2 - after["spend"].r2])
        np.testing.assert_allclose(found.drop[row], np.mean(drops, axis=0), atol=1e-12)
        np.testing.assert_allclose(found.deviation[row], np.std(drops, axis=0), atol=1e-12)
        unseen = hide_context and feature == "offer"
        assert (found.drop[row] == 0).all() if unseen else (found.drop[row] != 0).all()


def test_a_useful_feature_ranks_above_noise():
    draw = np.random.default_rng(1)
    x, missing = draw.normal(size=2_000), draw.random(2_000) < 0.5
    table = pa.table(
        {
            "noise": draw.normal(size=2_000),
            "useful": x,
            "gap": pa.array(draw.normal(size=2_000), mask=missing),
            "label_plain": (x + draw.normal(size=2_000) > 0).astype(int),
            "label_gone": missing.astype(int),  # only the indicator of "gap" is informative, its value is not
        }
    )
    bundle = fit(
        table,
        features=[Numeric("noise"), Numeric("useful"), Numeric("gap")],
        tasks=["plain", "gone"],
        model=ModelConfig(architecture="shared_bottom", head="independent", expert_units=(8,), tower_units=()),
        training=TrainConfig(epochs=5, learning_rate=0.03, batch_size=256, device="cpu"),
    )
    found = permutation_importance(bundle, table)
    assert found.ranked("plain")[0] == "useful" and found.ranked("gone")[0] == "gap"
    useful, noise, gap = (found.features.index(name) for name in ("useful", "noise", "gap"))
    plain, gone = 0, 1
    assert found.drop[useful, plain] > 0.2 and abs(found.drop[noise, plain]) < 0.02
    assert found.baseline[gone] > 0.99 and found.drop[gap, gone] == pytest.approx(0.5, abs=0.05)
    assert abs(found.drop[noise, gone]) < 0.02 and abs(found.drop[useful, gone]) < 0.02


def test_inspection_changes_nothing(bundle):
    table = draw_funnel(400, seed=3).table
    weights = {name: weight.clone() for name, weight in bundle.network.state_dict().items()}
    scores, columns = bundle.predict(table).calibrated, table.to_pydict()
    torch.manual_seed(0)
    undisturbed = torch.rand(3)
    torch.manual_seed(0)
    importance, use = permutation_importance(bundle, table, repeats=2), expert_use(bundle, table)
    assert torch.equal(torch.rand(3), undisturbed)
    np.testing.assert_array_equal(importance.drop, permutation_importance(bundle, table, repeats=2).drop)
    np.testing.assert_array_equal(use.mean, expert_use(bundle, table).mean)
    assert all(torch.equal(weight, weights[name]) for name, weight in bundle.network.state_dict().items())
    np.testing.assert_array_equal(scores, bundle.predict(table).calibrated)
    assert columns == table.to_pydict()


def test_a_task_of_one_class_has_no_importance(bundle):
    table = draw_funnel(200, seed=4).table
    found = permutation_importance(bundle, replace(table, label_complete=[0] * 200), repeats=1)
    assert np.isnan(found.drop[:, 2]).all() and np.isnan(found.baseline[2]) and np.isfinite(found.drop[:, :2]).all()
    assert found.table("complete").splitlines()[:2] == ["complete  AUC -", "city      - ± -"]


def test_text_is_sorted_per_task():
    drop = np.array([[0.01, 0.3], [0.2, -0.001]])
    found = Importance(("age", "city"), ("a", "b"), ("AUC", "R²"), np.array([0.7, 0.5]), drop, np.full((2, 2), 0.02))
    assert str(found).splitlines() == [
        "a           AUC 0.7000",
        "city  +0.2000 ± 0.0200",
        "age   +0.0100 ± 0.0200",
        "",
        "b            R² 0.5000",
        "age   +0.3000 ± 0.0200",
        "city  -0.0010 ± 0.0200",
    ]
    with pytest.raises(ValueError, match=r"^task is 'c', not one of a, b$"):
        found.table("c")


@pytest.mark.parametrize("repeats", [0, 1.5])
def test_invalid_repeats_are_rejected(bundle, repeats):
    with pytest.raises(ValueError, match=f"^repeats is {repeats}, not a positive integer$"):
        permutation_importance(bundle, draw_funnel(5).table, repeats=repeats)


def test_plots_grow_with_their_content(bundle, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    table = draw_funnel(200, seed=5).table
    expert_use(bundle, table).plot(tmp_path / "few.png")
    expert_use(with_model(bundle, architecture="ple", experts=8), table).plot(tmp_path / "many.png")
    found = permutation_importance(bundle, replace(table, label_complete=[0] * 200), repeats=1)
    found.plot(tmp_path / "all.png")
    found.plot(tmp_path / "top.png", top=2)
    few, many, every, top = (image.imread(tmp_path / f"{name}.png").shape for name in ("few", "many", "all", "top"))
    assert many[1] > few[1] and many[0] == few[0]
    assert every[0] > top[0] and every[1] == top[1]
