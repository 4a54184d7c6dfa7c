"""Heads: from one score per task to the logit of each task's probability.

Every head gives logits of the probabilities that count, those over all rows. They hold probabilities near 0
and near 1 alike without loss, the log loss of a logit is stable, and calibration works on them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad


class IndependentHead(nn.Module):
    """Tasks unrelated to each other: the score is the logit.

    **Shape**: (n, T) -> (n, T).
    """

    def forward(self, scores: Tensor) -> Tensor:
        return scores

    def scores_of(self, probabilities: Tensor) -> Tensor:
        """The scores that give these probabilities."""
        return probabilities.logit()


class ChainHead(nn.Module):
    """Stages of a funnel: a score is the logit of passing a stage given that the one before was passed.

    p_k = prod_{j<=k} sigmoid(z_j), so that p_1 >= p_2 >= ... whatever the scores. As in Ma et al., "Entire
    Space Multi-Task Model", SIGIR 2018, it is the product that meets the labels, over all rows; here along
    any number of stages.

    1 - p_k is the chance to leave at one of the stages up to k, sum_{j<=k} p_{j-1} (1 - sigmoid(z_j)): a sum
    of positive terms, hence no cancellation, and gradients that stay bounded however sure the model is.

    **Shape**: (n, T) -> (n, T).

    >>> ChainHead()(torch.zeros(1, 3)).sigmoid()
    tensor([[0.5000, 0.2500, 0.1250]])
    """

    def forward(self, scores: Tensor) -> Tensor:
        passed = logsigmoid(scores).cumsum(-1)
        reached = pad(passed[:, :-1], (1, 0))
        left = torch.logcumsumexp(reached + logsigmoid(-scores), -1)
        return passed - left

    def scores_of(self, probabilities: Tensor) -> Tensor:
        """The scores that give these probabilities (..., T), as far as they fall along the stages."""
        conditional = probabilities / pad(probabilities[..., :-1], (1, 0), value=1.0)
        return conditional.clamp(max=0.99).logit()


HEADS: dict[str, type[IndependentHead] | type[ChainHead]] = {
    "independent": IndependentHead,
    "chain": ChainHead,
}
