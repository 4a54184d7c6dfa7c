"""From a table to a bundle: validate, encode, train, calibrate, measure."""

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
    """Train a model on a table or data set, then calibrate and measure it on held-out rows.

    Args:
        data: A column per feature and a column ``label_<task>`` per task: 0, 1 or null, or a number for a regression.
            A null label teaches its task nothing. A table is held in memory, on the device; a ``pyarrow.dataset`` is
            streamed from its files every epoch.
        features: The features to read.
        tasks: The tasks to learn, in funnel order; a bare name is a binary task.
        held_out: Labels kept from training, for early stopping, calibration and metrics: a table of later rows or, if
            ``data`` is a table, a mask of its labels, bool (n, T). Their context is hidden, as when users are scored
            at night. Without them, training runs all its epochs and scores stay uncalibrated.
        model: The shape of the network.
        training: How to train it.
        trained_on: Plain JSON values to store in the bundle.
        on_progress: Called with a ``Progress`` a few times per second and at the end of each epoch.
        checkpoint: A folder in which training keeps its state. Called again after a kill, ``fit`` resumes from there
            and ends in the same weights, on a GPU up to rounding.

    Returns:
        The bundle. The same data, configuration and device give the same bundle, on a GPU up to rounding, since its
        sums have no order; torch's random state is left untouched.

    Raises:
        ValueError: Before any work, for an empty table, a missing or mistyped column, an invalid option or
            ``held_out``, or a task with nothing to learn from.
        TrainingError: A loss is no longer finite; carries a bundle of the last good weights, if any.

    >>> from model import Numeric
    >>> number = np.random.default_rng(0).normal(size=1000)
    >>> table = pa.table({"x": number, "label_click": (number > 1).astype(int)})
    >>> held_out = np.arange(1000)[:, None] >= 800
    >>> bundle = fit(table, features=[Numeric("x")], tasks=["click"], held_out=held_out,
    ...              model=ModelConfig(experts=2), training=TrainConfig(epochs=5))
    >>> bundle.metrics["click"].auc > 0.99
    True
    """
    all_tasks = as_tasks(tasks)
    model, training = model or ModelConfig(), training or TrainConfig()
    require(isinstance(model, ModelConfig), "model", model, "a ModelConfig")
    require(isinstance(training, TrainConfig), "training", training, "a TrainConfig")
    if training.stop_on is not None:
        require_one_of("stop_on", training.stop_on, [task.name for task in all_tasks])
    trained_on = _copy_plain_json(trained_on or {})
    device = pick_device(training.device)
    check_declared(features)
    _require_no_label_among(features, all_tasks)
    if isinstance(data, pa.Table):
        prepared = prepare_table(data, held_out, features, all_tasks)
    else:
        prepared = prepare_dataset(data, held_out, features, all_tasks)
    if training.stop_on is not None and not prepared.has_held_out_labels(training.stop_on):
        raise ValueError(f"stop_on is {training.stop_on!r}, a task without a held-out label")

    failure: TrainingError | None = None
    with seeded(training.seed, device):
        network = build_model(prepared.spec, all_tasks, model)
        network.set_base_rates(prepared.estimate_start())
        trainer = Trainer(
            network.to(device),
            prepared.spec,
            prepared.build_source(training, device),
            prepared.held_out_examples and prepared.held_out_examples.to(device),
            tasks=all_tasks,
            base=prepared.compute_base_losses().to(device),
            config=training,
            on_progress=on_progress,
        )
        try:
            saved = None
            if checkpoint is not None:
                saved = Checkpoint(checkpoint, training=prepared.compute_fingerprint(model, training))
            trainer.run(saved)
        except TrainingError as error:
            if not trainer.has_good_weights:
                raise
            failure = error
    network.cpu().eval()
    uncalibrated = Bundle(
        spec=prepared.spec,
        config=model,
        training=training,
        tasks=all_tasks,
        targets=prepared.targets,
        network=network,
        calibration=(IDENTITY,) * len(all_tasks),
        metrics={},
        trained_on=trained_on,
    )
    bundle = _calibrate_and_measure(uncalibrated, prepared, seed=training.seed)
    if failure is not None:
        failure.bundle = bundle
        raise failure
    return bundle


def _require_no_label_among(features: Sequence[Feature], tasks: Sequence[Task]) -> None:
    """The model must not read what it is to predict."""
    labels = {task.label for task in tasks}
    for feature in features:
        if feature.name in labels:
            raise ValueError(f"feature {feature.name!r} is a label: the model would read what it is to predict")


def _copy_plain_json(values: Mapping[str, Any]) -> dict[str, Any]:
    require(isinstance(values, Mapping), "trained_on", values, "a mapping of names to JSON values")
    try:
        return json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"trained_on is not plain JSON: {error}") from error


def _calibrate_and_measure(bundle: Bundle, prepared: PreparedData, *, seed: int) -> Bundle:
    """Complete the bundle with calibration and metrics from the held-out rows."""
    nothing = np.empty((0, len(bundle.tasks)))
    examples, labels = prepared.held_out_examples, prepared.held_out_labels
    hidden = shown = nothing
    if examples is not None:
        hidden = score(bundle.network, bundle.spec.hide_context(examples.inputs)).numpy().astype(np.float64)
        shown = score(bundle.network, examples.inputs).numpy().astype(np.float64)
    known, values = (nothing > 0, nothing) if labels is None else (labels.weight > 0, labels.values)
    calibration, corrected = _calibrate(bundle, hidden, shown, known, values, seed=seed)
    bundle = replace(bundle, calibration=calibration)
    predictions = bundle.to_predictions(hidden)
    metrics = {}
    for column, task in enumerate(bundle.tasks):
        rows = known[:, column]
        if task.kind == "binary":
            raw, calibrated = predictions.raw[rows, column], sigmoid(corrected[rows, column])
            measured = TaskMetrics.measure(values[rows, column], raw=raw, calibrated=calibrated)
            auc_in_context = auc(values[rows, column], shown[rows, column])
        else:
            measured = TaskMetrics.measure_values(values[rows, column], predictions.raw[rows, column])
            auc_in_context = None
        metrics[task.name] = FitMetrics(
            train_rows=int(prepared.summary.rows[column]),
            train_positives=int(prepared.summary.positives[column]) if task.kind == "binary" else 0,
            held_out_rows=measured.rows,
            held_out_positives=measured.positives,
            auc=measured.auc,
            auc_in_context=auc_in_context,
            log_loss=measured.log_loss,
            ece=measured.ece,
            raw_log_loss=measured.raw_log_loss,
            raw_ece=measured.raw_ece,
            calibration=calibration[column].method,
            rmse=measured.rmse,
            r2=measured.r2,
        )
    return replace(bundle, metrics=metrics)


def _calibrate(
    bundle: Bundle, hidden: np.ndarray, shown: np.ndarray, known: np.ndarray, values: np.ndarray, *, seed: int
) -> tuple[tuple[Calibrator, ...], np.ndarray]:
    """Fit all tasks' calibrators; also return the logits without context as they correct them, cross-fitted.

    **Shape**: logits without context ``hidden`` and with it ``shown``, ``known`` and ``values``: (n, T).
    """
    calibration, corrected = [IDENTITY] * len(bundle.tasks), hidden.copy()
    binary = [column for column, task in enumerate(bundle.tasks) if task.kind == "binary"]
    for column in binary:
        rows = known[:, column]
        calibration[column], corrected[rows, column] = calibrate(hidden[rows, column], values[rows, column], seed=seed)
    if bundle.config.head == "chain":
        gaps = measure_gaps(np.concatenate([hidden, shown])[:, binary])
        logits = [hidden[known[:, column], column] for column in binary]
        ordered = order_stages([calibration[column] for column in binary], logits, gaps=gaps.tolist())
        for column, calibrator, own in zip(binary, ordered, logits, strict=True):
            corrected[known[:, column], column] += calibrator(own) - calibration[column](own)
            calibration[column] = calibrator
    return tuple(calibration), corrected
