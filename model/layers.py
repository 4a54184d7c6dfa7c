"""Layers in stacks: k parallel layers are one parameter, and one batched product runs them all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

EMBEDDING_STD = 0.05
"""Embeddings start small, so that a rare id starts out saying little."""


class StackedLinear(nn.Module):
    """k linear layers side by side.

    **Shape**: (n, in) seen by every layer, or (n, k, in) with a row for each -> (n, k, out).

    >>> layer = StackedLinear(4, 3, 2)
    >>> layer(torch.ones(5, 3)).shape
    torch.Size([5, 4, 2])
    >>> layer(torch.ones(5, 4, 3)).shape
    torch.Size([5, 4, 2])
    """

    def __init__(self, k: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = max(in_features, 1) ** -0.5
        self.k = k
        self.weight = nn.Parameter(torch.empty(k, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(k, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:  # one wide product, faster than k narrow ones over the same rows
            wide = self.weight.transpose(0, 1).flatten(1)
            return torch.addmm(self.bias.flatten(), x, wide).unflatten(1, self.bias.shape)
        return torch.baddbmm(self.bias.unsqueeze(1), x.transpose(0, 1), self.weight).transpose(0, 1)


class StackedMLP(nn.Module):
    """k multilayer perceptrons side by side: linear, ReLU, dropout per hidden layer; none is the identity.

    **Shape**: (n, in) or (n, k, in) -> (n, k, ``out_features``).

    >>> StackedMLP(4, 3, (8, 5))(torch.ones(6, 3)).shape
    torch.Size([6, 4, 5])
    >>> StackedMLP(4, 3, ())(torch.ones(6, 3)).shape
    torch.Size([6, 4, 3])
    """

    def __init__(self, k: int, in_features: int, units: Sequence[int], *, dropout: float = 0.0) -> None:
        super().__init__()
        widths = [in_features, *units]
        self.k = k
        self.out_features = widths[-1]
        self.layers = nn.ModuleList(StackedLinear(k, width_in, width_out) for width_in, width_out in pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.dropout(layer(x).relu())
        return x if x.ndim == 3 else x.unsqueeze(1).expand(-1, self.k, -1)


class StackedEmbedding(nn.Module):
    """The embedding tables of all categorical columns, stacked into one: one lookup serves every column.

    **Shape**: ids int64 (n, S), column s in [0, ``sizes[s]``) -> (n, S * dim).

    >>> StackedEmbedding([3, 7], 4)(torch.tensor([[2, 6], [0, 0]])).shape
    torch.Size([2, 8])
    """

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        starts = torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)
        self.table = nn.Embedding(int(starts[-1]), dim)
        nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
        self.register_buffer("offsets", starts[:-1], persistent=False)
        self.out_features = len(sizes) * dim

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids + self.offsets).flatten(1)
