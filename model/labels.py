"""Labels of a table: one column ``label_<task>`` per task, 0 or 1, null while it cannot be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model.features import column_of


@dataclass(frozen=True)
class Labels:
    """``values`` float32 (n, T), 0 where not known; ``known`` bool (n, T).

    >>> labels = Labels.read(pa.table({"label_click": [1, 0, None]}), ["click"])
    >>> labels.values.ravel().tolist(), labels.known.ravel().tolist()
    ([1.0, 0.0, 0.0], [True, True, False])
    """

    values: np.ndarray
    known: np.ndarray

    @classmethod
    def read(cls, table: pa.Table, tasks: Sequence[str]) -> Labels:
        """Raises ValueError that names a label column which is missing or holds anything but 0, 1 and
        null."""
        columns = [_label_column(table, f"label_{task}") for task in tasks]
        values = np.stack(columns, axis=1)
        known = ~np.isnan(values)
        return cls(np.where(known, values, 0.0).astype(np.float32), known)


def check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks as a tuple. Raises ValueError for none at all or for a repeated name."""
    if isinstance(tasks, str) or not tasks:
        raise ValueError(f"tasks is {tasks!r}, not a sequence of at least one task's name")
    if repeated := [task for position, task in enumerate(tasks) if task in tasks[:position]]:
        raise ValueError(f"task {repeated[0]!r} is named more than once")
    return tuple(tasks)


def _label_column(table: pa.Table, name: str) -> np.ndarray:
    """Float64 (n,), NaN where null or NaN."""
    column = column_of(table, name)
    try:
        values = np.asarray(pc.cast(column, pa.float64()), dtype=np.float64)
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} of type {column.type} cannot be read as labels: {error}") from error
    if (wrong := values[~np.isnan(values) & (values != 0) & (values != 1)]).size:
        raise ValueError(f"column {name!r} holds {wrong[0]:g}; a label is 0, 1 or null")
    return values
