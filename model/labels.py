"""Tasks and their labels: one column ``label_<task>`` per task, null while the outcome is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.config import is_number, require, require_one_of
from model.inputs.columns import get_column


@dataclass(frozen=True)
class Task:
    """Something to predict.

    Args:
        name: The task's name; its label is the column ``label_<name>``.
        kind: "binary" for a label of 0 or 1, "regression" for any finite number.
        loss_weight: Factor of the task's loss.
        sample_weight: Name of a column of row weights, 0 or above.

    Raises:
        ValueError: An option is out of range.

    >>> Task("spend", kind="ordinal")
    Traceback (most recent call last):
    ValueError: task 'spend': kind is 'ordinal', not one of binary, regression
    """

    name: str
    kind: Literal["binary", "regression"] = "binary"
    loss_weight: float = 1.0
    sample_weight: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a task's name is {self.name!r}, not a word")
        require_one_of(f"task {self.name!r}: kind", self.kind, ("binary", "regression"))
        weight = self.loss_weight
        require(is_number(weight) and weight >= 0, f"task {self.name!r}: loss_weight", weight, "0 or above")

    @property
    def label(self) -> str:
        return f"label_{self.name}"


@dataclass(frozen=True)
class TargetScale:
    """How the network standardises a regression's target; a binary target is left unchanged."""

    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Labels:
    """The labels of n rows for T tasks.

    **Shape**: ``values`` float64 (n, T), 0 where unknown; ``weight`` float32 (n, T), 0 where unknown; ``known`` bool
    (n, T).

    >>> labels = Labels.read(pa.table({"label_click": [1, 0, None]}), as_tasks(["click"]))
    >>> labels.values.ravel().tolist(), labels.known.ravel().tolist()
    ([1.0, 0.0, 0.0], [True, True, False])
    """

    values: np.ndarray
    weight: np.ndarray
    known: np.ndarray

    @classmethod
    def read(cls, table: pa.Table | pa.RecordBatch, tasks: Sequence[Task]) -> Labels:
        """Read all tasks' labels.

        Raises:
            ValueError: A column is missing or holds an invalid value; the message names it.
        """
        values = np.empty((table.num_rows, len(tasks)))
        for column, task in enumerate(tasks):
            values[:, column] = _read_labels(table, task)
        known = ~np.isnan(values)
        if not known.all():
            values[~known] = 0.0
        weight = known.astype(np.float32)
        for column, task in enumerate(tasks):
            if task.sample_weight is not None:
                weight[:, column] *= _read_weights(table, task.sample_weight)
        return cls(values, weight, known)


def as_tasks(tasks: Iterable[str | Task]) -> tuple[Task, ...]:
    """Turn bare names into binary tasks.

    Raises:
        ValueError: No task at all, or a repeated name.

    >>> [task.kind for task in as_tasks(["click", Task("spend", kind="regression")])]
    ['binary', 'regression']
    """
    given = tuple(tasks) if isinstance(tasks, Iterable) and not isinstance(tasks, str) else ()
    if not given:
        raise ValueError(f"tasks is {tasks!r}, not a sequence of at least one task")
    all_tasks = tuple(task if isinstance(task, Task) else Task(task) for task in given)
    names = [task.name for task in all_tasks]
    if repeated := [name for position, name in enumerate(names) if name in names[:position]]:
        raise ValueError(f"task {repeated[0]!r} is named more than once")
    return all_tasks


def _read_labels(table: pa.Table | pa.RecordBatch, task: Task) -> np.ndarray:
    """A task's labels, float64 (n,), NaN where null or NaN."""
    values = _read_numbers(table, task.label, "labels")
    if task.kind == "binary":
        wrong, wanted = ~np.isnan(values) & (values != 0) & (values != 1), "a label is 0, 1 or null"
    else:
        wrong, wanted = np.isinf(values), "a label is a finite number or null"
    if wrong.any():
        raise ValueError(f"column {task.label!r} holds {values[wrong][0]:g}; {wanted}")
    return values


def _read_weights(table: pa.Table | pa.RecordBatch, name: str) -> np.ndarray:
    values = _read_numbers(table, name, "weights")
    if (wrong := ~(np.isfinite(values) & (values >= 0))).any():
        raise ValueError(f"column {name!r} holds {values[wrong][0]:g}; a weight is a finite number, 0 or above")
    return values.astype(np.float32)


def _read_numbers(table: pa.Table | pa.RecordBatch, name: str, what: str) -> np.ndarray:
    column = get_column(table, name)
    try:
        return np.asarray(pc.cast(column, pa.float64()), dtype=np.float64)
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} of type {column.type} cannot be read as {what}: {error}") from error


@dataclass
class LabelSummary:
    """Statistics of the training labels, each (T,): ``rows``, ``positives``, ``total`` weight, weighted ``mean`` and
    ``variance``."""

    rows: np.ndarray
    positives: np.ndarray
    total: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def summarise(cls, batches: Iterable[Labels], tasks: int) -> LabelSummary:
        """Summarise labels batch by batch.

        Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", COMPSTAT
        1982.

        >>> labels = Labels(np.array([[1.0], [3.0]]), np.ones((2, 1)), np.ones((2, 1), bool))
        >>> summary = LabelSummary.summarise([labels, labels], 1)
        >>> summary.rows.tolist(), summary.mean.tolist(), summary.variance.tolist()
        ([4], [2.0], [1.0])
        """
        rows, positives = np.zeros(tasks, np.int64), np.zeros(tasks, np.int64)
        total, mean, squares = np.zeros(tasks), np.zeros(tasks), np.zeros(tasks)
        for labels in batches:
            weight = labels.weight.astype(np.float64)
            counts = weight > 0
            rows += counts.sum(0)
            positives += (counts & (labels.values > 0)).sum(0)
            added = weight.sum(0)
            safe = np.where(added > 0, added, 1.0)
            here = (weight * labels.values).sum(0) / safe
            gap, both = here - mean, np.where(total + added > 0, total + added, 1.0)
            squares += (weight * (labels.values - here) ** 2).sum(0) + gap**2 * total * added / both
            mean += gap * added / both
            total += added
        return cls(rows, positives, total, mean, squares / np.where(total > 0, total, 1.0))
