"""One bottom for all tasks."""

from __future__ import annotations

from torch import Tensor

from model.network.architectures.base import Architecture
from model.network.layers import StackedMLP


class SharedBottom(Architecture):
    """Every task reads the same representation: Caruana, "Multitask Learning", Machine Learning 28, 1997.

    **Shape**: (n, in) -> (n, T, ``out_features``).

    >>> import torch
    >>> SharedBottom(StackedMLP(1, 10, (16,)), tasks=3)(torch.ones(5, 10)).shape
    torch.Size([5, 3, 16])
    """

    def __init__(self, bottom: StackedMLP, *, tasks: int) -> None:
        super().__init__()
        self.bottom = bottom
        self.tasks = tasks
        self.out_features = bottom.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.bottom(x).expand(-1, self.tasks, -1)
