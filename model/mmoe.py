"""Multi-gate mixture of experts."""

from __future__ import annotations

from torch import Tensor, nn


class MMoE(nn.Module):
    """Every task mixes the same experts by a gate of its own.

    Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD
    2018, equations 6 and 7: f_t(x) = sum_e softmax(g_t(x))_e h_e(x).

    **Shape**: ``experts`` (n, in) -> (n, k, d), ``gates`` (n, in) -> (n, T, k); the module (n, in) -> (n, T,
    d).

    >>> import torch
    >>> from model.layers import StackedLinear
    >>> MMoE(experts=StackedLinear(8, 10, 16), gates=StackedLinear(3, 10, 8))(torch.ones(5, 10)).shape
    torch.Size([5, 3, 16])
    """

    def __init__(self, *, experts: nn.Module, gates: nn.Module) -> None:
        super().__init__()
        self.experts = experts
        self.gates = gates

    def forward(self, x: Tensor) -> Tensor:
        return self.gates(x).softmax(-1) @ self.experts(x)
