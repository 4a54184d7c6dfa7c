"""Options of the model and of its training, checked when they are made."""

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
"""Architectures published with a probability of its own for each task; the others get the chain by default."""


@dataclass(frozen=True)
class ModelConfig:
    """The network's shape. Units are the require_widths of a stack's hidden layers; none means no hidden layer.

    ``architecture``: how tasks share what they learn, one module each in ``model.network.architectures``.
    ``head``: "chain" multiplies conditional probabilities along the funnel, "independent" leaves tasks
    unrelated; by default the chain, but for "single_task" and "aitm".

    ``expert_units`` shape the experts, or, where there are none, the bottom that tasks share or each of them
    has. ``experts`` is their number, for "ple" that of the shared ones of each level; ``task_experts`` and
    ``levels`` are for "ple" alone, ``l2_constraint`` (alpha) for "l2_constrained", ``calibrator_weight`` for
    "aitm".

    ``numeric_embedding`` gives every numeric feature a learned vector of ``numeric_embedding_dim`` beside its
    value, from ``numeric_bins`` quantile bins or as many sines and cosines.

    ``init_std``: weights and embeddings are drawn from a normal distribution of this deviation; None draws
    them by the width of their input, embeddings small.

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
            require_widths(self, name)
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
    """How to train. The defaults suit tables from a few thousand to some million rows.

    ``batch_size`` is the most rows a step takes; a small table is cut into more, smaller batches, so that an
    epoch still makes enough steps to learn from. ``patience`` is the number of epochs without a better
    held-out loss before training stops; the loss is ``stop_on``'s, one task's, or by default the mean over
    tasks. ``context_dropout`` is the share of training rows, drawn anew each epoch, whose context is hidden;
    ``unseen_share`` the share of categorical values shown as unseen, so that a value never met reads as an
    average one.

    ``schedule`` moves the learning rate: "constant", or down to 0 at the last epoch by "linear" or "cosine",
    in each case after a linear rise over the first ``warmup`` steps (a share of all). ``clip_norm`` bounds the
    gradient's norm. ``weight_decay`` is AdamW's; ``l2_embedding`` and ``l2_dense`` add that multiple of the
    sum of squares to the loss. ``loss_weights``: "fixed" takes each task's ``loss_weight``, "uncertainty"
    learns them.

    ``device`` is "auto" (CUDA where there is one) or any device torch knows. ``precision`` "bfloat16" runs
    the network in autocast; weights and losses stay float32. A processor without products of bfloat16 trains
    many times slower with it. ``compile`` hands the network to
    ``torch.compile``: worth it on a GPU, or for hours of training. ``shuffle_rows`` bounds how many rows wait
    in memory when a data set is streamed.

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
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    shuffle_rows: int = 1_000_000

    def __post_init__(self) -> None:
        is_seed = isinstance(self.seed, int) and not isinstance(self.seed, bool) and 0 <= self.seed < 2**63
        require(is_seed, "seed", self.seed, "a whole number from 0 up")
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
        require_one_of("precision", self.precision, ("float32", "bfloat16"))
        require(isinstance(self.compile, bool), "compile", self.compile, "True or False")
        require(isinstance(self.device, str), "device", self.device, "a device's name")
        require(self.stop_on is None or isinstance(self.stop_on, str), "stop_on", self.stop_on, "None or a task's name")


def is_number(value: object) -> bool:
    """A finite number; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raises ValueError that names an option, its value and what it takes."""
    if not holds:
        raise ValueError(f"{name} is {value!r}, not {wanted}")


def require_one_of(name: str, value: object, known: Collection[str]) -> None:
    require(value in known, name, value, f"one of {', '.join(known)}")


def require_counts(config: object, *names: str) -> None:
    for name in names:
        require(is_count(getattr(config, name)), name, getattr(config, name), "a whole number from 1 up")


def require_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(is_number(value) and value >= 0, name, value, "0 or above")


def require_widths(config: object, name: str) -> None:
    value = getattr(config, name)
    fits = isinstance(value, tuple | list) and all(is_count(width) for width in value)
    require(fits, name, value, "whole numbers from 1 up")
    object.__setattr__(config, name, tuple(value))  # a list, as JSON gives it, is as good as a tuple
