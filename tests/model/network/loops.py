"""Stacked layers written as plain loops."""

from __future__ import annotations

import torch

from model.network.layers import StackedLinear, StackedMLP

CLOSE = {"atol": 1e-6, "rtol": 1e-6}


def apply_linear(layer: StackedLinear, index: int, x: torch.Tensor) -> torch.Tensor:
    return x @ layer.weight[index] + layer.bias[index]


def apply_mlp(stack: StackedMLP, index: int, x: torch.Tensor) -> torch.Tensor:
    for layer in stack.layers:
        x = torch.relu(apply_linear(layer, index, x))
    return x


def apply_stack(stack: StackedMLP, x: torch.Tensor) -> torch.Tensor:
    """The output of ``stack``, one network and one layer at a time."""
    return torch.stack([apply_mlp(stack, index, x if x.ndim == 2 else x[:, index]) for index in range(stack.k)], 1)
