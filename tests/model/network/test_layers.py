"""Stacked layers against plain loops, and the mixture against its equation."""

import pytest
import torch

from model.network.architectures.mmoe import MMoE
from model.network.embeddings import StackedEmbedding
from model.network.layers import StackedLinear, StackedMLP
from model.network.multitask import Towers
from tests.model.network.loops import CLOSE, apply_stack


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
    torch.testing.assert_close(stack(x), apply_stack(stack, x), **CLOSE)


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
        mixed.append(sum(weight[:, [expert]] * apply_stack(experts, x)[:, expert] for expert in range(8)))
    torch.testing.assert_close(MMoE(experts=experts, gates=gates)(x), torch.stack(mixed, 1), **CLOSE)


def test_towers_equal_a_loop():
    hidden, score = StackedMLP(3, 6, (4,)), StackedLinear(3, 4, 1)
    x = torch.randn(7, 3, 6)
    looped = [apply_stack(hidden, x)[:, task] @ score.weight[task] + score.bias[task] for task in range(3)]
    torch.testing.assert_close(Towers(hidden=hidden, score=score)(x), torch.cat(looped, 1), **CLOSE)
