"""Progress of a training: measured on the device, reported to the caller, shown as a bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.training.checkpoint import TrainingState

if TYPE_CHECKING:
    from model.bundle import Bundle

PROGRESS_SECONDS = 0.5
"""Minimum time between two reports within an epoch."""

OnProgress = Callable[["Progress"], None]


class TrainingError(RuntimeError):
    """A loss is no longer finite; the message names ``task`` and ``step``.

    ``bundle`` holds the last good weights: those of the best epoch or, without held-out rows, of the last complete one.
    None if no epoch was completed.
    """

    def __init__(self, task: str, step: int, *, what: str = "loss") -> None:
        super().__init__(
            f"the {what} of task {task!r} is not finite at step {step}; a lower learning_rate or a clip_norm may help"
        )
        self.task = task
        self.step = step
        self.bundle: Bundle | None = None


@dataclass(frozen=True)
class Progress:
    """The state of a training, reported a few times per second and at the end of each epoch.

    ``loss`` is each task's mean training loss in this epoch so far. ``held_out``, set at the end of an epoch if there
    are held-out rows, is their loss relative to that of a constant prediction: of the task to stop on, or the mean over
    tasks.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    rows_per_second: float
    loss: Mapping[str, float]
    held_out: float | None


class Meter:
    """Sums an epoch's losses on the device, so that the host waits only when it reads them."""

    def __init__(self, tasks: Sequence[str], state: TrainingState, epochs: int, batches: int) -> None:
        self.tasks, self.state, self.epochs, self.batches = tasks, state, epochs, batches
        self.added = self.rows = 0
        self.sums = torch.zeros(len(tasks), device=state.device)
        self.first_bad = torch.full((len(tasks),), math.inf, device=state.device)
        self.started = self.reported = time.monotonic()

    @property
    def step(self) -> int:
        """The number of steps taken so far."""
        return (self.state.epoch - 1) * self.batches + self.state.batch

    def add(self, losses: Tensor, rows: int) -> None:
        self.added += 1
        self.rows += rows
        self.sums += losses
        self.first_bad = self.first_bad.clamp(max=torch.where(losses.isfinite(), math.inf, float(self.step + 1)))

    def is_due(self) -> bool:
        return time.monotonic() - self.reported > PROGRESS_SECONDS

    def check(self) -> None:
        """Raise TrainingError if a loss was not finite, naming the first such task."""
        step, task = self.first_bad.min(0)
        if step.isfinite():
            raise TrainingError(self.tasks[int(task)], int(step))

    def read(self, held_out: float | None) -> Progress:
        self.check()
        losses = (self.sums / max(self.added, 1)).tolist()
        self.reported = time.monotonic()
        return Progress(
            epoch=self.state.epoch,
            epochs=self.epochs,
            batch=self.state.batch,
            batches=self.batches,
            rows_per_second=self.rows / max(self.reported - self.started, 1e-9),
            loss=dict(zip(self.tasks, losses, strict=True)),
            held_out=held_out,
        )


def progress_bar() -> OnProgress:
    """An ``on_progress`` for ``fit``: one bar per epoch, with rows per second and each task's loss.

    >>> from contextlib import redirect_stderr
    >>> from io import StringIO
    >>> show = progress_bar()
    >>> with redirect_stderr(StringIO()) as screen:
    ...     show(Progress(1, 2, 5, 10, 2000.0, {"click": 0.25}, None))
    ...     show(Progress(1, 2, 10, 10, 2000.0, {"click": 0.2}, 0.9))
    >>> screen.getvalue().splitlines()[-1].split("\\r")[-1].rstrip()
    'epoch 1/2: 10/10 | 2,000 rows/s | click 0.2000 | held out 0.9000'
    """
    from tqdm import tqdm

    bar: tqdm | None = None

    def show(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                total=progress.batches,
                desc=f"epoch {progress.epoch}/{progress.epochs}",
                bar_format="{desc}: {n_fmt}/{total_fmt}{postfix}",
                mininterval=0.0,
            )
        bar.n = progress.batch
        losses = [f"{task} {loss:.4f}" for task, loss in progress.loss.items()]
        held_out = [] if progress.held_out is None else [f"held out {progress.held_out:.4f}"]
        bar.bar_format = "{desc}: {n_fmt}/{total_fmt} | " + " | ".join(
            [f"{progress.rows_per_second:,.0f} rows/s", *losses, *held_out]
        )
        bar.refresh()
        if progress.batch == progress.batches and (held_out or progress.held_out is None):
            bar.close()
            bar = None

    return show
