"""From a table to a bundle: check, encode, train, calibrate, measure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model.bundle import Bundle, FitMetrics
from model.calibration import Calibrator, calibrate, sigmoid
from model.config import ModelConfig, TrainConfig
from model.features import Encoded, Feature, FeatureSpec
from model.labels import Labels, check_tasks
from model.metrics import TaskMetrics, auc
from model.network import MultiTaskModel, build_model
from model.training import Examples, OnProgress, pick_device, score, seeded, train


def fit(
    table: pa.Table,
    *,
    features: Sequence[Feature],
    tasks: Sequence[str],
    held_out: np.ndarray | None,
    model: ModelConfig,
    training: TrainConfig,
    trained_on: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> Bundle:
    """Train on a table with a column per feature and a column ``label_<task>`` (0, 1, null) per task.

    A null label teaches nothing, to that task. ``held_out``, bool (n, T), marks labels that are kept from
    training, to stop early by, to calibrate and to measure; without any, training runs all its epochs and the
    scores stay uncalibrated. Held-out rows are judged with their context hidden, as a night scores users.

    The same table, configuration and device give the same bundle; torch's generators are left as they were.
    ``trained_on`` is kept with the bundle and must be plain JSON values.

    Raises ValueError, before any work, for an empty table, a missing or mistyped column, a wrong
    ``held_out``, or a task without a positive to learn from; TrainingError when a loss is no longer finite.

    >>> from model.features import Numeric
    >>> number = np.random.default_rng(0).normal(size=1000)
    >>> table = pa.table({"x": number, "label_click": (number > 1).astype(int)})
    >>> held_out = np.arange(1000)[:, None] >= 800
    >>> bundle = fit(table, features=[Numeric("x")], tasks=["click"], held_out=held_out,
    ...              model=ModelConfig(experts=2), training=TrainConfig(epochs=5))
    >>> bundle.metrics["click"].auc > 0.99
    True
    """
    tasks = check_tasks(tasks)
    trained_on = _plain_json(trained_on or {})
    if table.num_rows == 0:
        raise ValueError("the table has no rows to train on")
    labels = Labels.read(table, tasks)
    held = _check_held_out(held_out, labels)
    train_mask, held_mask = labels.known & ~held, labels.known & held
    positives = _check_positives(labels.values, train_mask, tasks)
    device = pick_device(training.device)

    in_training, in_held_out = train_mask.any(1), held_mask.any(1)
    training_table = table.filter(pa.array(in_training))
    spec = FeatureSpec.fit(features, training_table)
    examples = _examples(spec.encode(training_table), labels.values[in_training], train_mask[in_training])
    held_examples = _examples(
        spec.encode(table.filter(pa.array(in_held_out))), labels.values[in_held_out], held_mask[in_held_out]
    )

    with seeded(training.seed, device):
        network = build_model(spec, len(tasks), model)
        network.start_at(torch.from_numpy((positives + 0.5) / (train_mask.sum(0) + 1.0)))
        train(
            network.to(device),
            spec,
            examples.to(device),
            held_examples.to(device) if len(held_examples) else None,
            tasks=tasks,
            config=training,
            on_progress=on_progress,
        )
    network.cpu().eval()
    calibration, held_out_metrics, in_context = _judge(network, spec, held_examples, seed=training.seed)
    metrics = {
        task: FitMetrics(
            train_rows=int(train_mask[:, column].sum()),
            train_positives=int(positives[column]),
            held_out_rows=figures.rows,
            held_out_positives=figures.positives,
            auc=figures.auc,
            auc_in_context=in_context[column],
            log_loss=figures.log_loss,
            ece=figures.ece,
            raw_log_loss=figures.raw_log_loss,
            raw_ece=figures.raw_ece,
            calibration=calibration[column].method,
        )
        for column, (task, figures) in enumerate(zip(tasks, held_out_metrics, strict=True))
    }
    return Bundle(
        spec=spec,
        config=model,
        training=training,
        tasks=tasks,
        network=network,
        calibration=tuple(calibration),
        metrics=metrics,
        trained_on=trained_on,
    )


def _check_held_out(held_out: np.ndarray | None, labels: Labels) -> np.ndarray:
    if held_out is None:
        return np.zeros_like(labels.known)
    held = np.asarray(held_out)
    if held.shape != labels.known.shape or held.dtype != np.bool_:
        raise ValueError(f"held_out is {held.dtype} of shape {held.shape}, not bool of shape {labels.known.shape}")
    return held


def _check_positives(values: np.ndarray, mask: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """Positives to train on, int (T,)."""
    positives = (values * mask).sum(0, dtype=np.float64).astype(np.int64)
    for task, rows, count in zip(tasks, mask.sum(0), positives, strict=True):
        if rows == 0:
            raise ValueError(f"task {task!r} has no label among the {len(mask)} rows that is known and not held out")
        if count == 0:
            raise ValueError(f"task {task!r} has no positive among its {rows} labels to train on")
    return positives


def _plain_json(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"trained_on is not plain JSON: {error}") from error


def _examples(inputs: Encoded, targets: np.ndarray, mask: np.ndarray) -> Examples:
    return Examples(inputs, torch.from_numpy(targets), torch.from_numpy(mask))


def _judge(
    network: MultiTaskModel, spec: FeatureSpec, held_out: Examples, *, seed: int
) -> tuple[list[Calibrator], list[TaskMetrics], list[float | None]]:
    """Per task: the calibrator, the figures without context, and the AUC in context, on the held-out rows."""
    hidden = score(network, spec.hide_context(held_out.inputs)).numpy().astype(np.float64)
    shown = score(network, held_out.inputs).numpy()
    calibrators, metrics, in_context = [], [], []
    for column in range(held_out.targets.shape[1]):
        known = held_out.mask[:, column].numpy()
        labels = held_out.targets[:, column].numpy()[known]
        calibrator, corrected = calibrate(hidden[known, column], labels, seed=seed)
        calibrators.append(calibrator)
        metrics.append(TaskMetrics.of(labels, raw=sigmoid(hidden[known, column]), calibrated=sigmoid(corrected)))
        in_context.append(auc(labels, shown[known, column]))
    return calibrators, metrics, in_context
