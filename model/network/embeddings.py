"""From encoded rows to the vectors that the network reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.inputs.feature_spec import FeatureSpec
from model.inputs.lookup import PADDING

EMBEDDING_STD = 0.05
"""Embeddings start small, so that a rare id has little influence at first."""
FREQUENCY_SCALE = 0.1
"""Initial scale (sigma) of the frequencies of periodic embeddings, per standard deviation of the feature."""


class StackedEmbedding(nn.Module):
    """The embedding tables of all columns, stacked into one table, so that a single lookup serves them all.

    **Shape**: ids int32 or int64 (n, S), column s in [0, ``sizes[s]``) -> (n, S, dim).

    While ``model.training.touched_rows`` has a batch's rows taken out of the table, ids are positions among those rows.

    >>> StackedEmbedding([3, 7], 4)(torch.tensor([[2, 6], [0, 0]])).shape
    torch.Size([2, 2, 4])
    """

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], dim: int, *, std: float = EMBEDDING_STD) -> None:
        super().__init__()
        starts = torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)
        self.table = nn.Embedding(int(starts[-1]), dim)
        nn.init.normal_(self.table.weight, std=std)
        self.register_buffer("offsets", starts[:-1], persistent=False)
        self.taken: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        if self.taken is None:
            return self.table(ids + self.offsets)
        # The gradient of index_select is an index_add, far cheaper than that of an embedding.
        return self.taken.index_select(0, ids.flatten()).unflatten(0, ids.shape)


class PooledEmbedding(nn.Module):
    """The embeddings of lists of ids, each list pooled into one vector, with one lookup for all lists.

    ``poolings`` are "mean", "sum" or "max" per list. Columns hold the lists side by side, ``lengths`` wide and padded
    with ``PADDING``, which is ignored. An empty list becomes a vector of zeros.

    **Shape**: ids int32 or int64 (n, sum of ``lengths``) -> (n, L, dim).

    >>> pooled = PooledEmbedding([5], [3], ["sum"], 2)
    >>> _ = pooled.lookup.table.weight.data.copy_(torch.arange(10.0).reshape(5, 2))
    >>> pooled(torch.tensor([[1, 4, -1], [-1, -1, -1]])).tolist()
    [[[10.0, 12.0]], [[0.0, 0.0]]]
    """

    list_of: Tensor
    member: Tensor
    is_mean: Tensor
    is_max: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        lengths: Sequence[int],
        poolings: Sequence[str],
        dim: int,
        *,
        std: float = EMBEDDING_STD,
    ) -> None:
        super().__init__()
        list_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
        starts = torch.tensor([0, *sizes], dtype=torch.int64).cumsum(0)
        self.lookup = StackedEmbedding(sizes, dim, std=std)
        self.lookup.offsets = starts[:-1][list_of]  # all columns of a list share its table
        self.has_max = "max" in poolings
        self.register_buffer("list_of", list_of, persistent=False)
        self.register_buffer("member", nn.functional.one_hot(list_of, len(sizes)).float(), persistent=False)
        self.register_buffer("is_mean", torch.tensor([each == "mean" for each in poolings]), persistent=False)
        self.register_buffer("is_max", torch.tensor([each == "max" for each in poolings])[:, None], persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        present = ids != PADDING
        vectors = self.lookup(ids.clamp(min=0)) * present.unsqueeze(-1)
        count = present.to(vectors.dtype) @ self.member
        pooled = self.member.t() @ vectors / torch.where(self.is_mean, count, 1.0).clamp(min=1).unsqueeze(-1)
        if not self.has_max:
            return pooled
        highest = torch.full_like(pooled, -torch.inf).scatter_reduce(
            1,
            self.list_of[None, :, None].expand_as(vectors),
            vectors.masked_fill(~present.unsqueeze(-1), -torch.inf),
            "amax",
        )
        return torch.where(self.is_max, highest.masked_fill(count.unsqueeze(-1) == 0, 0.0), pooled)


def build_numeric_embedding(spec: FeatureSpec, config: ModelConfig, dim: int) -> nn.Module | None:
    """Build the configured embedding of numeric values, or None.

    Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS 2022, in their own
    package.

    **Shape** of the module: (n, V) -> (n, V, dim).

    Raises:
        ValueError: The package is not installed.
    """
    if config.numeric_embedding == "none" or not spec.numeric_width:
        return None
    try:
        import rtdl_num_embeddings as rtdl
    except ImportError as error:
        raise ValueError(
            f"numeric_embedding is {config.numeric_embedding!r}, which needs: pip install rtdl_num_embeddings"
        ) from error
    if config.numeric_embedding == "periodic":
        return rtdl.PeriodicEmbeddings(
            spec.numeric_width,
            dim,
            n_frequencies=config.numeric_bins,
            frequency_init_scale=FREQUENCY_SCALE,
            activation=True,
            lite=False,
        )
    bins = [torch.tensor(_thin(edges, config.numeric_bins)) for edges in spec.edges]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*just two bin edges")  # a yes-or-no feature has only two
        return rtdl.PiecewiseLinearEmbeddings(bins, dim, activation=False, version="B")


def _thin(edges: Sequence[float], bins: int) -> list[float]:
    """Keep at most ``bins`` + 1 evenly spaced edges, including the first and the last.

    >>> _thin([0.0, 1.0, 2.0, 3.0, 4.0], 2)
    [0.0, 2.0, 4.0]
    """
    last = len(edges) - 1
    steps = min(bins, last)
    return [edges[round(step * last / steps)] for step in range(steps + 1)]


class InputLayer(nn.Module):
    """All of a row's features as one vector: embeddings of ids, lists and numbers, then the numbers themselves.

    With ``copies``, every task has embeddings and a vector of its own. The copies share nothing but the frequencies
    of periodic numeric embeddings.

    **Shape**: ``sparse`` (n, S), ``dense`` (n, D), ``lists`` (n, P) -> (n, ``width``), or with ``copies``
    (n, ``copies``, ``width``).
    """

    def __init__(self, spec: FeatureSpec, config: ModelConfig, *, copies: int | None = None) -> None:
        super().__init__()
        self.copies = copies
        self.values = spec.numeric_width
        factor = copies or 1
        std = config.init_std or EMBEDDING_STD
        dim, numeric_dim = config.embedding_dim * factor, config.numeric_embedding_dim * factor
        self.ids = StackedEmbedding(spec.vocabulary_sizes, dim, std=std) if spec.vocabulary_sizes else None
        self.lists = (
            PooledEmbedding(spec.list_sizes, spec.list_lengths, spec.list_poolings, dim, std=std)
            if spec.list_sizes
            else None
        )
        self.numbers = build_numeric_embedding(spec, config, numeric_dim)
        self.width = (
            (len(spec.vocabulary_sizes) + len(spec.list_sizes)) * config.embedding_dim
            + (self.values * config.numeric_embedding_dim if self.numbers is not None else 0)
            + spec.dense_width
        )

    def forward(self, sparse: Tensor, dense: Tensor, lists: Tensor) -> Tensor:
        vectors = []
        if self.ids is not None:
            vectors.append(self._flatten(self.ids(sparse)))
        if self.lists is not None:
            vectors.append(self._flatten(self.lists(lists)))
        if self.numbers is not None:
            vectors.append(self._flatten(self.numbers(dense[:, : self.values])))
        vectors.append(dense if self.copies is None else dense.unsqueeze(1).expand(-1, self.copies, -1))
        return torch.cat(vectors, -1)

    def _flatten(self, vectors: Tensor) -> Tensor:
        """(n, columns, copies * dim) -> (n, columns * dim), or (n, copies, columns * dim)."""
        if self.copies is None:
            return vectors.flatten(1)
        return vectors.unflatten(-1, (self.copies, -1)).transpose(1, 2).flatten(2)
