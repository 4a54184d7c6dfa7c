"""From a table to a bundle: check, encode, train, calibrate, measure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model.bundle import Bundle, FitMetrics
from model.calibration.calibrators import IDENTITY, Calibrator, calibrate, sigmoid
from model.calibration.ordering import measure_gaps, order_stages
from model.config import ModelConfig, TrainConfig, require, require_one_of
from model.inputs.feature_spec import Feature, check_declared
from model.labels import Task, as_tasks
from model.metrics import TaskMetrics, auc
from model.network.inference import score
from model.network.multitask import build_model
from model.training.checkpoint import Checkpoint
from model.training.preparation import PreparedData, prepare_dataset, prepare_table
from model.training.progress import OnProgress, TrainingError
from model.training.trainer import Trainer, pick_device, seeded

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

    >>> from model.inputs.feature_spec import Numeric
    >>> number = np.random.default_rng(0).normal(size=1000)
    >>> table = pa.table({"x": number, "label_click": (number > 1).astype(int)})
    >>> held_out = np.arange(1000)[:, None] >= 800
    >>> bundle = fit(table, features=[Numeric("x")], tasks=["click"], held_out=held_out,
    ...              model=ModelConfig(experts=2), training=TrainConfig(epochs=5))
    >>> bundle.metrics["click"].auc > 0.99
    True
    """
    made = as_tasks(tasks)
    model, training = model or ModelConfig(), training or TrainConfig()
    require(isinstance(model, ModelConfig), "model", model, "a ModelConfig")
    require(isinstance(training, TrainConfig), "training", training, "a TrainConfig")
    if training.stop_on is not None:
        require_one_of("stop_on", training.stop_on, [task.name for task in made])
    trained_on = _require_plain_json(trained_on or {})
    device = pick_device(training.device)
    check_declared(features)
    _require_no_label_among(features, made)
    if isinstance(data, pa.Table):
        prepared = prepare_table(data, held_out, features, made)
    else:
        prepared = prepare_dataset(data, held_out, features, made)
    if training.stop_on is not None and not prepared.judges(training.stop_on):
        raise ValueError(f"stop_on is {training.stop_on!r}, a task without a held-out label")

    with seeded(training.seed, device):
        network = build_model(prepared.spec, made, model)
        network.set_base_rates(prepared.first_guess())
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
    bundle = _calibrate_and_measure(untrained, prepared, seed=training.seed)
    if failure is not None:
        failure.bundle = bundle
        raise failure
    return bundle


def _require_no_label_among(features: Sequence[Feature], tasks: Sequence[Task]) -> None:
    """What is to be predicted must not be read."""
    labels = {task.label for task in tasks}
    for feature in features:
        if feature.name in labels:
            raise ValueError(f"feature {feature.name!r} is a label: the model would read what it is to predict")


def _require_plain_json(values: Mapping[str, Any]) -> dict[str, Any]:
    require(isinstance(values, Mapping), "trained_on", values, "a mapping of names to JSON values")
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"trained_on is not plain JSON: {error}") from error


def _calibrate_and_measure(bundle: Bundle, prepared: PreparedData, *, seed: int) -> Bundle:
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
        gaps = measure_gaps(np.concatenate([hidden, shown])[:, binary])
        _order_calibrators(calibration, corrected, hidden, known, binary, gaps)
    predictions = replace(bundle, calibration=tuple(calibration)).finish(hidden)
    metrics = {}
    for column, task in enumerate(bundle.tasks):
        rows = known[:, column]
        if task.kind == "binary":
            raw = predictions.raw[rows, column]
            figures = TaskMetrics.measure(values[rows, column], raw=raw, calibrated=sigmoid(corrected[rows, column]))
            in_context = auc(values[rows, column], shown[rows, column])
        else:
            figures = TaskMetrics.measure_values(values[rows, column], predictions.raw[rows, column])
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


def _order_calibrators(
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
