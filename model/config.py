"""Options of the model and of its training, validated on construction."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

ArchitectureName = Literal[
    "single_task", "shared_bottom", "l2_constrained", "cross_stitch", "omoe", "mmoe", "ple", "aitm", "esmm"
]
Head = Literal["chain", "independent"]
NumericEmbedding = Literal["none", "piecewise_linear", "periodic"]
Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu"]

INDEPENDENT_BY_DEFAULT = ("single_task", "aitm")
"""Architectures published with an independent probability per task. The others default to the chain head."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the network.

    Args:
        architecture: How tasks share what they learn; see ``model.network.architectures``.
        head: "chain" multiplies conditional probabilities along the funnel, "independent" leaves tasks unrelated.
            Defaults to "chain", except for "single_task" and "aitm".
        embedding_dim: Width of the embedding of a categorical value.
        numeric_embedding: Adds a learned vector to every numeric feature, next to its value: from quantile bins
            ("piecewise_linear") or from sines and cosines ("periodic").
        numeric_embedding_dim: Width of that vector.
        numeric_bins: Number of bins, or of sines and cosines, behind it.
        experts: Number of experts; for "ple", of shared experts per level.
        task_experts: Experts of each task's own per level; "ple" only.
        levels: Extraction levels; "ple" only.
        expert_units: Hidden widths of the experts or, without experts, of the bottom networks. Empty means no
            hidden layer, here and in the next two.
        gate_units: Hidden widths of the gates.
        tower_units: Hidden widths of the task towers.
        activation: Activation of every hidden layer.
        dropout: Dropout rate after every hidden layer.
        batch_norm: Whether hidden layers are batch-normalised.
        init_std: Standard deviation of the normal distribution that initial weights and embeddings are drawn from.
            None scales weights by the width of their input and keeps embeddings small.
        l2_constraint: The weight alpha of the penalty on differences between bottoms; "l2_constrained" only.
        calibrator_weight: Weight of the penalty on scores that rise along the funnel; "aitm" only.

    Raises:
        ValueError: An option is out of range; the message names it, its value and what it takes.

    >>> ModelConfig(head="tree")
    Traceback (most recent call last):
    ValueError: head is 'tree', not one of chain, independent
    """

    architecture: ArchitectureName = "mmoe"
    head: Head | None = None
    embedding_dim: int = 16
    numeric_embedding: NumericEmbedding = "none"
    numeric_embedding_dim: int = 8
    numeric_bins: int = 32
    experts: int = 8
    task_experts: int = 2
    levels: int = 1
    expert_units: tuple[int, ...] = (64,)
    gate_units: tuple[int, ...] = ()
    tower_units: tuple[int, ...] = (32,)
    activation: Activation = "relu"
    dropout: float = 0.0
    batch_norm: bool = False
    init_std: float | None = None
    l2_constraint: float = 1e-3
    calibrator_weight: float = 0.6

    def __post_init__(self) -> None:
        require_one_of("architecture", self.architecture, get_args(ArchitectureName))
        if self.head is None:
            object.__setattr__(self, "head", "independent" if self.architecture in INDEPENDENT_BY_DEFAULT else "chain")
        require_one_of("head", self.head, get_args(Head))
        require_one_of("numeric_embedding", self.numeric_embedding, get_args(NumericEmbedding))
        require_one_of("activation", self.activation, get_args(Activation))
        for name in ("expert_units", "gate_units", "tower_units"):
            normalise_widths(self, name)
        require_counts(
            self, "embedding_dim", "numeric_embedding_dim", "numeric_bins", "experts", "task_experts", "levels"
        )
        require(is_number(self.dropout) and 0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        require(isinstance(self.batch_norm, bool), "batch_norm", self.batch_norm, "True or False")
        std = self.init_std
        require(std is None or (is_number(std) and std > 0), "init_std", std, "None or above 0")
        require_not_negative(self, "l2_constraint", "calibrator_weight")
        if self.head == "chain" and self.architecture == "single_task":
            raise ValueError("head is 'chain', which ties tasks together; architecture 'single_task' takes independent")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The defaults suit tables from a few thousand to a few million rows.

    Args:
        seed: Seed of weights, row order and everything drawn during training.
        batch_size: Maximum rows per step. A small table is split into more, smaller batches, so that an epoch
            still takes enough steps to learn.
        epochs: Maximum passes over the data.
        learning_rate: AdamW's learning rate at its peak.
        schedule: How the learning rate moves after the warm-up: "constant", or down to 0 at the last epoch, "linear"
            or "cosine".
        warmup: Share of all steps over which the learning rate rises linearly.
        weight_decay: AdamW's weight decay.
        l2_embedding: Multiple of the embeddings' sum of squares that is added to the loss.
        l2_dense: The same for the weights of all layers.
        clip_norm: Upper bound of the gradient's norm.
        loss_weights: "fixed" uses each task's ``loss_weight``; "uncertainty" also learns a weight per task.
        patience: Epochs without a better held-out loss before training stops.
        stop_on: The task whose held-out loss counts for that; by default the mean over tasks.
        context_dropout: Share of training rows, redrawn each epoch, whose context is hidden.
        unseen_share: Share of categorical values shown as unseen in training, so that a value never seen reads as
            an average one.
        device: "auto" (CUDA if available) or any device name torch accepts.
        precision: "bfloat16" runs the network under autocast; weights and losses stay float32. Far slower on a
            processor without bfloat16 arithmetic. "tf32" rounds the factors of products to 10 bits on a GPU, and is
            "float32" elsewhere.
        compile: Passes the network through ``torch.compile``; pays off on a GPU or for hours of training.
        shuffle_rows: Maximum rows held in memory for shuffling when a data set is streamed.

    Raises:
        ValueError: An option is out of range; the message names it, its value and what it takes.

    >>> TrainConfig(learning_rate=0)
    Traceback (most recent call last):
    ValueError: learning_rate is 0, not above 0
    """

    seed: int = 0
    batch_size: int = 2048
    epochs: int = 20
    learning_rate: float = 2e-3
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    weight_decay: float = 1e-2
    l2_embedding: float = 0.0
    l2_dense: float = 0.0
    clip_norm: float | None = None
    loss_weights: Literal["fixed", "uncertainty"] = "fixed"
    patience: int = 3
    stop_on: str | None = None
    context_dropout: float = 0.3
    unseen_share: float = 0.01
    device: str = "auto"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    compile: bool = False
    shuffle_rows: int = 1_000_000

    def __post_init__(self) -> None:
        is_seed = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**63
        require(is_seed, "seed", self.seed, "a non-negative integer")
        require_counts(self, "batch_size", "epochs", "patience", "shuffle_rows")
        rate, clip = self.learning_rate, self.clip_norm
        require(is_number(rate) and rate > 0, "learning_rate", rate, "above 0")
        require(clip is None or (is_number(clip) and clip > 0), "clip_norm", clip, "None or above 0")
        require_not_negative(self, "weight_decay", "l2_embedding", "l2_dense")
        for name in ("context_dropout", "unseen_share", "warmup"):
            share = getattr(self, name)
            require(is_number(share) and 0 <= share <= 1, name, share, "a share from 0 to 1")
        require_one_of("schedule", self.schedule, ("constant", "linear", "cosine"))
        require_one_of("loss_weights", self.loss_weights, ("fixed", "uncertainty"))
        require_one_of("precision", self.precision, ("float32", "tf32", "bfloat16"))
        require(isinstance(self.compile, bool), "compile", self.compile, "True or False")
        require(isinstance(self.device, str), "device", self.device, "a device's name")
        require(self.stop_on is None or isinstance(self.stop_on, str), "stop_on", self.stop_on, "None or a task's name")


def is_number(value: object) -> bool:
    """Whether a value is a finite number. A boolean is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    """Whether a value is a positive integer. A boolean is not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise ValueError unless ``holds``, naming an option, its value and what it takes."""
    if not holds:
        raise ValueError(f"{name} is {value!r}, not {wanted}")


def require_one_of(name: str, value: object, known: Collection[str]) -> None:
    require(value in known, name, value, f"one of {', '.join(known)}")


def require_counts(config: object, *names: str) -> None:
    for name in names:
        require(is_count(getattr(config, name)), name, getattr(config, name), "a positive integer")


def require_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(is_number(value) and value >= 0, name, value, "0 or above")


def normalise_widths(config: object, name: str) -> None:
    """Turn a list, as read from JSON, into a tuple."""
    value = getattr(config, name)
    fits = isinstance(value, tuple | list) and all(is_count(width) for width in value)
    require(fits, name, value, "positive integers")
    object.__setattr__(config, name, tuple(value))
