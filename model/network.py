"""The multi-task network, and how a configuration becomes one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.features import FeatureSpec
from model.heads import HEADS, ChainHead, IndependentHead
from model.layers import StackedEmbedding, StackedLinear, StackedMLP
from model.mmoe import MMoE


class Towers(nn.Module):
    """One small network per task that ends in that task's score.

    **Shape**: (n, T, d) -> (n, T).

    >>> Towers(hidden=StackedMLP(3, 16, (8,)), score=StackedLinear(3, 8, 1))(torch.ones(5, 3, 16)).shape
    torch.Size([5, 3])
    """

    def __init__(self, *, hidden: nn.Module, score: StackedLinear) -> None:
        super().__init__()
        self.hidden = hidden
        self.score = score

    def forward(self, representations: Tensor) -> Tensor:
        return self.score(self.hidden(representations)).squeeze(-1)


class MultiTaskModel(nn.Module):
    """Embed, one representation per task, one score per task, one probability per task.

    **Shape**: ``sparse`` int64 (n, S), ``dense`` (n, D) -> logits (n, T) of each task's probability.

    >>> model = MultiTaskModel(
    ...     embedding=StackedEmbedding([3, 7], 4),
    ...     architecture=MMoE(experts=StackedLinear(8, 10, 16), gates=StackedLinear(3, 10, 8)),
    ...     towers=Towers(hidden=StackedMLP(3, 16, (8,)), score=StackedLinear(3, 8, 1)),
    ...     head=ChainHead(),
    ... )
    >>> model(torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        *,
        embedding: StackedEmbedding,
        architecture: nn.Module,
        towers: Towers,
        head: IndependentHead | ChainHead,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.architecture = architecture
        self.towers = towers
        self.head = head

    def forward(self, sparse: Tensor, dense: Tensor) -> Tensor:
        x = torch.cat([self.embedding(sparse), dense], -1)
        return self.head(self.towers(self.architecture(x)))

    @torch.no_grad()
    def start_at(self, rates: Tensor) -> None:
        """Set the last biases to give these base rates (T,): the first steps need not learn how rare a task
        is."""
        self.towers.score.bias.copy_(self.head.scores_of(rates)[:, None])


def build_model(spec: FeatureSpec, tasks: int, config: ModelConfig) -> MultiTaskModel:
    """The network for these features and this many tasks, with fresh weights from torch's default
    generator."""
    embedding = StackedEmbedding(spec.vocabulary_sizes, config.embedding_dim)
    width = embedding.out_features + spec.dense_width
    experts = StackedMLP(config.experts, width, config.expert_units, dropout=config.dropout)
    gate = StackedMLP(tasks, width, config.gate_units, dropout=config.dropout)
    tower = StackedMLP(tasks, experts.out_features, config.tower_units, dropout=config.dropout)
    return MultiTaskModel(
        embedding=embedding,
        architecture=MMoE(
            experts=experts,
            gates=nn.Sequential(gate, StackedLinear(tasks, gate.out_features, config.experts)),
        ),
        towers=Towers(hidden=tower, score=StackedLinear(tasks, tower.out_features, 1)),
        head=HEADS[config.head](),
    )
