"""Mixtures of experts, with one gate for all tasks or one per task."""

from __future__ import annotations

from torch import Tensor, nn

from model.network.architectures.base import Architecture
from model.network.layers import StackedMLP


class MMoE(Architecture):
    """Every task mixes the same experts through a gate of its own.

    Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD
    2018, equations 6 and 7: f_t(x) = sum_e softmax(g_t(x))_e h_e(x).

    **Shape**: ``experts`` (n, in) -> (n, k, d), ``gates`` (n, in) -> (n, T, k); the module (n, in) -> (n, T,
    d).

    >>> import torch
    >>> from model.network.layers import StackedLinear
    >>> MMoE(experts=StackedMLP(8, 10, (16,)), gates=StackedLinear(3, 10, 8))(torch.ones(5, 10)).shape
    torch.Size([5, 3, 16])
    """

    def __init__(self, *, experts: StackedMLP, gates: nn.Module) -> None:
        super().__init__()
        self.experts = experts
        self.gates = gates
        self.out_features = experts.out_features

    def expert_weights(self, x: Tensor) -> Tensor:
        return self.gates(x).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expert_weights(x) @ self.experts(x)


class OMoE(MMoE):
    """One gate, hence one mixture, for all tasks: the one-gate mixture of experts of the same paper.

    **Shape**: ``experts`` (n, in) -> (n, k, d), ``gates`` (n, in) -> (n, 1, k); the module (n, in) -> (n, T, d).
    """

    def __init__(self, *, experts: StackedMLP, gates: nn.Module, tasks: int) -> None:
        super().__init__(experts=experts, gates=gates)
        self.tasks = tasks

    def expert_weights(self, x: Tensor) -> Tensor:
        return super().expert_weights(x).expand(-1, self.tasks, -1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = super().expert_weights(x) @ self.experts(x)  # once for all tasks
        return mixed.expand(-1, self.tasks, -1)
