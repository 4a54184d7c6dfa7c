"""A trained model as one folder: weights, features, calibration, metrics, and what it was trained on."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from safetensors import SafetensorError

from model.calibration.calibrators import Calibrator, sigmoid
from model.config import ModelConfig, TrainConfig
from model.inputs.encoded import Encoded
from model.inputs.feature_spec import FeatureSpec
from model.labels import Labels, TargetScale, Task
from model.metrics import Reliability, TaskMetrics, reliability
from model.network.inference import score
from model.network.multitask import MultiTaskModel, build_model

FORMAT = "funnelcast-bundle"
FORMAT_VERSION = 2
MANIFEST = "bundle.json"
WEIGHTS = "weights.safetensors"


class BundleError(ValueError):
    """A folder that this code cannot read or write as a bundle; the message gives the reason in one line."""


class Predictions(NamedTuple):
    """Probabilities, raw and calibrated; of a regression, predicted values.

    With the chain head, neither ever rises from one stage to the next.

    **Shape**: ``raw`` and ``calibrated``, float64 (n, T).
    """

    raw: np.ndarray
    calibrated: np.ndarray


@dataclass(frozen=True)
class FitMetrics:
    """One task's metrics on the held-out rows of its training.

    Held-out rows are scored without their context; ``auc_in_context`` is the AUC of the same rows with it.
    ``log_loss`` and ``ece`` (expected calibration error) are of the calibrated scores, cross-fitted; ``raw_log_loss``
    and ``raw_ece`` of the scores before calibration. ``calibration`` is identity, platt or isotonic. A metric is None
    if the held-out rows do not determine it. A regression has ``rmse`` and ``r2`` instead, and no positives.
    """

    train_rows: int
    train_positives: int
    held_out_rows: int
    held_out_positives: int
    auc: float | None
    auc_in_context: float | None
    log_loss: float | None
    ece: float | None
    raw_log_loss: float | None
    raw_ece: float | None
    calibration: str
    rmse: float | None = None
    r2: float | None = None


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model, with everything needed to score a table and to tell where the model came from."""

    spec: FeatureSpec
    config: ModelConfig
    training: TrainConfig
    tasks: tuple[Task, ...]
    targets: tuple[TargetScale, ...]
    network: MultiTaskModel
    calibration: tuple[Calibrator, ...]
    metrics: Mapping[str, FitMetrics]
    trained_on: Mapping[str, Any]

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    def predict(self, table: pa.Table | pa.RecordBatch, *, hide_context: bool = False) -> Predictions:
        """Score each row, with its context as given in the table (null if unknown) or with all context hidden.

        A column may have another type than at training, as long as each value is the same: 1.0 or "1" for 1.

        Calibration preserves the order of a task's rows. With the chain head, a stage's calibrated score also never
        exceeds that of the stage before. The one exception to the order: a row more certain to go on than any held-out
        row may have to be capped at the score of the stage before.

        Raises:
            ValueError: A column is missing or has the wrong type; the message names it, and its type at training.
        """
        outputs = score(self.network, self.encode(table, hide_context=hide_context))
        return self.to_predictions(outputs.numpy().astype(np.float64))

    def encode(self, table: pa.Table | pa.RecordBatch, *, hide_context: bool = False) -> Encoded:
        """Encode rows as tensors.

        Raises:
            ValueError: A column is missing or has the wrong type; the message names it.
        """
        inputs = self.spec.encode(table)
        return self.spec.hide_context(inputs) if hide_context else inputs

    def to_predictions(self, outputs: np.ndarray) -> Predictions:
        """Turn the network's outputs, float64 (n, T), into predictions."""
        binary = np.array([task.kind == "binary" for task in self.tasks])
        raw, calibrated = outputs.copy(), outputs.copy()
        for column in np.flatnonzero(binary).tolist():
            calibrated[:, column] = self.calibration[column](outputs[:, column])
        if self.config.head == "chain":
            raw[:, binary] = np.minimum.accumulate(raw[:, binary], axis=1)
            calibrated[:, binary] = np.minimum.accumulate(calibrated[:, binary], axis=1)
        for column, target in enumerate(self.targets):
            if binary[column]:
                raw[:, column], calibrated[:, column] = sigmoid(raw[:, column]), sigmoid(calibrated[:, column])
            else:
                raw[:, column] = calibrated[:, column] = outputs[:, column] * target.scale + target.mean
        return Predictions(raw, calibrated)

    def evaluate(self, table: pa.Table, *, hide_context: bool = False) -> dict[str, TaskMetrics]:
        """Measure each task on the rows whose ``label_<task>`` is not null."""
        metrics = {}
        for task, labels, raw, calibrated in self._iterate_labelled(table, hide_context):
            if task.kind == "binary":
                metrics[task.name] = TaskMetrics.measure(labels, raw=raw, calibrated=calibrated)
            else:
                metrics[task.name] = TaskMetrics.measure_values(labels, raw)
        return metrics

    def reliability(self, table: pa.Table, *, hide_context: bool = False) -> dict[str, Reliability]:
        """Compute the reliability diagram of each binary task's calibrated scores on a labelled table."""
        return {
            task.name: reliability(labels, calibrated)
            for task, labels, _, calibrated in self._iterate_labelled(table, hide_context)
            if task.kind == "binary"
        }

    def _iterate_labelled(
        self, table: pa.Table, hide_context: bool
    ) -> Iterator[tuple[Task, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield each task with its known labels and with the raw and calibrated predictions of those rows."""
        labels = Labels.read(table, [replace(task, sample_weight=None) for task in self.tasks])
        predictions = self.predict(table, hide_context=hide_context)
        for column, task in enumerate(self.tasks):
            known = labels.known[:, column]
            yield (
                task,
                labels.values[known, column],
                predictions.raw[known, column],
                predictions.calibrated[known, column],
            )

    def log_loss(self, table: pa.Table, *, hide_context: bool = False) -> dict[str, float | None]:
        """Measure each task's calibrated log loss on a labelled table; None without a labelled row."""
        evaluated = self.evaluate(table, hide_context=hide_context)
        return {task: metrics.log_loss for task, metrics in evaluated.items()}

    def save(self, directory: str | Path) -> None:
        """Write the bundle to a temporary folder, then move it into place, so that no partial bundle is ever visible.

        Raises:
            BundleError: The folder exists; a published model is never overwritten.
        """
        directory = Path(directory)
        if directory.exists():
            raise BundleError(f"{directory} already exists; a bundle is never overwritten")
        unfinished = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.unfinished")
        unfinished.mkdir(parents=True)
        try:
            weights = safetensors.torch.save(
                {name: weight.contiguous() for name, weight in self.network.state_dict().items()}
            )
            (unfinished / WEIGHTS).write_bytes(weights)
            manifest = self._manifest(hashlib.sha256(weights).hexdigest())
            manifest["manifest_sha256"] = digest_manifest(manifest)
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False), encoding="utf-8")
            unfinished.rename(directory)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _manifest(self, weights_sha256: str) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "weights_sha256": weights_sha256,
            "tasks": [asdict(task) for task in self.tasks],
            "targets": [asdict(target) for target in self.targets],
            "model": asdict(self.config),
            "training": asdict(self.training),
            "features": self.spec.to_dict(),
            "calibration": [calibrator.to_dict() for calibrator in self.calibration],
            "metrics": {task: asdict(metrics) for task, metrics in self.metrics.items()},
            "trained_on": dict(self.trained_on),
        }

    @classmethod
    def load(cls, directory: str | Path) -> Bundle:
        """Read a bundle, ready to score on the CPU.

        Raises:
            BundleError: The bundle is damaged, is not a bundle, or has another format version.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory)
        try:
            weights = (directory / WEIGHTS).read_bytes()
        except OSError as error:
            raise BundleError(f"{directory} is damaged: {WEIGHTS} cannot be read ({error.strerror})") from error
        if hashlib.sha256(weights).hexdigest() != manifest["weights_sha256"]:
            raise BundleError(f"{directory} is damaged: {WEIGHTS} is not the file that was saved")
        try:
            spec = FeatureSpec.from_dict(manifest["features"])
            config = ModelConfig(**manifest["model"])
            tasks = tuple(Task(**task) for task in manifest["tasks"])
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, only to be overwritten
                network = build_model(spec, tasks, config)
            network.load_state_dict(safetensors.torch.load(weights))
            calibration = tuple(Calibrator.from_dict(each) for each in manifest["calibration"])
            targets = tuple(TargetScale(**target) for target in manifest["targets"])
            _require_scores(network, tasks, targets, calibration)
            return cls(
                spec=spec,
                config=config,
                training=TrainConfig(**manifest["training"]),
                tasks=tasks,
                targets=targets,
                network=network.eval(),
                calibration=calibration,
                metrics={task.name: FitMetrics(**manifest["metrics"][task.name]) for task in tasks},
                trained_on=manifest["trained_on"],
            )
        except BundleError as error:
            raise BundleError(f"{directory} is damaged: {error}") from None
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise BundleError(f"{directory} does not fit this code: {reason}") from error


def _require_scores(
    network: MultiTaskModel,
    tasks: tuple[Task, ...],
    targets: tuple[TargetScale, ...],
    calibration: tuple[Calibrator, ...],
) -> None:
    """Check that every task has a target scale and a calibrator, all of finite numbers, and every weight is finite.

    Raises:
        BundleError: Scores would be missing, or not numbers.
    """
    for name, weight in network.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise BundleError(f"weight {name} has values that are no finite numbers")
    for what, parts in (("targets", targets), ("calibration", calibration)):
        if len(parts) != len(tasks):
            raise BundleError(f"{what} has {len(parts)} entries for {len(tasks)} tasks")
    for task, target, each in zip(tasks, targets, calibration, strict=True):
        if not np.isfinite([target.mean, target.scale]).all():
            raise BundleError(f"the target scale of task {task.name!r} is no finite number")
        if not each.x or len(each.x) != len(each.y) or not np.isfinite([*each.x, *each.y, each.slope]).all():
            raise BundleError(f"the calibration of task {task.name!r} has no knots, or numbers that are not finite")


def digest_manifest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest, excluding the entry that holds it."""
    content = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{directory} is not a bundle: {MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{directory} is damaged: {MANIFEST} is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{directory} is not a bundle: {MANIFEST} does not say format {FORMAT!r}")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(f"{directory} has bundle format version {version!r}; this code reads {FORMAT_VERSION}")
    if manifest.get("manifest_sha256") != digest_manifest(manifest):
        raise BundleError(f"{directory} is damaged: {MANIFEST} is not the file that was saved")
    return manifest
