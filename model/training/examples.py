"""Encoded rows together with their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.inputs.encoded import Encoded


@dataclass(frozen=True)
class Examples:
    """Encoded rows with their targets, regressions standardised, and weights, 0 where a target does not count.

    **Shape**: ``targets`` and ``weight`` float32 (n, T).
    """

    inputs: Encoded
    targets: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return *self.inputs.tensors, self.targets, self.weight

    def map(self, function: Callable[[Tensor], Tensor]) -> Examples:
        sparse, dense, lists, targets, weight = map(function, self.tensors)
        return Examples(Encoded(sparse, dense, lists), targets, weight)

    def select(self, index: Tensor | slice) -> Examples:
        return self.map(lambda each: each[index])

    def to(self, device: torch.device) -> Examples:
        return self.map(lambda each: each.to(device))
