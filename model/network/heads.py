"""Heads: from one score per task to the logit of each task's probability.

Every head returns logits of unconditional probabilities, those over all rows. Logits represent probabilities near 0
and near 1 equally well, give a stable log loss, and are what calibration works on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from model.config import Head


class IndependentHead(nn.Module):
    """Unrelated tasks: the score is the logit.

    **Shape**: (n, T) -> (n, T).
    """

    def forward(self, scores: Tensor) -> Tensor:
        return scores

    def invert(self, probabilities: Tensor) -> Tensor:
        """Find the scores that give these probabilities."""
        return probabilities.logit()


class ChainHead(nn.Module):
    """Stages of a funnel: a score is the logit of passing a stage, given that the stage before was passed.

    p_k = prod_{j<=k} sigmoid(z_j), so that p_1 >= p_2 >= ... for any scores. As in Ma et al., "Entire Space Multi-Task
    Model", SIGIR 2018, the loss compares the product with the labels, over all rows; here for any number of stages.

    1 - p_k is the probability of leaving at one of the stages up to k, sum_{j<=k} p_{j-1} (1 - sigmoid(z_j)): a sum of
    positive terms, hence without cancellation, whose gradients stay bounded however confident the model is.

    **Shape**: (n, T) -> (n, T).

    >>> ChainHead()(torch.zeros(1, 3)).sigmoid()
    tensor([[0.5000, 0.2500, 0.1250]])
    """

    def forward(self, scores: Tensor) -> Tensor:
        passed = logsigmoid(scores).cumsum(-1)
        reached = pad(passed[:, :-1], (1, 0))
        left = torch.logcumsumexp(reached + logsigmoid(-scores), -1)
        return passed - left

    def invert(self, probabilities: Tensor) -> Tensor:
        """Find the scores that give these probabilities (..., T), insofar as they fall along the stages."""
        conditional = probabilities / pad(probabilities[..., :-1], (1, 0), value=1.0)
        return conditional.clamp(max=0.99).logit()


class MixedHead(nn.Module):
    """A head for the binary tasks only; a regression's score is its prediction.

    **Shape**: (n, T) -> (n, T).

    >>> MixedHead(ChainHead(), binary=[True, False, True])(torch.zeros(1, 3))
    tensor([[ 0.0000,  0.0000, -1.0986]])
    """

    binary: Tensor

    def __init__(self, head: IndependentHead | ChainHead, *, binary: Sequence[bool]) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("binary", torch.tensor(binary).nonzero().flatten(), persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        return scores.index_copy(1, self.binary, self.head(scores[:, self.binary]))

    def invert(self, targets: Tensor) -> Tensor:
        """Find the scores that give these probabilities and, for regressions, values (T,)."""
        return targets.index_copy(-1, self.binary, self.head.invert(targets[..., self.binary]))


def build_head(name: Head, binary: Sequence[bool]) -> IndependentHead | ChainHead | MixedHead:
    """Build a head by name, for tasks flagged as binary or not."""
    head = ChainHead() if name == "chain" else IndependentHead()
    return head if all(binary) else MixedHead(head, binary=binary)
