"""The training loop: batches of encoded rows and labels in, trained weights out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.config import TrainConfig
from model.inputs.encoded import Encoded
from model.inputs.feature_spec import FeatureSpec
from model.inputs.lookup import MISSING, PADDING, UNSEEN
from model.labels import Task
from model.network.inference import score
from model.network.multitask import MultiTaskModel
from model.training.checkpoint import Checkpoint, TrainingState
from model.training.distributed import count_processes, is_first_process, sum_gradients, sum_over_processes
from model.training.examples import Examples
from model.training.losses import TaskWeights, task_losses
from model.training.progress import Meter, OnProgress, TrainingError
from model.training.sources import Source
from model.training.touched_rows import build_touched_rows

CHECKPOINT_SECONDS = 60.0
"""Minimum time between checkpoints within an epoch; every epoch also ends with one."""


def pick_device(name: str) -> torch.device:
    """Pick a device by name; "auto" is CUDA if available.

    Raises:
        ValueError: torch cannot use this device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r}, which torch cannot use here: {reason}") from error


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators on the CPU and the device, and restore them at the end."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Let CUDA's float32 products round their factors to 10 bits for the block, if ``precision`` is "tf32"."""
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    if precision == "tf32":
        products.fp32_precision = "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before


class Trainer:
    """Trains a network in place; ``state`` is the part of it that changes from step to step, which checkpoints hold.

    Batches arrive on the network's device, and the host waits for the device only to report. Held-out rows are measured
    without their context, as users are scored. ``base`` (T,) is each task's loss of a constant prediction.
    """

    def __init__(
        self,
        network: MultiTaskModel,
        spec: FeatureSpec,
        source: Source,
        held_out: Examples | None,
        *,
        tasks: Sequence[Task],
        base: Tensor,
        config: TrainConfig,
        on_progress: OnProgress | None,
    ) -> None:
        self.network, self.spec, self.source, self.config = network, spec, source, config
        self.tasks, self.base, self.on_progress = tasks, base, on_progress
        device = base.device
        self.held_out = held_out and Examples(spec.hide_context(held_out.inputs), held_out.targets, held_out.weight)
        binary = [task.kind == "binary" for task in tasks]
        self.binary = None if all(binary) else torch.tensor(binary, device=device)
        self.weigh = TaskWeights(tasks, learned=config.loss_weights == "uncertainty").to(device)
        # With L2 on embeddings every row has a gradient; without it, a step only costs the rows it touches.
        self.tables = [] if config.l2_embedding else build_touched_rows(network, config)
        separate = {id(each.table.table.weight) for each in self.tables}
        weights = [each for each in network.parameters() if id(each) not in separate]
        self.parameters = [*weights, *self.weigh.parameters()]
        self.forward: Callable[..., Tensor] = torch.compile(network, dynamic=True) if config.compile else network
        optimiser = torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": config.weight_decay},
                {"params": list(self.weigh.parameters()), "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            fused=True,
        )
        self.state = TrainingState(network, self.weigh, optimiser, device, self.tables)
        self.good: dict[str, Tensor] | None = None

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Train, resuming from the checkpoint if there is one, until the last epoch or the end of patience.

        The network ends with the weights of the epoch with the lowest held-out loss or, without held-out rows, of the
        last epoch.

        Raises:
            TrainingError: A loss is no longer finite; the network then has the last good weights.
        """
        state, config = self.state, self.config
        if checkpoint is not None and checkpoint.load(state):
            self.good = state.best_weights or self._copy_weights()
        try:
            with products_in(config.precision):
                while state.epoch <= config.epochs and state.stale < config.patience:
                    self._run_epoch(checkpoint)
        except TrainingError:
            if self.good is not None:
                self.network.load_state_dict(self.good)
            raise
        if state.best_weights is not None:
            self.network.load_state_dict(state.best_weights)

    @property
    def has_good_weights(self) -> bool:
        return self.good is not None

    def _run_epoch(self, checkpoint: Checkpoint | None) -> None:
        state, config, batches = self.state, self.config, self.source.batches
        meter = Meter([task.name for task in self.tasks], state, config.epochs, batches)
        saved = time.monotonic()
        self.network.train()
        # The order depends only on seed and epoch, so that a resumed run sees the same batches.
        for number, batch in enumerate(self.source.epoch((config.seed * 1_000_003 + state.epoch) % 2**63)):
            if number < state.batch:
                continue
            self._set_learning_rate((state.epoch - 1) * batches + number)
            meter.add(self._step(batch), len(batch) * count_processes())
            state.batch += 1
            if self.on_progress is not None and meter.is_due():
                self.on_progress(meter.read(None))
            if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS and state.batch < batches:
                meter.check()
                self._save(checkpoint)
                saved = time.monotonic()
        meter.check()
        self._end_epoch(meter)
        if checkpoint is not None:
            self._save(checkpoint)

    def _step(self, batch: Examples) -> Tensor:
        """Take one optimiser step; return each task's loss (T,) before it."""
        config, state = self.config, self.state
        inputs = hide_at_random(self.spec, batch.inputs, config)
        for table in self.tables:
            inputs = table.take(inputs)
        with torch.autocast(state.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            outputs = self.forward(*inputs.tensors)
        outputs = outputs.float()
        total = sum_over_processes(batch.weight.sum(0))
        losses = task_losses(outputs, batch.targets, batch.weight, binary=self.binary, total=total)
        share = 1.0 / count_processes()
        loss = self.weigh(losses, share=share) + share * self.network.architecture.penalty(outputs)
        if config.l2_embedding or config.l2_dense:
            tables, weights = self.network.sum_squares()
            loss = loss + share * (config.l2_embedding * tables + config.l2_dense * weights)
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [*self.parameters, *(table.rows for table in self.tables)]
        sum_gradients(parameters)
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        state.optimiser.step()
        for table in self.tables:
            table.step(state.optimiser.param_groups[0]["lr"])
        return sum_over_processes(losses.detach())

    def _set_learning_rate(self, step: int) -> None:
        rate = self.config.learning_rate * learning_rate_factor(
            step, self.config.epochs * self.source.batches, self.config
        )
        for group in self.state.optimiser.param_groups:
            group["lr"] = rate

    def _end_epoch(self, meter: Meter) -> None:
        """Measure the epoch, keep its weights if they are the best so far, and count it."""
        state, relative = self.state, None
        for table in self.tables:
            table.flush()
        if self.held_out is not None:
            relative = self._measure_held_out_loss(meter)
        if self.on_progress is not None:
            self.on_progress(meter.read(relative))
        if relative is None:
            self.good = self._copy_weights()
        elif relative < state.best:
            state.best, state.stale = relative, 0
            self.good = state.best_weights = self._copy_weights()
        else:
            state.stale += 1
        state.epoch, state.batch = state.epoch + 1, 0

    def _measure_held_out_loss(self, meter: Meter) -> float:
        assert self.held_out is not None
        rows = self.held_out
        losses = task_losses(score(self.network, rows.inputs), rows.targets, rows.weight, binary=self.binary)
        if not losses.isfinite().all():
            task = self.tasks[int(losses.isfinite().logical_not().nonzero()[0])].name
            raise TrainingError(task, meter.step, what="held-out loss")
        relative = losses / self.base
        if self.config.stop_on is not None:
            return float(relative[[task.name for task in self.tasks].index(self.config.stop_on)])
        return float(relative[(rows.weight > 0).any(0)].mean())

    def _copy_weights(self) -> dict[str, Tensor]:
        """Copy the network's current weights."""
        return {name: weight.clone() for name, weight in self.network.state_dict().items()}

    def _save(self, checkpoint: Checkpoint) -> None:
        if is_first_process():
            checkpoint.save(self.state)


def learning_rate_factor(step: int, steps: int, config: TrainConfig) -> float:
    """The factor of the learning rate at a step, counted from 0.

    >>> config = TrainConfig(schedule="linear", warmup=0.2)
    >>> [learning_rate_factor(step, 10, config) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    rise = math.ceil(config.warmup * steps)
    if step < rise:
        return (step + 1) / rise
    progress = (step - rise) / max(steps - rise, 1)
    if config.schedule == "linear":
        return 1.0 - progress
    return (1.0 + math.cos(math.pi * progress)) / 2.0 if config.schedule == "cosine" else 1.0


def hide_at_random(spec: FeatureSpec, inputs: Encoded, config: TrainConfig) -> Encoded:
    """Hide the context of random rows, and show random known categorical values as unseen."""
    device = inputs.sparse.device
    if config.context_dropout:
        inputs = spec.hide_context(inputs, torch.rand(len(inputs), device=device) < config.context_dropout)
    if not config.unseen_share:
        return inputs

    def as_unseen(ids: Tensor) -> Tensor:
        hidden = torch.rand(ids.shape, device=device) < config.unseen_share
        return ids.masked_fill(hidden & (ids != MISSING) & (ids != PADDING), UNSEEN)

    return Encoded(as_unseen(inputs.sparse), inputs.dense, as_unseen(inputs.lists))
