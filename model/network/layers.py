"""Stacked layers: k parallel layers share one parameter and run as one batched product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
}


class StackedLinear(nn.Module):
    """k parallel linear layers, each followed by ``activate`` if given.

    Bias and activation are applied in place, before the product is split by layer, because its widest results do not
    fit a cache and every copy of them slows training noticeably.

    **Shape**: (n, in) shared by all layers, or (n, k, in) with one row per layer -> (n, k, out).

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

    def forward(self, x: Tensor, activate: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        activate = activate or _identity
        if x.ndim == 2:  # one wide product is faster than k narrow ones over the same rows
            wide = self.weight.transpose(0, 1).flatten(1)
            return activate(_add_bias(torch.mm(x, wide), self.bias.flatten())).unflatten(1, self.bias.shape)
        return activate(_add_bias(torch.bmm(x.transpose(0, 1), self.weight), self.bias.unsqueeze(1))).transpose(0, 1)


def _add_bias(product: Tensor, bias: Tensor) -> Tensor:
    return product.add_(bias.to(product.dtype))  # autocast may have changed the product's type


def _identity(x: Tensor) -> Tensor:
    return x


class StackedBatchNorm(nn.Module):
    """Batch normalisation of every unit of k parallel layers.

    Ioffe and Szegedy, "Batch Normalization", ICML 2015. A batch of one row has no variance of its own, so the running
    statistics normalise it, in training too.

    **Shape**: (n, k, d) -> (n, k, d).

    >>> StackedBatchNorm(4, 3)(torch.ones(1, 4, 3)).shape
    torch.Size([1, 4, 3])
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, k: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(k, features))
        self.bias = nn.Parameter(torch.zeros(k, features))
        self.register_buffer("mean", torch.zeros(k, features))
        self.register_buffer("variance", torch.ones(k, features))

    def forward(self, x: Tensor) -> Tensor:
        flat = batch_norm(
            x.flatten(1),
            self.mean.flatten(),
            self.variance.flatten(),
            self.weight.flatten(),
            self.bias.flatten(),
            training=self.training and len(x) > 1,
        )
        return flat.unflatten(1, self.weight.shape)


class StackedMLP(nn.Module):
    """k parallel multilayer perceptrons.

    Each hidden layer is linear, optionally batch-normalised, activated and followed by dropout. Without hidden layers
    the stack is the identity.

    **Shape**: (n, in) or (n, k, in) -> (n, k, ``out_features``).

    >>> StackedMLP(4, 3, (8, 5))(torch.ones(6, 3)).shape
    torch.Size([6, 4, 5])
    >>> StackedMLP(4, 3, ())(torch.ones(6, 3)).shape
    torch.Size([6, 4, 3])
    """

    def __init__(
        self,
        k: int,
        in_features: int,
        units: Sequence[int],
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_features, *units]
        self.k = k
        self.out_features = widths[-1]
        self.layers = nn.ModuleList(StackedLinear(k, width_in, width_out) for width_in, width_out in pairwise(widths))
        self.norms = nn.ModuleList(StackedBatchNorm(k, width) for width in units) if batch_norm else None
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for depth, layer in enumerate(self.layers):
            if self.norms is None:
                x = self.dropout(layer(x, self.activation))
            else:
                x = self.dropout(self.activation(self.norms[depth](layer(x))))
        return x if x.ndim == 3 else x.unsqueeze(1).expand(-1, self.k, -1)
