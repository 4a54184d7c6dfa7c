"""Heads against plain products."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.network.heads import ChainHead, IndependentHead, MixedHead

SCORES = st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=6)


@given(SCORES)
def test_chain_is_the_product_of_the_conditionals(values):
    logits = ChainHead()(torch.tensor([values], dtype=torch.float64))[0].tolist()
    log_p = 0.0
    for value, logit in zip(values, logits, strict=True):
        log_p -= math.log1p(math.exp(-value))
        log_sigmoid = -math.log1p(math.exp(-logit))
        assert log_sigmoid == pytest.approx(log_p, rel=1e-9)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6))
def test_chain_falls_along_the_stages_with_finite_gradients_at_any_confidence(values):
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


def test_a_mixed_head_chains_only_the_binary_tasks():
    head = MixedHead(ChainHead(), binary=[True, False, True])
    scores = torch.randn(6, 3)
    outputs = head(scores)
    torch.testing.assert_close(outputs[:, [0, 2]], ChainHead()(scores[:, [0, 2]]))
    assert torch.equal(outputs[:, 1], scores[:, 1])
    targets = torch.tensor([0.4, 7.0, 0.1])
    torch.testing.assert_close(
        head(head.invert(targets)[None])[0] * torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 7.0, 0.0])
    )
