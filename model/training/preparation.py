"""The data of a training, validated, split and encoded: rows to train on and held-out rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.config import ModelConfig, TrainConfig
from model.inputs.feature_spec import Feature, FeatureSpec
from model.labels import Labels, LabelSummary, TargetScale, Task
from model.training.examples import Examples
from model.training.sources import ResidentSource, Source, StreamedSource

if TYPE_CHECKING:
    import pyarrow.dataset


@dataclass(frozen=True)
class PreparedData:
    """Validated data: the rows to ``train`` on and the ``held_out`` ones, as tables and labels.

    ``train_labels`` is None for a streamed data set, whose labels are read batch by batch.
    """

    tasks: tuple[Task, ...]
    spec: FeatureSpec
    summary: LabelSummary
    train: pa.Table | pa.dataset.Dataset
    train_labels: Labels | None
    held_out: pa.Table | None
    held_out_labels: Labels | None

    @property
    def targets(self) -> tuple[TargetScale, ...]:
        deviation = np.sqrt(self.summary.variance)
        return tuple(
            TargetScale() if task.kind == "binary" else TargetScale(float(mean), float(scale) or 1.0)
            for task, mean, scale in zip(self.tasks, self.summary.mean, deviation, strict=True)
        )

    def build_source(self, training: TrainConfig, device: torch.device) -> Source:
        if self.train_labels is not None:
            assert isinstance(self.train, pa.Table)
            examples = self.encode(self.train, self.train_labels).to(device)
            return ResidentSource(examples, batch_size=training.batch_size)
        return StreamedSource(
            self.train,
            lambda table: self.encode(table, Labels.read(table, self.tasks)),
            columns=[*self.spec.names, *_list_label_columns(self.tasks)],
            batch_size=training.batch_size,
            shuffle_rows=training.shuffle_rows,
            device=device,
        )

    @cached_property
    def held_out_examples(self) -> Examples | None:
        """The held-out rows, encoded once for training and for calibration."""
        if self.held_out is None or self.held_out_labels is None:
            return None
        return self.encode(self.held_out, self.held_out_labels)

    def has_held_out_labels(self, task: str) -> bool:
        column = [each.name for each in self.tasks].index(task)
        return self.held_out_labels is not None and bool((self.held_out_labels.weight[:, column] > 0).any())

    def encode(self, table: pa.Table, labels: Labels) -> Examples:
        mean = np.array([target.mean for target in self.targets])
        scale = np.array([target.scale for target in self.targets])
        targets = ((labels.values - mean) / scale).astype(np.float32)
        return Examples(self.spec.encode(table), torch.from_numpy(targets), torch.from_numpy(labels.weight))

    def estimate_start(self) -> Tensor:
        """Estimate initial predictions (T,): base rates, kept off 0 and 1; a standardised regression's mean, 0."""
        binary = [task.kind == "binary" for task in self.tasks]
        return torch.from_numpy(np.where(binary, self._estimate_rates(), 0.0))

    def compute_base_losses(self) -> Tensor:
        """Compute the loss (T,) of a constant prediction: the base rate's entropy, or a regression's variance of 1."""
        rate = torch.from_numpy(self._estimate_rates())
        entropy = torch.special.entr(rate) + torch.special.entr(1.0 - rate)
        binary = torch.tensor([task.kind == "binary" for task in self.tasks])
        return torch.where(binary, entropy, 1.0).float()

    def _estimate_rates(self) -> np.ndarray:
        return (self.summary.mean * self.summary.rows + 0.5) / (self.summary.rows + 1.0)

    def compute_fingerprint(self, model: ModelConfig, training: TrainConfig) -> str:
        """Compute the hash that identifies this training in a checkpoint."""
        content = {
            "tasks": [asdict(task) for task in self.tasks],
            "features": self.spec.to_dict(),
            "model": asdict(model),
            "training": asdict(training),
            "labels": {name: values.tolist() for name, values in asdict(self.summary).items()},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def prepare_table(
    table: pa.Table, held_out: np.ndarray | pa.Table | None, features: Sequence[Feature], tasks: tuple[Task, ...]
) -> PreparedData:
    """Prepare a table that fits in memory. ``held_out`` is a table of its own or a mask of labels, bool (n, T).

    Raises:
        ValueError: No rows, a bad column or mask, or a task with nothing to learn from.
    """
    if table.num_rows == 0:
        raise ValueError("the table has no rows to train on")
    labels = Labels.read(table, tasks)
    if isinstance(held_out, pa.Table):
        held_out_rows = (held_out, Labels.read(held_out, tasks))
        mask = np.zeros_like(labels.known)
    else:
        mask = _read_mask(held_out, labels)
        held_out_rows = _keep_rows(table, labels, mask)
    train, train_labels = _keep_rows(table, labels, ~mask)
    summary = LabelSummary.summarise([train_labels], len(tasks))
    _require_learnable(summary, tasks, table.num_rows)
    return PreparedData(
        tasks, FeatureSpec.fit(features, train), summary, train, train_labels, *_none_if_empty(*held_out_rows)
    )


def prepare_dataset(
    dataset: pa.dataset.Dataset,
    held_out: np.ndarray | pa.Table | None,
    features: Sequence[Feature],
    tasks: tuple[Task, ...],
) -> PreparedData:
    """Prepare a data set to stream from files.

    Raises:
        ValueError: Not a data set, no rows, a bad column, a ``held_out`` that is not a table, or a task with nothing to
            learn from.
    """
    from pyarrow.dataset import Dataset

    if not isinstance(dataset, Dataset):
        kind = type(dataset).__name__
        raise ValueError(
            f"data is a {kind}, not a pyarrow Table or Dataset (pyarrow.Table.from_pandas takes a DataFrame)"
        )
    if held_out is not None and not isinstance(held_out, pa.Table):
        raise ValueError(f"held_out is a {type(held_out).__name__}; for a streamed data set it must be a table of rows")
    rows = dataset.count_rows()
    if rows == 0:
        raise ValueError("the data set has no rows to train on")
    _require_columns(dataset, [*(each.name for each in features), *_list_label_columns(tasks)])
    batches = dataset.to_batches(columns=_list_label_columns(tasks))
    summary = LabelSummary.summarise((Labels.read(batch, tasks) for batch in batches), len(tasks))
    _require_learnable(summary, tasks, rows)
    held_out_rows = (None, None) if held_out is None else _none_if_empty(held_out, Labels.read(held_out, tasks))
    names = list(dict.fromkeys(each.name for each in features))
    spec = FeatureSpec.fit(features, dataset.to_batches(columns=names))
    return PreparedData(tasks, spec, summary, dataset, None, *held_out_rows)


def _list_label_columns(tasks: Sequence[Task]) -> list[str]:
    weights = [task.sample_weight for task in tasks if task.sample_weight is not None]
    return list(dict.fromkeys([*(task.label for task in tasks), *weights]))


def _require_columns(dataset: pa.dataset.Dataset, names: Sequence[str]) -> None:
    have = dataset.schema.names
    for name in names:
        if name not in have:
            raise ValueError(f"column {name!r} is not in the data set; it has {', '.join(have)}")


def _keep_rows(table: pa.Table, labels: Labels, which: np.ndarray) -> tuple[pa.Table, Labels]:
    """The rows with a label in the mask ``which``, bool (n, T), and only those labels."""
    weight = np.where(which, labels.weight, np.float32(0.0))
    known = labels.known & which
    rows = (weight > 0).any(1)
    return table.filter(pa.array(rows)), Labels(labels.values[rows], weight[rows], known[rows])


def _none_if_empty(table: pa.Table, labels: Labels) -> tuple[pa.Table | None, Labels | None]:
    return (table, labels) if table.num_rows else (None, None)


def _read_mask(held_out: np.ndarray | None, labels: Labels) -> np.ndarray:
    if held_out is None:
        return np.zeros_like(labels.known)
    mask = np.asarray(held_out)
    if mask.shape != labels.known.shape or mask.dtype != np.bool_:
        raise ValueError(f"held_out is {mask.dtype} of shape {mask.shape}, not bool of shape {labels.known.shape}")
    return mask


def _require_learnable(summary: LabelSummary, tasks: Sequence[Task], rows: int) -> None:
    for task, known, positives in zip(tasks, summary.rows, summary.positives, strict=True):
        if known == 0:
            raise ValueError(f"task {task.name!r} has no label in {rows} rows that is both known and not held out")
        if positives == 0 and task.kind == "binary":
            raise ValueError(f"task {task.name!r} has no positive among its {known} labels to train on")
