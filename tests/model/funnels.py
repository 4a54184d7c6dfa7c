"""Small synthetic funnels with known probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from model import Categorical, Numeric
from model.calibration.calibrators import sigmoid

TASKS = ("click", "register", "complete")
FEATURES = (
    Numeric("age"),
    Numeric("visits", transform="log"),
    Categorical("city"),
    Categorical("offer", context=True),
    Numeric("hour", context=True),
)


@dataclass(frozen=True)
class Funnel:
    """``table`` holds features and labels, ``truth`` (n, 3) the probabilities behind the labels."""

    table: pa.Table
    truth: np.ndarray

    @property
    def rows(self) -> int:
        return self.table.num_rows

    def label(self, task: str) -> np.ndarray:
        return self.table[f"label_{task}"].to_numpy()


def draw_funnel(rows: int, *, seed: int = 0) -> Funnel:
    """Draw a funnel in which clicks depend on age, visits, city and offer, later stages on age, city or visits."""
    draw = np.random.default_rng(seed)
    age = draw.normal(40.0, 10.0, rows)
    visits = draw.poisson(3.0, rows)
    city = draw.integers(0, 6, rows)
    offer = draw.integers(0, 2, rows)
    scores = np.stack(
        [
            -1.5 + 0.8 * (age - 40) / 10 + 0.4 * np.log1p(visits) + 0.3 * (city - 2.5) + 2.0 * (offer - 0.5),
            -0.5 + 0.8 * (age - 40) / 10 - 0.3 * (city - 2.5),
            -0.3 + 0.8 * (age - 40) / 10 + 0.3 * np.log1p(visits),
        ],
        axis=1,
    )
    passed = draw.random((rows, 3)) < sigmoid(scores)
    labels = np.logical_and.accumulate(passed, axis=1)
    table = pa.table(
        {
            "age": age,
            "visits": pa.array(visits, mask=draw.random(rows) < 0.1),
            "city": city,
            "offer": np.array(["plain", "bonus"])[offer],
            "hour": draw.integers(8, 20, rows),
            **{f"label_{task}": labels[:, column].astype(np.int8) for column, task in enumerate(TASKS)},
        }
    )
    return Funnel(table, np.cumprod(sigmoid(scores), axis=1))


def last_rows(rows: int, share: float = 0.25, tasks: int = 3) -> np.ndarray:
    """Mark the last rows as held out, for every task."""
    return np.repeat((np.arange(rows) >= rows * (1 - share))[:, None], tasks, axis=1)


def replace(table: pa.Table, **columns: object) -> pa.Table:
    """Replace the columns of these names."""
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    return table
