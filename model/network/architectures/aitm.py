"""Adaptive information transfer along the stages of a funnel."""

from __future__ import annotations

import torch
from torch import Tensor

from model.network.architectures.base import Architecture
from model.network.layers import StackedLinear, StackedMLP


class AITM(Architecture):
    """Each stage attends to what the stage before passes on and to its own bottom's output.

    Xi et al., "Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task
    Learning in Targeted Display Advertising", KDD 2021, the AIT module: z_1 = q_1 and
    z_t = sum_u softmax(<h1(u), h2(u)> / sqrt(d))_u h3(u) over u in {g(z_{t-1}), q_t}. ``transfer`` holds the
    g and ``project`` the h1, h2 and h3 of the T - 1 steps.

    Stages are sequential by definition, since z_t depends on z_{t-1}: the loop over them cannot be batched.

    **Shape**: ``bottoms`` (n, in) -> (n, T, d), ``transfer`` d -> d, ``project`` d -> 3 d.

    >>> AITM(bottoms=StackedMLP(3, 10, (16,)), transfer=StackedLinear(2, 16, 16), project=StackedLinear(2, 16, 48),
    ...      calibrator_weight=0.6)(torch.ones(5, 10)).shape
    torch.Size([5, 3, 16])
    """

    def __init__(
        self, *, bottoms: StackedMLP, transfer: StackedLinear, project: StackedLinear, calibrator_weight: float
    ) -> None:
        super().__init__()
        self.bottoms = bottoms
        self.transfer = transfer
        self.project = project
        self.calibrator_weight = calibrator_weight
        self.out_features = bottoms.out_features

    def penalty(self, logits: Tensor) -> Tensor:
        """The paper's behavioural expectation calibrator: the excess of each stage's probability over that of the stage
        before, summed over stages and averaged over rows."""
        return self.calibrator_weight * logits.sigmoid().diff(dim=1).relu().sum(1).mean()

    def forward(self, x: Tensor) -> Tensor:
        found = self.bottoms(x)
        stages = [found[:, 0]]
        for step in range(self.transfer.k):
            passed_on = torch.addmm(self.transfer.bias[step], stages[-1], self.transfer.weight[step])
            both = torch.stack([passed_on, found[:, step + 1]], 1)
            h1, h2, h3 = (both @ self.project.weight[step] + self.project.bias[step]).chunk(3, -1)
            weight = ((h1 * h2).sum(-1, keepdim=True) * self.out_features**-0.5).softmax(1)
            stages.append((weight * h3).sum(1))
        return torch.stack(stages, 1)
