"""Every architecture against its paper's equations, written as plain loops."""

import math
from typing import get_args

import pyarrow as pa
import pytest
import torch

from model import Categorical, CategoricalList, FeatureSpec, ModelConfig, Numeric, Task
from model.config import ArchitectureName
from model.network.architectures.aitm import AITM
from model.network.architectures.build import build_architecture
from model.network.multitask import build_model
from tests.model.network.loops import CLOSE, apply_linear, apply_mlp, apply_stack

ALL = get_args(ArchitectureName)
WIDTH, TASKS, ROWS = 5, 3, 7


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(architecture, tasks=TASKS, **options):
    config = ModelConfig(architecture=architecture, **({"expert_units": (6, 4), "gate_units": (3,)} | options))
    return build_architecture(config, WIDTH, tasks)


def apply_gate(gates, index, x):
    hidden, score = gates
    return torch.softmax(apply_linear(score, index, apply_mlp(hidden, index, x)), -1)


def test_separate_bottoms_are_one_network_per_task():
    x = torch.randn(ROWS, WIDTH)
    for name in ("single_task", "esmm", "l2_constrained"):
        model = build(name)
        torch.testing.assert_close(model(x), apply_stack(model.bottoms, x), **CLOSE)


def test_a_shared_bottom_gives_every_task_the_same_representation():
    model, x = build("shared_bottom"), torch.randn(ROWS, WIDTH)
    for task in range(TASKS):
        torch.testing.assert_close(model(x)[:, task], apply_mlp(model.bottom, 0, x), **CLOSE)


def test_the_l2_constraint_is_the_sum_over_pairs():
    model = build("l2_constrained", l2_constraint=0.3)
    expected = 0.0
    for weight in model.parameters():
        for first in range(TASKS):
            for second in range(first + 1, TASKS):
                expected += 0.3 * (weight[first] - weight[second]).square().sum().item()
    assert model.penalty(torch.zeros(ROWS, TASKS)).item() == pytest.approx(expected, rel=1e-5)


def test_cross_stitch_mixes_after_each_layer():
    model, x = build("cross_stitch"), torch.randn(ROWS, WIDTH)
    torch.nn.init.normal_(model.stitches)
    each = [x] * TASKS
    for layer, stitch in zip(model.layers, model.stitches, strict=True):
        each = [apply_mlp(layer, task, each[task]) for task in range(TASKS)]
        each = [sum(stitch[task, other] * each[other] for other in range(TASKS)) for task in range(TASKS)]
    torch.testing.assert_close(model(x), torch.stack(each, 1), **CLOSE)


def test_cross_stitch_starts_with_mostly_own_activations():
    stitches = build("cross_stitch").stitches
    assert stitches[0].diagonal().tolist() == pytest.approx([0.9] * TASKS)
    assert stitches.sum(-1).flatten().tolist() == pytest.approx([1.0] * 2 * TASKS)
    assert build("cross_stitch", tasks=1).stitches.tolist() == [[[1.0]], [[1.0]]]


@pytest.mark.parametrize("name", ["mmoe", "omoe"])
def test_mixtures_equal_their_equation(name):
    model, x = build(name, experts=4), torch.randn(ROWS, WIDTH)
    for task in range(TASKS):
        weight = apply_gate(model.gates, task if name == "mmoe" else 0, x)
        mixed = sum(weight[:, [expert]] * apply_mlp(model.experts, expert, x) for expert in range(4))
        torch.testing.assert_close(model(x)[:, task], mixed, **CLOSE)
        torch.testing.assert_close(model.expert_weights(x)[:, task], weight, **CLOSE)


@pytest.mark.parametrize("levels", [1, 3])
def test_ple_extracts_level_by_level(levels):
    own, shared = 2, 3
    model, x = build("ple", levels=levels, task_experts=own, experts=shared), torch.randn(ROWS, WIDTH)
    blocks = [*model.before, model.last]
    inputs = [x] * (TASKS + 1)
    for number, block in enumerate(blocks):
        outputs = []
        for reader in range(TASKS + 1 if number < levels - 1 else TASKS):
            if reader == TASKS:  # the shared gate covers all experts
                seen = range(TASKS * own + shared)
            else:
                seen = [*range(reader * own, reader * own + own), *range(TASKS * own, TASKS * own + shared)]
            hidden, score = block.gates
            scores = apply_linear(score, reader, apply_mlp(hidden, reader, inputs[reader]))[:, list(seen)]
            weight = torch.softmax(scores, -1)
            outputs.append(
                sum(
                    weight[:, [place]] * apply_mlp(block.experts, expert, inputs[min(expert // own, TASKS)])
                    for place, expert in enumerate(seen)
                )
            )
        inputs = outputs
    torch.testing.assert_close(model(x), torch.stack(inputs, 1), **CLOSE)
    weights = model.expert_weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(ROWS, TASKS))
    assert bool((weights[:, 0, own : TASKS * own] == 0).all())  # the first task does not use other tasks' experts


def test_aitm_transfers_from_stage_to_stage():
    model, x = build("aitm"), torch.randn(ROWS, WIDTH)
    d = model.out_features
    z = [apply_mlp(model.bottoms, 0, x)]
    for step in range(TASKS - 1):
        candidates = [apply_linear(model.transfer, step, z[-1]), apply_mlp(model.bottoms, step + 1, x)]
        parts = [apply_linear(model.project, step, each) for each in candidates]
        scores = [(part[:, :d] * part[:, d : 2 * d]).sum(1) / math.sqrt(d) for part in parts]
        weight = torch.softmax(torch.stack(scores, 1), 1)
        z.append(sum(weight[:, [place]] * part[:, 2 * d :] for place, part in enumerate(parts)))
    torch.testing.assert_close(model(x), torch.stack(z, 1), **CLOSE)


def test_aitms_calibrator_penalises_only_rises_along_the_stages():
    model = build("aitm", calibrator_weight=0.5)
    assert isinstance(model, AITM)
    p = torch.tensor([[0.5, 0.7, 0.6], [0.9, 0.2, 0.1]])
    assert model.penalty(p.logit()).item() == pytest.approx(0.5 * 0.2 / 2)


TABLE = pa.table({"city": ["a", "b", None], "age": [20.0, None, 50.0], "tags": [["x", "y"], [], None]})
FEATURES = [Categorical("city"), Numeric("age"), CategoricalList("tags")]


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("units", [(), (6,), (6, 4)])
def test_any_number_of_tasks_and_any_depth_trains(architecture, tasks, units):
    spec = FeatureSpec.fit(FEATURES, TABLE)
    config = ModelConfig(
        architecture=architecture,
        expert_units=units,
        gate_units=units,
        tower_units=units,
        levels=2,
        batch_norm=True,
        dropout=0.1,
        activation="gelu",
    )
    names = [Task(f"t{position}") for position in range(tasks)]
    model = build_model(spec, names, config)
    encoded = spec.encode(TABLE)
    before = [tensor.clone() for tensor in encoded.tensors]
    for rows in (3, 1):  # even a batch of one row trains with batch normalisation
        outputs = model(*encoded.select(slice(0, rows)).tensors)
        assert outputs.shape == (rows, tasks) and bool(outputs.isfinite().all())
        (outputs.sum() + model.architecture.penalty(outputs)).backward()
    assert all(torch.equal(old, new) for old, new in zip(before, encoded.tensors, strict=True))
    assert not [name for name, weight in model.named_parameters() if weight.grad is None and weight.numel()]


@pytest.mark.parametrize("architecture", ALL)
def test_mixed_tasks_are_accepted_where_they_make_sense(architecture):
    spec = FeatureSpec.fit(FEATURES, TABLE)
    tasks = [Task("click"), Task("spend", kind="regression"), Task("complete")]
    config = ModelConfig(architecture=architecture)
    if architecture == "aitm":
        with pytest.raises(ValueError, match="architecture is 'aitm', which takes the stages of a funnel"):
            build_model(spec, tasks, config)
        return
    model = build_model(spec, tasks, config).eval()
    outputs = model(*spec.encode(TABLE).tensors)
    if config.head == "chain":
        assert bool((outputs[:, 2] <= outputs[:, 0]).all())


def test_single_task_shares_nothing_between_tasks():
    spec = FeatureSpec.fit(FEATURES, TABLE)
    config = ModelConfig(architecture="single_task", numeric_embedding="piecewise_linear")
    model = build_model(spec, [Task("a"), Task("b")], config)
    model(*spec.encode(TABLE).tensors)[:, 0].sum().backward()
    moved = [weight.grad for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    model(*spec.encode(TABLE).tensors)[:, 1].sum().backward()
    both = [(a != 0) & (b.grad != 0) for a, b in zip(moved, model.parameters(), strict=True)]
    assert not any(bool(each.any()) for each in both)


@pytest.mark.parametrize("embedding", ["piecewise_linear", "periodic"])
def test_numeric_embeddings_come_before_the_value(embedding):
    spec = FeatureSpec.fit([Numeric("age"), Numeric("n")], pa.table({"age": [1.0, 2.0, 4.0, None], "n": [3, 3, 3, 3]}))
    config = ModelConfig(numeric_embedding=embedding, numeric_embedding_dim=4)
    model = build_model(spec, [Task("click")], config)
    encoded = spec.encode(pa.table({"age": [1.0, 9.0, None], "n": [1, 3, None]}))
    vectors = model.inputs(*encoded.tensors)
    assert vectors.shape == (3, 2 * 4 + 2 + 1) and bool(vectors.isfinite().all())
    assert torch.equal(vectors[:, 8:], encoded.dense)


def test_pooled_lists_equal_a_loop():
    tags = [["x", "y", "x"], [], None, ["y", None], ["z", "y"]]
    table = pa.table({name: pa.array(tags, pa.list_(pa.string())) for name in ("mean", "sum", "max")})
    spec = FeatureSpec.fit([CategoricalList(name, max_length=3, pooling=name) for name in table.column_names], table)
    lists = build_model(spec, [Task("click")], ModelConfig(embedding_dim=2)).inputs.lists
    ids = spec.encode(table).lists
    pooled = lists(ids)
    start = 0
    for column, (name, size) in enumerate(zip(table.column_names, spec.list_sizes, strict=True)):
        vectors = lists.lookup.table.weight[start : start + size]
        for row in range(len(tags)):
            own = [vectors[each] for each in ids[row, 3 * column : 3 * column + 3].tolist() if each >= 0]
            stacked = torch.stack(own) if own else torch.zeros(1, 2)
            expected = {"mean": stacked.mean(0), "sum": stacked.sum(0), "max": stacked.max(0).values}[name]
            torch.testing.assert_close(pooled[row, column], expected, **CLOSE)
        start += size


def test_init_std_applies_to_every_weight():
    spec = FeatureSpec.fit([Categorical("c")], pa.table({"c": [str(number) for number in range(500)]}))
    model = build_model(spec, [Task("click")], ModelConfig(init_std=1e-4, expert_units=(256,)))
    for name, weight in model.named_parameters():
        if name.endswith("weight") and weight.numel() > 1000:
            assert weight.std().item() == pytest.approx(1e-4, rel=0.1), name
