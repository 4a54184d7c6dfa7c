"""What a model began with: how its features and its scores were distributed among the users it was trained as of.

Kept in the table `baselines`, by model version, and never changed: what later nights are held against.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.config.features import user_features
from pipeline.config.settings import Settings
from pipeline.measures.drift import Distribution, distribution
from pipeline.runs.context import Context


@dataclass(frozen=True, eq=False)
class Baseline:
    """A model's beginnings: its date, and distributions by feature and, of its calibrated scores, by stage."""

    model_version: str
    as_of: date
    features: Mapping[str, Distribution]
    scores: Mapping[str, Distribution]

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
    rows = [shared | {kind: name} | row for kind, name, column in columns for row in _rows_of(distribution(column))]
    context.warehouse.append("baselines", rows)


def read_baseline(connection: duckdb.DuckDBPyConnection, model_version: str) -> Baseline | None:
    """A model's baseline from the connection's `baselines`; None of a model that has none."""
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
    return Baseline(model_version, found[0][0], features, scores)


def comparable_features(settings: Settings, history_days: int) -> list[str]:
    """The features that history of this length no longer changes by growing."""
    return [each.name for each in user_features(settings) if each.warm_up_days <= history_days]


def steady_features(settings: Settings) -> set[str]:
    """The features whose drift is judged: those that look alike from night to night as long as users do."""
    return {each.name for each in user_features(settings) if each.is_steady}


def _rows_of(found: Distribution) -> Iterator[dict[str, Any]]:
    """Rows of `baselines`: bin 0 is missing, the last one, without upper bound or value, is the rest."""
    of_bound = "value" if found.is_category else "upper"
    for bin, (bound, rows) in enumerate(zip((None, *found.bounds, None), found.rows.tolist(), strict=True)):
        yield {"bin": bin, of_bound: bound, "rows": rows}
