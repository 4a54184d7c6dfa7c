"""Progressive layered extraction: levels of shared and task-specific experts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.network.architectures.base import Architecture
from model.network.layers import StackedMLP


class CGC(nn.Module):
    """Customized gate control, one level: each task mixes its own experts and the shared ones.

    Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020, section 4.1. If another level follows, a shared
    gate over all experts produces the input of that level's shared experts.

    ``experts`` are ordered: those of the first task, of the second, ..., then the shared ones. ``gates`` score all of
    them for each mixture; the softmax leaves out experts that belong to another task.

    **Shape**: (n, in), or (n, T + 1, in) with one row per task and a shared one -> (n, G, d), where G is T or, with the
    shared gate, T + 1.
    """

    reads: Tensor
    hidden: Tensor

    def __init__(self, *, experts: StackedMLP, gates: nn.Module, tasks: int, own: int, shared_gate: bool) -> None:
        super().__init__()
        self.experts = experts
        self.gates = gates
        owner = torch.arange(tasks).repeat_interleave(own)
        owner = torch.cat([owner, torch.full((experts.k - len(owner),), tasks)])
        gate = torch.arange(tasks + shared_gate)[:, None]
        visible = (owner == gate) | (owner == tasks) | (gate == tasks)
        self.register_buffer("reads", owner, persistent=False)
        self.register_buffer("hidden", ~visible, persistent=False)

    def expert_weights(self, x: Tensor) -> Tensor:
        """The gate weights, (n, G, k)."""
        scores = self.gates(x if x.ndim == 2 else x[:, : len(self.hidden)])
        return scores.masked_fill(self.hidden, -math.inf).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expert_weights(x) @ self.experts(x if x.ndim == 2 else x[:, self.reads])


class PLE(Architecture):
    """Levels of customized gate control, the last without the shared gate; a single level is the CGC model.

    Tang et al., RecSys 2020, section 4.2.

    **Shape**: (n, in) -> (n, T, ``out_features``).

    >>> from model.network.layers import StackedLinear
    >>> level = CGC(experts=StackedMLP(8, 10, (16,)), gates=StackedLinear(3, 10, 8), tasks=3, own=2, shared_gate=False)
    >>> PLE([level])(torch.ones(5, 10)).shape
    torch.Size([5, 3, 16])
    """

    def __init__(self, levels: Sequence[CGC]) -> None:
        super().__init__()
        self.before = nn.Sequential(*levels[:-1])
        self.last = levels[-1]
        self.out_features = levels[-1].experts.out_features

    def expert_weights(self, x: Tensor) -> Tensor:
        """The gate weights of the last level; other tasks' experts have weight 0."""
        return self.last.expert_weights(self.before(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.before(x))
