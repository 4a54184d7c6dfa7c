"""From a table to a bundle: check, encode, train, calibrate, measure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.bundle import Bundle, FitMetrics, TargetScale
from model.calibration.calibration import IDENTITY, Calibrator, calibrate, sigmoid
from model.calibration.ordering import least_gaps, order_stages
from model.config import ModelConfig, TrainConfig, one_of, require
from model.inputs.features import Feature, FeatureSpec, check_declared
from model.labels import Labels, LabelSummary, Task, tasks_of
from model.metrics import TaskMetrics, auc
from model.network.inference import score
from model.network.network import build_model
from model.training.checkpoint import Checkpoint
from model.training.data import Examples, Resident, Source, Streamed
from model.training.trainer import OnProgress, Trainer, TrainingError, pick_device, seeded

if TYPE_CHECKING:
    import pyarrow.dataset


def fit(
    data: pa.Table | pa.dataset.Dataset,
    *,
    features: Sequence[Feature],
    tasks: Sequence[str | Task],
    held_out: np.ndarray | pa.Table | None = None,
    model: ModelConfig | None = None,
    training: TrainConfig | None = None,
    trained_on: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    checkpoint: str | Path | None = None,
) -> Bundle:
    """Train on a column per feature and a column ``label_<task>`` (0, 1, null; a number) per task.

    A table lies in memory, on the device; a ``pyarrow.dataset`` is streamed from its files each epoch. A null
    label teaches nothing, to that task. ``held_out`` is kept from training, to stop early by, to calibrate and
    to measure: either a table of later rows or, where ``data`` is a table, a mask of its labels, bool (n, T).
    Without any, training runs all its epochs and the scores stay uncalibrated. Held-out rows are judged with
    their context hidden, as a night scores users.

    The same data, configuration and device give the same bundle; torch's generators are left as they were.
    ``trained_on`` is kept with the bundle and must be plain JSON values. ``checkpoint`` names a folder in which
    training leaves where it stands: called again after a kill, ``fit`` goes on from there and ends in the same
    weights.

    Raises ValueError, before any work, for an empty table, a missing or mistyped column, a wrong
    ``held_out``, or a task without anything to learn from; TrainingError when a loss is no longer finite,
    with a bundle of the last good weights where there are any.

    >>> from model.inputs.features import Numeric
    >>> number = np.random.default_rng(0).normal(size=1000)
    >>> table = pa.table({"x": number, "label_click": (number > 1).astype(int)})
    >>> held_out = np.arange(1000)[:, None] >= 800
    >>> bundle = fit(table, features=[Numeric("x")], tasks=["click"], held_out=held_out,
    ...              model=ModelConfig(experts=2), training=TrainConfig(epochs=5))
    >>> bundle.metrics["click"].auc > 0.99
    True
    """
    made = tasks_of(tasks)
    model, training = model or ModelConfig(), training or TrainConfig()
    require(isinstance(model, ModelConfig), "model", model, "a ModelConfig")
    require(isinstance(training, TrainConfig), "training", training, "a TrainConfig")
    if training.stop_on is not None:
        one_of("stop_on", training.stop_on, [task.name for task in made])
    trained_on = _plain_json(trained_on or {})
    device = pick_device(training.device)
    check_declared(features)
    _check_no_label_is_a_feature(features, made)
    if isinstance(data, pa.Table):
        prepared = _prepare_table(data, held_out, features, made)
    else:
        prepared = _prepare_dataset(data, held_out, features, made)
    if training.stop_on is not None and not prepared.judges(training.stop_on):
        raise ValueError(f"stop_on is {training.stop_on!r}, a task without a held-out label")

    with seeded(training.seed, device):
        network = build_model(prepared.spec, made, model)
        network.start_at(prepared.first_guess())
        trainer = Trainer(
            network.to(device),
            prepared.spec,
            prepared.source(training, device),
            prepared.held_examples and prepared.held_examples.to(device),
            tasks=made,
            base=prepared.base_losses().to(device),
            config=training,
            on_progress=on_progress,
        )
        failure: TrainingError | None = None
        try:
            kept = None
            if checkpoint is not None:
                kept = Checkpoint(checkpoint, training=prepared.fingerprint(model, training))
            trainer.run(kept)
        except TrainingError as error:
            if not trainer.has_good_weights:
                raise
            failure = error
    network.cpu().eval()
    untrained = Bundle(
        spec=prepared.spec,
        config=model,
        training=training,
        tasks=made,
        targets=prepared.targets,
        network=network,
        calibration=(IDENTITY,) * len(made),
        metrics={},
        trained_on=trained_on,
    )
    bundle = _judged(untrained, prepared, seed=training.seed)
    if failure is not None:
        failure.bundle = bundle
        raise failure
    return bundle


@dataclass(frozen=True)
class _Prepared:
    """Checked data: what teaches, ``taught``, and what judges, as tables and labels."""

    tasks: tuple[Task, ...]
    spec: FeatureSpec
    summary: LabelSummary
    taught: pa.Table | pa.dataset.Dataset
    taught_labels: Labels | None
    judging: pa.Table | None
    judging_labels: Labels | None

    @property
    def targets(self) -> tuple[TargetScale, ...]:
        deviation = np.sqrt(self.summary.variance)
        return tuple(
            TargetScale() if task.kind == "binary" else TargetScale(float(mean), float(scale) or 1.0)
            for task, mean, scale in zip(self.tasks, self.summary.mean, deviation, strict=True)
        )

    def source(self, training: TrainConfig, device: torch.device) -> Source:
        if self.taught_labels is not None:
            assert isinstance(self.taught, pa.Table)
            examples = self.examples(self.taught, self.taught_labels).to(device)
            return Resident(examples, batch_size=training.batch_size)
        return Streamed(
            self.taught,
            lambda table: self.examples(table, Labels.read(table, self.tasks)),
            columns=[*self.spec.names, *_label_columns(self.tasks)],
            batch_size=training.batch_size,
            shuffle_rows=training.shuffle_rows,
            device=device,
        )

    @cached_property
    def held_examples(self) -> Examples | None:
        """The rows that judge, encoded once for training and for calibration."""
        if self.judging is None or self.judging_labels is None:
            return None
        return self.examples(self.judging, self.judging_labels)

    def judges(self, task: str) -> bool:
        column = [each.name for each in self.tasks].index(task)
        return self.judging_labels is not None and bool((self.judging_labels.weight[:, column] > 0).any())

    def examples(self, table: pa.Table, labels: Labels) -> Examples:
        mean = np.array([target.mean for target in self.targets])
        scale = np.array([target.scale for target in self.targets])
        targets = ((labels.values - mean) / scale).astype(np.float32)
        return Examples(self.spec.encode(table), torch.from_numpy(targets), torch.from_numpy(labels.weight))

    def first_guess(self) -> Tensor:
        """Each binary task's base rate, away from 0 and 1; 0, the mean, for a standardised regression."""
        binary = [task.kind == "binary" for task in self.tasks]
        return torch.from_numpy(np.where(binary, self._rates(), 0.0))

    def base_losses(self) -> Tensor:
        """Each task's loss (T,) of a constant: the base rate, or the mean, which leaves the variance of 1."""
        rate = torch.from_numpy(self._rates())
        entropy = torch.special.entr(rate) + torch.special.entr(1.0 - rate)
        binary = torch.tensor([task.kind == "binary" for task in self.tasks])
        return torch.where(binary, entropy, 1.0).float()

    def _rates(self) -> np.ndarray:
        return (self.summary.mean * self.summary.rows + 0.5) / (self.summary.rows + 1.0)

    def fingerprint(self, model: ModelConfig, training: TrainConfig) -> str:
        """Tells this training from others, for checkpoints."""
        told = {
            "tasks": [asdict(task) for task in self.tasks],
            "features": self.spec.to_dict(),
            "model": asdict(model),
            "training": asdict(training),
            "labels": {name: values.tolist() for name, values in asdict(self.summary).items()},
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _prepare_table(
    table: pa.Table, held_out: np.ndarray | pa.Table | None, features: Sequence[Feature], tasks: tuple[Task, ...]
) -> _Prepared:
    if table.num_rows == 0:
        raise ValueError("the table has no rows to train on")
    labels = Labels.read(table, tasks)
    if isinstance(held_out, pa.Table):
        judging = (held_out, Labels.read(held_out, tasks))
        held = np.zeros_like(labels.known)
    else:
        held = _check_held_out(held_out, labels)
        judging = _rows_of(table, labels, held)
    taught, taught_labels = _rows_of(table, labels, ~held)
    summary = LabelSummary.of([taught_labels], len(tasks))
    _check_learnable(summary, tasks, table.num_rows)
    return _Prepared(tasks, FeatureSpec.fit(features, taught), summary, taught, taught_labels, *_or_none(*judging))


def _prepare_dataset(
    dataset: pa.dataset.Dataset,
    held_out: np.ndarray | pa.Table | None,
    features: Sequence[Feature],
    tasks: tuple[Task, ...],
) -> _Prepared:
    from pyarrow.dataset import Dataset

    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise ValueError(
            f"data is a {kind}, not a pyarrow Table or Dataset (pyarrow.Table.from_pandas takes a DataFrame)"
        )
    if held_out is not None and not isinstance(held_out, pa.Table):
        raise ValueError(f"held_out is a {type(held_out).__name__}; beside a streamed data set it is a table of rows")
    rows = dataset.count_rows()
    if rows == 0:
        raise ValueError("the data set has no rows to train on")
    _check_columns(dataset, [*(each.name for each in features), *_label_columns(tasks)])
    batches = dataset.to_batches(columns=_label_columns(tasks))
    summary = LabelSummary.of((Labels.read(batch, tasks) for batch in batches), len(tasks))
    _check_learnable(summary, tasks, rows)
    judging = (None, None) if held_out is None else _or_none(held_out, Labels.read(held_out, tasks))
    names = list(dict.fromkeys(each.name for each in features))
    spec = FeatureSpec.fit(features, dataset.to_batches(columns=names))
    return _Prepared(tasks, spec, summary, dataset, None, *judging)


def _label_columns(tasks: Sequence[Task]) -> list[str]:
    weights = [task.sample_weight for task in tasks if task.sample_weight is not None]
    return list(dict.fromkeys([*(task.label for task in tasks), *weights]))


def _check_columns(dataset: pa.dataset.Dataset, names: Sequence[str]) -> None:
    have = dataset.schema.names
    for name in names:
        if name not in have:
            raise ValueError(f"column {name!r} is not in the data set; it has {', '.join(have)}")


def _rows_of(table: pa.Table, labels: Labels, which: np.ndarray) -> tuple[pa.Table, Labels]:
    """The rows with a label among ``which``, bool (n, T), and those labels alone."""
    weight = np.where(which, labels.weight, np.float32(0.0))
    known = labels.known & which
    rows = (weight > 0).any(1)
    return table.filter(pa.array(rows)), Labels(labels.values[rows], weight[rows], known[rows])


def _or_none(table: pa.Table, labels: Labels) -> tuple[pa.Table | None, Labels | None]:
    return (table, labels) if table.num_rows else (None, None)


def _check_held_out(held_out: np.ndarray | None, labels: Labels) -> np.ndarray:
    if held_out is None:
        return np.zeros_like(labels.known)
    held = np.asarray(held_out)
    if held.shape != labels.known.shape or held.dtype != np.bool_:
        raise ValueError(f"held_out is {held.dtype} of shape {held.shape}, not bool of shape {labels.known.shape}")
    return held


def _check_no_label_is_a_feature(features: Sequence[Feature], tasks: Sequence[Task]) -> None:
    """What is to be predicted must not be read."""
    labels = {task.label for task in tasks}
    for feature in features:
        if feature.name in labels:
            raise ValueError(f"feature {feature.name!r} is a label: the model would read what it is to predict")


def _check_learnable(summary: LabelSummary, tasks: Sequence[Task], rows: int) -> None:
    for task, known, positives in zip(tasks, summary.rows, summary.positives, strict=True):
        if known == 0:
            raise ValueError(f"task {task.name!r} has no label among the {rows} rows that is known and not held out")
        if positives == 0 and task.kind == "binary":
            raise ValueError(f"task {task.name!r} has no positive among its {known} labels to train on")


def _plain_json(values: Mapping[str, Any]) -> dict[str, Any]:
    require(isinstance(values, Mapping), "trained_on", values, "a mapping of names to JSON values")
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"trained_on is not plain JSON: {error}") from error


def _judged(bundle: Bundle, prepared: _Prepared, *, seed: int) -> Bundle:
    """The bundle with its calibration and its figures, from the held-out rows."""
    held = prepared.held_examples
    labels = prepared.judging_labels
    hidden = shown = np.empty((0, len(bundle.tasks)))
    if held is not None:
        hidden = score(bundle.network, bundle.spec.hide_context(held.inputs)).numpy().astype(np.float64)
        shown = score(bundle.network, held.inputs).numpy().astype(np.float64)
    known = labels.weight > 0 if labels is not None else np.empty((0, len(bundle.tasks)), bool)
    values = labels.values if labels is not None else np.empty((0, len(bundle.tasks)))
    binary = [column for column, task in enumerate(bundle.tasks) if task.kind == "binary"]
    calibration, corrected = [IDENTITY] * len(bundle.tasks), hidden.copy()
    for column in binary:
        rows = known[:, column]
        calibration[column], corrected[rows, column] = calibrate(hidden[rows, column], values[rows, column], seed=seed)
    if bundle.config.head == "chain":
        gaps = least_gaps(np.concatenate([hidden, shown])[:, binary])
        _order(calibration, corrected, hidden, known, binary, gaps)
    predictions = replace(bundle, calibration=tuple(calibration)).finish(hidden)
    metrics = {}
    for column, task in enumerate(bundle.tasks):
        rows = known[:, column]
        if task.kind == "binary":
            raw = predictions.raw[rows, column]
            figures = TaskMetrics.of(values[rows, column], raw=raw, calibrated=sigmoid(corrected[rows, column]))
            in_context = auc(values[rows, column], shown[rows, column])
        else:
            figures = TaskMetrics.of_values(values[rows, column], predictions.raw[rows, column])
            in_context = None
        metrics[task.name] = FitMetrics(
            train_rows=int(prepared.summary.rows[column]),
            train_positives=int(prepared.summary.positives[column]) if task.kind == "binary" else 0,
            held_out_rows=figures.rows,
            held_out_positives=figures.positives,
            auc=figures.auc,
            auc_in_context=in_context,
            log_loss=figures.log_loss,
            ece=figures.ece,
            raw_log_loss=figures.raw_log_loss,
            raw_ece=figures.raw_ece,
            calibration=calibration[column].method,
            rmse=figures.rmse,
            r2=figures.r2,
        )
    return replace(bundle, calibration=tuple(calibration), metrics=metrics)


def _order(
    calibration: list[Calibrator],
    corrected: np.ndarray,
    hidden: np.ndarray,
    known: np.ndarray,
    stages: Sequence[int],
    gaps: np.ndarray,
) -> None:
    """Order the stages' calibrators among themselves, and shift the cross-fitted logits as that shifts them."""
    logits = [hidden[known[:, column], column] for column in stages]
    ordered = order_stages([calibration[column] for column in stages], logits, gaps=gaps.tolist())
    for column, calibrator, own in zip(stages, ordered, logits, strict=True):
        corrected[known[:, column], column] += calibrator(own) - calibration[column](own)
        calibration[column] = calibrator
