"""Training examples of known odds, put into a warehouse by hand: training on them needs no Spark."""

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.training.manually import promote_manually
from pipeline.training.steps import evaluate, fit_candidate
from tests.support.company import Company
from tests.support.nights import put_file

DAYS, A_DAY = 50, 160


def land_examples(company: Company, as_of: date, *, seed: int = 0, quiet_days: int = 0) -> None:
    """Publish a partition of `examples`: the first stage follows one feature closely, later stages follow the first.

    Args:
        quiet_days: nobody reaches the second stage on the last so many days whose second stage is mature.
    """
    draw, count = np.random.default_rng(seed), DAYS * A_DAY
    settings, warehouse = company.settings, company.context().warehouse
    first, *_ = settings.funnel.stage_names
    schema = warehouse.tables["examples"].schema
    age = np.repeat(np.arange(DAYS)[::-1], A_DAY)
    days = np.datetime64(as_of) - age
    columns: dict[str, Any] = {
        "exposure_id": [f"{seed}-{number:05d}" for number in range(count)],
        "user_id": [f"user{number}" for number in draw.integers(0, 1_200, count)],
        "exposure_time": days.astype("datetime64[us]"),
        "exposure_date": days,
        "feature_as_of": days - 1,
        "as_of": np.full(count, np.datetime64(as_of)),
    }
    for name in schema.names:
        if "_n_" in name or name.endswith("days_since"):
            columns[name] = draw.poisson(3, count)
    odds = -3.0 + 0.6 * columns[f"{first}_n_{max(settings.features.windows_days)}d"]
    follows = draw.random(count) < 1 / (1 + np.exp(-odds))
    for position, stage in enumerate(settings.funnel.stages):
        follows = follows & (draw.random(count) < (0.6 if position else 1.0))
        if position == 1:
            follows = follows & ~((age >= stage.window_days) & (age < stage.window_days + quiet_days))
        columns[f"mature_{stage.name}"] = mature = age >= stage.window_days
        columns[f"observed_{stage.name}"] = follows.astype(int)
        columns[f"label_{stage.name}"] = pa.array(follows.astype(int), mask=~mature)
    arrays = [
        pa.array(columns[name]).cast(kind) if name in columns else pa.nulls(count, kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    file = put_file(warehouse, "examples", pa.Table.from_arrays(arrays, schema=schema))
    warehouse.publish("examples", [file], first=as_of, last=as_of, summary={})


def teach(company: Company, as_of: date) -> str:
    """Fit a model to examples of known odds, and promote it; returns its version."""
    land_examples(company, as_of)
    version = fit_candidate(company.context(), as_of)
    evaluate(company.context(), version)
    promote_manually(company.context(), version, reason="the tests' champion")
    return version
