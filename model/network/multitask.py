"""The multi-task network, and how it is built from a configuration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.inputs.feature_spec import FeatureSpec
from model.labels import Task
from model.network.architectures.base import Architecture
from model.network.architectures.build import build_architecture, build_stack
from model.network.embeddings import InputLayer
from model.network.heads import ChainHead, IndependentHead, MixedHead, build_head
from model.network.layers import StackedLinear


class Towers(nn.Module):
    """One small network per task, which ends in the task's score.

    **Shape**: (n, T, d) -> (n, T).

    >>> from model.network.layers import StackedMLP
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
    """The whole network: embeddings, one representation per task, one score per task, one logit or value per task.

    **Shape**: integer ``sparse`` (n, S), ``dense`` (n, D), integer ``lists`` (n, P) -> float32 (n, T): the logit of
    each binary task's probability, the standardised value of each regression.

    >>> import pyarrow as pa
    >>> from model.inputs.feature_spec import Categorical, Numeric
    >>> table = pa.table({"city": ["a", "b"], "age": [20, 40]})
    >>> spec = FeatureSpec.fit([Categorical("city"), Numeric("age")], table)
    >>> model = build_model(spec, [Task("click"), Task("register")], ModelConfig())
    >>> model(*spec.encode(table).tensors).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        *,
        inputs: InputLayer,
        architecture: Architecture,
        towers: Towers,
        head: IndependentHead | ChainHead | MixedHead,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.architecture = architecture
        self.towers = towers
        self.head = head

    def forward(self, sparse: Tensor, dense: Tensor, lists: Tensor) -> Tensor:
        return self.head(self.towers(self.architecture(self.inputs(sparse, dense, lists))))

    def expert_weights(self, sparse: Tensor, dense: Tensor, lists: Tensor) -> Tensor:
        """Each task's gate weights, (n, T, k). Raises ValueError for an architecture without gates."""
        return self.architecture.expert_weights(self.inputs(sparse, dense, lists))

    def sum_squares(self) -> tuple[Tensor, Tensor]:
        """Sum the squares of the embedding tables, and those of the weights of all stacked layers."""
        tables, weights = [], []
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                tables.append(module.weight.square().sum())
            elif isinstance(module, StackedLinear):
                weights.append(module.weight.square().sum())
        nothing = self.towers.score.weight.new_zeros(())
        return sum(tables, nothing), sum(weights, nothing)

    @torch.no_grad()
    def set_base_rates(self, means: Tensor) -> None:
        """Set the output biases to these base rates, and means of regressions, (T,).

        Training then need not spend its first steps on learning how rare each task is.
        """
        self.towers.score.bias.copy_(self.head.invert(means)[:, None])


def build_model(spec: FeatureSpec, tasks: Sequence[Task], config: ModelConfig) -> MultiTaskModel:
    """Build the network for these features and tasks, with fresh weights from torch's default generator.

    Raises:
        ValueError: The configuration does not suit these tasks, or needs a package that is not installed.
    """
    binary = [task.kind == "binary" for task in tasks]
    if config.architecture == "aitm" and not all(binary):
        raise ValueError("architecture is 'aitm', which takes the stages of a funnel: binary tasks only")
    inputs = InputLayer(spec, config, copies=len(tasks) if config.architecture == "single_task" else None)
    architecture = build_architecture(config, inputs.width, len(tasks))
    hidden = build_stack(config, len(tasks), architecture.out_features, config.tower_units)
    model = MultiTaskModel(
        inputs=inputs,
        architecture=architecture,
        towers=Towers(hidden=hidden, score=StackedLinear(len(tasks), hidden.out_features, 1)),
        head=build_head(config.head or "chain", binary),
    )
    if config.init_std is not None:
        for module in model.modules():
            if isinstance(module, StackedLinear):
                nn.init.normal_(module.weight, std=config.init_std)
    return model
