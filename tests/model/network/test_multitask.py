"""Stacked layers against plain loops, the mixture against its equation, heads against plain products."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import ModelConfig
from model.network.architectures.mmoe import MMoE
from model.network.embeddings import StackedEmbedding
from model.network.heads import ChainHead, IndependentHead
from model.network.layers import StackedLinear, StackedMLP
from model.network.multitask import Towers

CLOSE = {"atol": 1e-6, "rtol": 1e-6}


def loop_mlp(stack: StackedMLP, x: torch.Tensor) -> torch.Tensor:
    """What ``stack`` says, one network and one layer at a time."""
    outputs = []
    for index in range(stack.k):
        hidden = x if x.ndim == 2 else x[:, index]
        for layer in stack.layers:
            hidden = torch.relu(hidden @ layer.weight[index] + layer.bias[index])
        outputs.append(hidden)
    return torch.stack(outputs, 1)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 5), (1, 5), (1, 3, 5)])
@pytest.mark.parametrize("units", [(), (4,), (4, 6)])
def test_a_stack_of_networks_equals_a_loop(shape, units):
    stack = StackedMLP(3, 5, units)
    x = torch.randn(shape)
    torch.testing.assert_close(stack(x), loop_mlp(stack, x), **CLOSE)


def test_stacked_embedding_equals_a_table_per_column():
    embedding = StackedEmbedding([3, 7, 2], 4)
    tables = embedding.table.weight.split([3, 7, 2])
    ids = torch.tensor([[2, 6, 1], [0, 0, 0], [1, 3, 1]])
    looped = torch.stack([table[ids[:, column]] for column, table in enumerate(tables)], 1)
    assert torch.equal(embedding(ids), looped)


def test_mmoe_equals_its_equation():
    experts, gates = StackedMLP(8, 5, (6,)), StackedLinear(3, 5, 8)
    x = torch.randn(7, 5)
    mixed = []
    for task in range(3):
        weight = torch.softmax(x @ gates.weight[task] + gates.bias[task], -1)
        mixed.append(sum(weight[:, [expert]] * loop_mlp(experts, x)[:, expert] for expert in range(8)))
    torch.testing.assert_close(MMoE(experts=experts, gates=gates)(x), torch.stack(mixed, 1), **CLOSE)


def test_towers_equal_a_loop():
    hidden, score = StackedMLP(3, 6, (4,)), StackedLinear(3, 4, 1)
    x = torch.randn(7, 3, 6)
    looped = [loop_mlp(hidden, x)[:, task] @ score.weight[task] + score.bias[task] for task in range(3)]
    torch.testing.assert_close(Towers(hidden=hidden, score=score)(x), torch.cat(looped, 1), **CLOSE)


scores = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=6)


@given(scores)
def test_chain_is_the_product_of_the_conditionals(values):
    logits = ChainHead()(torch.tensor([values], dtype=torch.float64))[0].tolist()
    log_p = 0.0
    for value, logit in zip(values, logits, strict=True):
        log_p -= math.log1p(math.exp(-value))
        log_sigmoid = -math.log1p(math.exp(-logit))
        assert log_sigmoid == pytest.approx(log_p, rel=1e-9)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6))
def test_chain_falls_along_the_stages_with_finite_gradients_however_sure(values):
    z = torch.tensor([values], requires_grad=True)
    logits = ChainHead()(z)
    p = logits.sigmoid()
    assert bool((p.diff(dim=1) <= 1e-6).all()) and bool(logits.isfinite().all())
    logits.sum().backward()
    assert bool(z.grad.isfinite().all()) and float(z.grad.abs().max()) <= 2 * len(values)


@pytest.mark.parametrize("head", [ChainHead(), IndependentHead()])
def test_a_head_finds_the_scores_of_given_probabilities(head):
    rates = torch.tensor([0.3, 0.1, 0.001], dtype=torch.float64)
    torch.testing.assert_close(head(head.invert(rates)[None]).sigmoid()[0], rates)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"experts": 0}, "experts is 0"),
        ({"embedding_dim": 2.5}, "embedding_dim is 2.5"),
        ({"expert_units": (8, -1)}, r"expert_units is \(8, -1\)"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"head": "tree"}, "head is 'tree', not one of chain, independent"),
    ],
)
def test_bad_model_options_are_named_with_their_value(options, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**options)
