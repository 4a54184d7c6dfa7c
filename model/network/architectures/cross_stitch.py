"""Bottoms that exchange activations after each layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.network.architectures.base import Architecture
from model.network.layers import StackedMLP

OWN_SHARE = 0.9
"""Initial share of a task's own activations in its mixture; the others contribute the rest in equal parts."""


class CrossStitch(Architecture):
    """After each layer, every task's activations become a learned mixture of all tasks' activations.

    Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016, equation 1, for any number of tasks: one
    weight per layer and pair of tasks.

    **Shape**: (n, in) or (n, T, in) -> (n, T, ``out_features``).

    >>> CrossStitch([StackedMLP(3, 10, (16,)), StackedMLP(3, 16, (8,))], tasks=3, width=10)(torch.ones(5, 10)).shape
    torch.Size([5, 3, 8])
    """

    def __init__(self, layers: Sequence[StackedMLP], *, tasks: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        others = (1.0 - OWN_SHARE) / max(tasks - 1, 1)
        own = OWN_SHARE if tasks > 1 else 1.0
        start = torch.full((tasks, tasks), others).fill_diagonal_(own)
        self.stitches = nn.Parameter(start.repeat(len(layers), 1, 1))
        self.tasks = tasks
        self.out_features = layers[-1].out_features if layers else width

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            x = x.unsqueeze(1).expand(-1, self.tasks, -1)
        for layer, stitch in zip(self.layers, self.stitches, strict=True):
            x = stitch @ layer(x)
        return x
