"""Our MMoE and the real DeepCTR-Torch's give the same scores with the same weights.

Needs the `bench` extra: pip install 'funnelcast[bench]'. Without it the test is skipped.
"""

import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from model import Categorical, CategoricalList, FeatureSpec, ModelConfig, Numeric, Task
from model.network.multitask import build_model

deepctr = pytest.importorskip("deepctr_torch.models", reason="needs the bench extra: deepctr-torch and requests")
inputs = pytest.importorskip("deepctr_torch.inputs")

ROWS, VOCABULARY, DIM, LENGTH = 257, 9, 4, 3


@pytest.fixture(scope="module")
def rows():
    """The same rows for both: as a table, and as DeepCTR-Torch takes them."""
    draw = np.random.default_rng(0)
    ids = {name: draw.integers(0, VOCABULARY, ROWS) for name in ("city", "phone")}
    numbers = {name: draw.normal(size=ROWS).astype(np.float32) for name in ("age", "visits")}
    lengths = draw.integers(1, LENGTH + 1, ROWS)
    tags = [draw.integers(0, VOCABULARY, length).tolist() for length in lengths]
    table = pa.table({**ids, **numbers, "tags": tags})
    spec = FeatureSpec.fit(
        [Categorical("city"), Categorical("phone"), CategoricalList("tags", max_length=LENGTH), *map(Numeric, numbers)],
        table,
    )
    encoded = spec.encode(table)
    # Theirs: our ids, except that 0 pads lists (so ids are one higher there), and our standardised numbers.
    theirs = {name: encoded.sparse[:, column].numpy() for column, name in enumerate(ids)}
    theirs |= {name: encoded.dense[:, column].numpy() for column, name in enumerate(numbers)}
    theirs["tags"] = encoded.lists.numpy() + 1
    return spec, encoded, theirs


@pytest.mark.parametrize(
    ("gate_units", "tower_units", "batch_norm", "kinds"),
    list(itertools.product([(), (5,)], [(), (6, 3)], [False, True], [("binary", "binary"), ("binary", "regression")])),
)
def test_the_same_weights_give_the_same_scores(rows, gate_units, tower_units, batch_norm, kinds):
    spec, encoded, theirs = rows
    torch.manual_seed(1)
    columns = [
        *(
            inputs.SparseFeat(name, size, embedding_dim=DIM)
            for name, size in zip(("city", "phone"), spec.vocabulary_sizes, strict=True)
        ),
        inputs.VarLenSparseFeat(
            inputs.SparseFeat("tags", spec.list_sizes[0] + 1, embedding_dim=DIM), maxlen=LENGTH, combiner="mean"
        ),
        inputs.DenseFeat("age", 1),
        inputs.DenseFeat("visits", 1),
    ]
    peer = deepctr.MMOE(
        columns,
        num_experts=4,
        expert_dnn_hidden_units=(8, 7),
        gate_dnn_hidden_units=gate_units,
        tower_dnn_hidden_units=tower_units,
        dnn_use_bn=batch_norm,
        init_std=0.6,
        task_types=kinds,
        task_names=("a", "b"),
        device="cpu",
    )
    config = ModelConfig(
        head="independent",
        embedding_dim=DIM,
        experts=4,
        expert_units=(8, 7),
        gate_units=gate_units,
        tower_units=tower_units,
        batch_norm=batch_norm,
    )
    tasks = [Task(name, kind=kind) for name, kind in zip("ab", kinds, strict=True)]
    ours = build_model(spec, tasks, config)
    with torch.no_grad():
        for bias in peer.parameters():
            if bias.ndim == 1:  # theirs start at 0, which would hide a difference
                bias.add_(torch.randn_like(bias) * 0.1)
            elif len(bias) == 1:  # a tower's last weights, made large enough to matter
                bias.normal_()
        for network in itertools.chain(peer.expert_dnn, *optional(peer)) if batch_norm else ():
            for norm in network.bn:
                norm.running_mean.normal_(std=0.2)
                norm.running_var.uniform_(0.5, 2.0)
        copy_weights(peer, ours)
        peer.eval()
        ours.eval()
        features = [theirs[name] for name in peer.feature_index]
        x = torch.tensor(np.concatenate([np.reshape(each, (ROWS, -1)) for each in features], axis=1)).float()
        expected = peer(x)
        outputs = ours(*encoded.tensors)
    binary = torch.tensor([kind == "binary" for kind in kinds])
    actual = torch.where(binary, outputs.sigmoid(), outputs)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert float(actual.std(0).min()) > 0.01  # scores differ from row to row


def optional(peer):
    """The stacks that their model only has if it has hidden layers in them."""
    return [getattr(peer, name) for name in ("gate_dnn", "tower_dnn") if hasattr(peer, name)]


def copy_weights(peer, ours):
    """Copy DeepCTR-Torch's weights, network by network, into our stacks."""
    tables = [peer.embedding_dict[name].weight for name in ("city", "phone")]
    ours.inputs.ids.table.weight.copy_(torch.cat(tables))
    ours.inputs.lists.lookup.table.weight.copy_(peer.embedding_dict["tags"].weight[1:])
    hidden_gates, gate_scores = ours.architecture.gates
    copy_networks(peer.expert_dnn, ours.architecture.experts)
    if hidden_gates.layers:
        copy_networks(peer.gate_dnn, hidden_gates)
    if ours.towers.hidden.layers:
        copy_networks(peer.tower_dnn, ours.towers.hidden)
    gate_scores.weight.copy_(torch.stack([layer.weight.t() for layer in peer.gate_dnn_final_layer]))
    gate_scores.bias.zero_()  # theirs have none
    ours.towers.score.weight.copy_(torch.stack([layer.weight.t() for layer in peer.tower_dnn_final_layer]))
    ours.towers.score.bias.copy_(torch.stack([layer.bias for layer in peer.out]))


def copy_networks(networks, stack):
    norms = stack.norms or [None] * len(stack.layers)
    for depth, (layer, norm) in enumerate(zip(stack.layers, norms, strict=True)):
        layer.weight.copy_(torch.stack([network.linears[depth].weight.t() for network in networks]))
        layer.bias.copy_(torch.stack([network.linears[depth].bias for network in networks]))
        if norm is not None:
            for own, theirs in (("weight", "weight"), ("bias", "bias"), ("mean", "running_mean")):
                getattr(norm, own).copy_(torch.stack([getattr(network.bn[depth], theirs) for network in networks]))
            norm.variance.copy_(torch.stack([network.bn[depth].running_var for network in networks]))
