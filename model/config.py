"""Options of the model and of its training, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Head = Literal["chain", "independent"]


@dataclass(frozen=True)
class ModelConfig:
    """The network's shape. Units are the widths of a stack's hidden layers; none means no hidden layer.

    ``head``: "chain" multiplies conditional probabilities along the funnel, "independent" leaves tasks
    unrelated.

    >>> ModelConfig(head="tree")
    Traceback (most recent call last):
    ValueError: head is 'tree', not one of chain, independent
    """

    embedding_dim: int = 16
    experts: int = 8
    expert_units: tuple[int, ...] = (64,)
    gate_units: tuple[int, ...] = ()
    tower_units: tuple[int, ...] = (32,)
    dropout: float = 0.0
    head: Head = "chain"

    def __post_init__(self) -> None:
        for name in ("expert_units", "gate_units", "tower_units"):
            units = tuple(getattr(self, name))
            _require(all(_is_count(width) for width in units), name, units, "whole numbers from 1 up")
            object.__setattr__(self, name, units)  # a list, as JSON gives it, is as good as a tuple
        _require(_is_count(self.embedding_dim), "embedding_dim", self.embedding_dim, "a whole number from 1 up")
        _require(_is_count(self.experts), "experts", self.experts, "a whole number from 1 up")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        _require(self.head in get_args(Head), "head", self.head, f"one of {', '.join(get_args(Head))}")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit tables from a few thousand to some million rows.

    ``batch_size`` is the most rows a step takes; a small table is cut into more, smaller batches, so that an
    epoch still makes enough steps to learn from. ``patience`` is the number of epochs without a better
    held-out loss before training stops. ``context_dropout`` is the share of training rows, drawn anew each
    epoch, whose context is hidden; ``unseen_share`` the share of categorical values shown as unseen, so that
    a value never met reads as an average one. ``device`` is "auto" (CUDA where there is one) or any device
    torch knows.

    >>> TrainConfig(learning_rate=0)
    Traceback (most recent call last):
    ValueError: learning_rate is 0, not above 0
    """

    seed: int = 0
    batch_size: int = 2048
    epochs: int = 20
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    patience: int = 3
    context_dropout: float = 0.3
    unseen_share: float = 0.01
    device: str = "auto"

    def __post_init__(self) -> None:
        is_seed = isinstance(self.seed, int) and 0 <= self.seed < 2**63
        _require(is_seed, "seed", self.seed, "a whole number from 0 up")
        for name in ("batch_size", "epochs", "patience"):
            _require(_is_count(getattr(self, name)), name, getattr(self, name), "a whole number from 1 up")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or above")
        for name in ("context_dropout", "unseen_share"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a share from 0 to 1")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}, not {wanted}")
