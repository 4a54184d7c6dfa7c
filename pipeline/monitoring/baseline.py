"""A model's baseline: the distributions of features and scores among the users known when it was trained.

It is kept in the table `baselines` by model version and never changes; later nights are compared with it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.config.features import user_features
from pipeline.config.settings import Settings
from pipeline.measures.drift import Distribution, distribution
from pipeline.runs.context import Context

MISSING_IN_EXAMPLES = "missing_in_examples"
"""The figure of `metrics` that training writes of each feature: the share of the examples without a value."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """A model's date, and the distributions of its features, and of its calibrated scores by stage, on that date.

    `missing_in_examples` has the share of the model's examples without a value, by feature; empty: of a model trained
    before these were kept.
    """

    model_version: str
    as_of: date
    features: Mapping[str, Distribution]
    scores: Mapping[str, Distribution]
    missing_in_examples: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"model {self.model_version} as of {self.as_of}"


def write_baseline(context: Context, model_version: str, as_of: date, sample: pa.Table, scores: np.ndarray) -> None:
    """Write a model's baseline.

    Args:
        sample: the rows of `feature_samples` as of that date.
        scores: the model's calibrated probabilities of these rows, float64 (n, stages).
    """
    landed = context.warehouse.row_counts("activity", first=date.min, last=as_of)
    history_days = (as_of - min(landed)).days + 1 if landed else 0
    columns = [
        *(("feature", name, sample.column(name)) for name in comparable_features(context.settings, history_days)),
        *(
            ("stage", stage, pa.chunked_array([column]))
            for stage, column in zip(context.settings.funnel.stage_names, scores.T, strict=True)
        ),
    ]
    shared = {"ds": as_of, "model_version": model_version, "run_id": context.run_id}
    rows = [shared | {kind: name} | row for kind, name, column in columns for row in _make_rows(distribution(column))]
    context.warehouse.append("baselines", rows)


def read_baseline(connection: duckdb.DuckDBPyConnection, model_version: str) -> Baseline | None:
    """A model's baseline from the connection's `baselines` and `metrics`; None if it has none."""
    found = connection.execute(
        "SELECT ds, feature, stage, list(upper ORDER BY bin) FILTER (WHERE upper IS NOT NULL), "
        "list(value ORDER BY bin) FILTER (WHERE value IS NOT NULL), list(rows ORDER BY bin) "
        "FROM baselines WHERE model_version = ? GROUP BY ds, feature, stage ORDER BY feature, stage",
        [model_version],
    ).fetchall()
    if not found:
        return None
    features: dict[str, Distribution] = {}
    scores: dict[str, Distribution] = {}
    for _, feature, stage, uppers, values, rows in found:
        (features if feature else scores)[feature or stage] = Distribution(
            tuple(uppers or values or ()), np.array(rows)
        )
    missing = connection.execute(
        "SELECT feature, value FROM metrics WHERE model_version = ? AND name = ?", [model_version, MISSING_IN_EXAMPLES]
    ).fetchall()
    return Baseline(model_version, found[0][0], features, scores, dict(missing))


def comparable_features(settings: Settings, history_days: int) -> list[str]:
    """The features whose distribution no longer depends on the length of history."""
    return [each.name for each in user_features(settings) if each.warm_up_days <= history_days]


def steady_features(settings: Settings) -> set[str]:
    """The features whose drift is checked: those that stay alike from night to night as long as users do."""
    return {each.name for each in user_features(settings) if each.is_steady}


def _make_rows(counted: Distribution) -> Iterator[dict[str, Any]]:
    """Rows of `baselines`: bin 0 holds missing values; the last, without upper bound or value, all others."""
    bound_column = "value" if counted.is_category else "upper"
    for bin, (bound, rows) in enumerate(zip((None, *counted.bounds, None), counted.rows.tolist(), strict=True)):
        yield {"bin": bin, bound_column: bound, "rows": rows}
