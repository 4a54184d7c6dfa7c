"""The optimiser's loop: encoded rows and masked labels in, trained weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from model.config import TrainConfig
from model.features import MISSING, UNSEEN, Encoded, FeatureSpec
from model.network import MultiTaskModel

PROGRESS_SECONDS = 0.5
SMALL_BATCH = 64
"""A table is cut into up to this many batches of at least this many rows before batches grow to the batch
size."""
SCORING_ROWS = 2048

OnProgress = Callable[["Progress"], None]


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the task and the step."""


@dataclass(frozen=True)
class Progress:
    """Where training stands: sent a few times a second and at the end of each epoch.

    ``loss`` is each task's mean training loss in this epoch so far; ``held_out``, at the end of an epoch with
    held-out rows, the mean over tasks of the held-out log loss relative to that of a constant base rate.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    rows_per_second: float
    loss: Mapping[str, float]
    held_out: float | None


@dataclass(frozen=True)
class Examples:
    """Encoded rows with ``targets`` float (n, T) and ``mask`` bool (n, T), true where the target counts."""

    inputs: Encoded
    targets: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, index: Tensor) -> Examples:
        return Examples(self.inputs.rows(index), self.targets[index], self.mask[index])

    def to(self, device: torch.device) -> Examples:
        return Examples(self.inputs.to(device), self.targets.to(device), self.mask.to(device))


def masked_log_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Each task's mean log loss (T,) over the rows that count for it; 0 where none does. Inputs are (n, T).

    >>> masked_log_loss(torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([[True, False], [True, False]]))
    tensor([0.6931, 0.0000])
    """
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses.masked_fill(~mask, 0.0).sum(0) / mask.sum(0).clamp(min=1)


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one. Raises ValueError for one that is not
    there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r}, which torch cannot use here: {reason}") from error


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch draws from this seed on the CPU and on the device; outside, its generators are as
    before."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


@torch.inference_mode()
def score(network: MultiTaskModel, inputs: Encoded) -> Tensor:
    """Logits (n, T) in evaluation mode.

    Every product is over the same number of rows, the last filled up with zeros: products over a few rows
    round otherwise than those over many, and a row's score must not depend on which rows are scored with it.
    """
    network.eval()
    fill = -len(inputs) % SCORING_ROWS
    sparse = pad(inputs.sparse, (0, 0, 0, fill)).split(SCORING_ROWS)
    dense = pad(inputs.dense, (0, 0, 0, fill)).split(SCORING_ROWS)
    return torch.cat([network(*piece) for piece in zip(sparse, dense, strict=True)])[: len(inputs)]


def train(
    network: MultiTaskModel,
    spec: FeatureSpec,
    examples: Examples,
    held_out: Examples | None,
    *,
    tasks: Sequence[str],
    config: TrainConfig,
    on_progress: OnProgress | None,
) -> None:
    """Train the network in place, to the epoch with the lowest held-out loss; without held-out rows, to the
    last.

    Everything is on the network's device already, and stays: a batch is a slice of a shuffled index, and the
    host waits for the device only to report. Held-out rows are judged without their context, as users are
    scored.

    Raises TrainingError when a loss is no longer finite.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    if held_out is not None:
        held_out = Examples(spec.hide_context(held_out.inputs), held_out.targets, held_out.mask)
    base = _base_entropy(examples)
    best = math.inf
    best_weights: dict[str, Tensor] = {}
    stale = 0
    for epoch in range(1, config.epochs + 1):
        meter = _Meter(tasks, epoch, config.epochs, batches_for(len(examples), config.batch_size), base.device)
        _train_epoch(network, spec, examples, optimiser, config, meter, on_progress)
        relative = None
        if held_out is not None:
            losses = masked_log_loss(score(network, held_out.inputs), held_out.targets, held_out.mask)
            judged = held_out.mask.any(0)
            relative = float((losses / base)[judged].mean())
        if on_progress is not None:
            on_progress(meter.read(relative))
        else:
            meter.check()
        if relative is None:
            continue
        if relative < best:
            best, stale = relative, 0
            best_weights = {name: weight.clone() for name, weight in network.state_dict().items()}
        elif (stale := stale + 1) >= config.patience:
            break
    if best_weights:
        network.load_state_dict(best_weights)


def batches_for(rows: int, batch_size: int) -> int:
    """How many batches an epoch has.

    >>> batches_for(1_000_000, 2048), batches_for(10_000, 2048), batches_for(640, 2048), batches_for(1, 2048)
    (489, 64, 10, 1)
    """
    return max(math.ceil(rows / batch_size), min(SMALL_BATCH, math.ceil(rows / SMALL_BATCH)))


def _train_epoch(
    network: MultiTaskModel,
    spec: FeatureSpec,
    examples: Examples,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    meter: _Meter,
    on_progress: OnProgress | None,
) -> None:
    network.train()
    shuffled = torch.randperm(len(examples), device=examples.targets.device)
    for index in shuffled.tensor_split(meter.batches):  # sizes differ by one at most: no tiny last batch
        batch = examples.rows(index)
        inputs = _hide_at_random(spec, batch.inputs, config)
        losses = masked_log_loss(network(inputs.sparse, inputs.dense), batch.targets, batch.mask)
        optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimiser.step()
        meter.add(losses.detach(), len(index))
        if on_progress is not None and meter.is_due():
            on_progress(meter.read(None))


def _hide_at_random(spec: FeatureSpec, inputs: Encoded, config: TrainConfig) -> Encoded:
    """Some rows without their context, some known categorical values as unseen."""
    device = inputs.sparse.device
    rows = torch.rand(len(inputs), device=device) < config.context_dropout
    hidden = spec.hide_context(inputs, rows)
    unseen = torch.rand(hidden.sparse.shape, device=device) < config.unseen_share
    return Encoded(hidden.sparse.masked_fill(unseen & (hidden.sparse != MISSING), UNSEEN), hidden.dense)


def _base_entropy(examples: Examples) -> Tensor:
    """The log loss (T,) of knowing each task's base rate alone, above 0 even for a task that always
    happens."""
    rows = examples.mask.sum(0)
    rate = (examples.targets.masked_fill(~examples.mask, 0.0).sum(0) + 0.5) / (rows + 1.0)
    return torch.special.entr(rate) + torch.special.entr(1.0 - rate)


class _Meter:
    """Sums an epoch's losses on the device; only reading them makes the host wait."""

    def __init__(self, tasks: Sequence[str], epoch: int, epochs: int, batches: int, device: torch.device) -> None:
        self.tasks, self.epoch, self.epochs, self.batches = tasks, epoch, epochs, batches
        self.batch = self.rows = 0
        self.sums = torch.zeros(len(tasks), device=device)
        self.first_bad = torch.full((len(tasks),), math.inf, device=device)
        self.started = self.reported = time.monotonic()

    def add(self, losses: Tensor, rows: int) -> None:
        self.batch += 1
        self.rows += rows
        self.sums += losses
        step = (self.epoch - 1) * self.batches + self.batch
        self.first_bad = self.first_bad.clamp(max=torch.where(losses.isfinite(), math.inf, float(step)))

    def is_due(self) -> bool:
        return time.monotonic() - self.reported > PROGRESS_SECONDS

    def check(self) -> None:
        """Raise TrainingError if a loss was not finite, naming the task where it began."""
        step, task = self.first_bad.min(0)
        if step.isfinite():
            raise TrainingError(
                f"the loss of task {self.tasks[int(task)]!r} is not finite at step {int(step)}; "
                "a lower learning_rate may help"
            )

    def read(self, held_out: float | None) -> Progress:
        self.check()
        losses = (self.sums / max(self.batch, 1)).tolist()
        self.reported = time.monotonic()
        return Progress(
            epoch=self.epoch,
            epochs=self.epochs,
            batch=self.batch,
            batches=self.batches,
            rows_per_second=self.rows / max(self.reported - self.started, 1e-9),
            loss=dict(zip(self.tasks, losses, strict=True)),
            held_out=held_out,
        )
