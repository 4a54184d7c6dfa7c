"""AdamW for touched rows against torch's dense AdamW."""

from collections.abc import Sequence

import pytest
import torch

from model.inputs.encoded import Encoded
from model.inputs.lookup import PADDING
from model.network.embeddings import PooledEmbedding, StackedEmbedding
from model.training import touched_rows
from model.training.touched_rows import MOMENTUM_REACH, TouchedRows

SIZES, DIM, ROWS, RATE, DECAY = (40, 300), 4, 16, 1e-2, 1e-1


def batches(steps: int, seed: int = 0):
    """Ids that repeat within a batch, and others that return after very different numbers of steps."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        often = torch.randint(0, SIZES[0], (ROWS,), generator=draw)
        rarely = (torch.rand(ROWS, generator=draw) ** 4 * SIZES[1]).long()
        yield torch.stack([often, rarely], 1)


def encoded(sparse=None, lists=None) -> Encoded:
    nothing = torch.zeros(ROWS, 0, dtype=torch.int64)
    return Encoded(nothing if sparse is None else sparse, torch.zeros(ROWS, 0), nothing if lists is None else lists)


def two_tables() -> tuple[StackedEmbedding, StackedEmbedding]:
    ours, dense = StackedEmbedding(SIZES, DIM), StackedEmbedding(SIZES, DIM)
    dense.load_state_dict(ours.state_dict())
    return ours, dense


def train_both(
    steps: int, *, scale: float, flush_at: tuple[int, ...] = (), compact: bool = True, whole: Sequence[int] = ()
) -> float:
    """Train one table each way on the same targets; return the greatest difference in weights after a flush."""
    torch.manual_seed(0)
    ours, dense = two_tables()
    touched = TouchedRows(ours, "sparse", weight_decay=DECAY)
    adamw = torch.optim.AdamW(dense.parameters(), weight_decay=DECAY)
    target = torch.randn(ROWS, len(SIZES), DIM)
    for step, ids in enumerate(batches(steps)):
        rate = RATE * (1.0 - step / (2 * steps))
        adamw.param_groups[0]["lr"] = rate
        touched.compact = compact and step not in whole
        adamw.zero_grad()
        (scale * (dense(ids) - target).square().sum()).backward()
        adamw.step()
        (scale * (ours(touched.take(encoded(ids)).sparse) - target).square().sum()).backward()
        touched.step(rate)
        if step in flush_at:
            touched.flush()
    touched.flush()
    assert ours.taken is None
    return float((ours.table.weight - dense.table.weight).detach().abs().max())


@pytest.mark.parametrize(
    ("flush_at", "compact"),
    [
        ((0, 7, 300), True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (((), True), ((), False), ((0, 7, 300), False))),
    ],
)
def test_the_weights_equal_those_of_dense_adamw(compact, flush_at):
    assert train_both(700, scale=1.0, flush_at=flush_at, compact=compact) < 1e-5


@pytest.mark.parametrize(
    "whole", [range(700), range(100, 110), range(0, 700, 3)], ids=["always", "for a while", "often"]
)
def test_steps_of_the_whole_table_are_dense_ones(whole, monkeypatch):
    monkeypatch.setattr(touched_rows, "WHOLE_BELOW", 100)
    assert train_both(700, scale=1.0, flush_at=(105, 300), whole=whole) < 1e-5


def test_a_table_is_flushed_at_regular_intervals(monkeypatch):
    monkeypatch.setattr(touched_rows, "FLUSH_EVERY", 100)
    assert train_both(350, scale=1.0) < 1e-5


@pytest.mark.slow
def test_gradients_as_small_as_eps_differ_by_a_fraction_of_a_step():
    assert train_both(700, scale=1e-8) < 0.1 * RATE


def test_a_step_does_not_move_rows_it_does_not_touch():
    ours, _ = two_tables()
    touched = TouchedRows(ours, "sparse", weight_decay=DECAY)
    before, seen = ours.table.weight.detach().clone(), torch.zeros(sum(SIZES), dtype=torch.bool)
    for ids in batches(5):
        seen[(ids + ours.offsets).flatten()] = True
        ours(touched.take(encoded(ids)).sparse).square().sum().backward()
        assert len(touched.rows) == len((ids + ours.offsets).unique())
        touched.step(RATE)
    assert torch.equal(ours.table.weight[~seen], before[~seen])
    assert (ours.table.weight[seen] != before[seen]).all()
    touched.flush()
    assert (ours.table.weight[~seen] != before[~seen]).all(), "untouched rows decay all the same"


@pytest.mark.slow
def test_rows_that_return_after_their_momentum_has_faded():
    ours, dense = two_tables()
    touched = TouchedRows(ours, "sparse", weight_decay=DECAY)
    adamw = torch.optim.AdamW(dense.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(3 * MOMENTUM_REACH):
        column = torch.full((ROWS,), 5 if step in (0, 2 * MOMENTUM_REACH + 3) else 6)
        ids = torch.stack([column, column], 1)
        adamw.zero_grad()
        dense(ids).square().sum().backward()
        adamw.step()
        ours(touched.take(encoded(ids)).sparse).square().sum().backward()
        touched.step(RATE)
    touched.flush()
    torch.testing.assert_close(ours.table.weight, dense.table.weight, rtol=1e-5, atol=1e-6)


def test_padding_of_lists_stays_padding():
    torch.manual_seed(0)
    ours = PooledEmbedding([20], [3], ["mean"], DIM)
    dense = PooledEmbedding([20], [3], ["mean"], DIM)
    dense.load_state_dict(ours.state_dict())
    touched = TouchedRows(ours.lookup, "lists", weight_decay=DECAY)
    adamw = torch.optim.AdamW(dense.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(20):
        lengths = torch.randint(0, 4, (ROWS, 1))
        ids = torch.randint(0, 20, (ROWS, 3)).masked_fill(torch.arange(3) >= lengths, PADDING)
        positions = touched.take(encoded(lists=ids)).lists
        assert torch.equal(positions == PADDING, ids == PADDING)
        ours(positions).sum().backward()
        touched.step(RATE)
        adamw.zero_grad()
        dense(ids).sum().backward()
        adamw.step()
    touched.flush()
    torch.testing.assert_close(ours.lookup.table.weight, dense.lookup.table.weight, rtol=1e-5, atol=1e-6)


def test_a_restored_state_continues_bit_for_bit():
    def trained(stop_at: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        table, _ = two_tables()
        touched = TouchedRows(table, "sparse", weight_decay=DECAY)
        for step, ids in enumerate(batches(40)):
            if step == stop_at:
                state = {name: each.clone() for name, each in touched.get_state().items()}
                touched = TouchedRows(table, "sparse", weight_decay=DECAY)
                touched.restore(state)
            table(touched.take(encoded(ids)).sparse).square().sum().backward()
            touched.step(RATE)
        touched.flush()
        return table.table.weight.detach()

    assert torch.equal(trained(None), trained(23))
