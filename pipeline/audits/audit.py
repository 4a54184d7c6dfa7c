"""Great Expectations over staged files: what holds, what only warns, and what must stop the night."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

# Read when the library is imported: a night sends nothing to anybody.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations as gx
import pandas as pd
from great_expectations.datasource.fluent.interfaces import Batch
from great_expectations.expectations.core import UnexpectedRowsExpectation
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from pyspark.sql import DataFrame

from pipeline.audits.findings import Finding

OFFENDING_ROWS = 5
_KEY = "funnelcast"


def audit(
    frame: DataFrame | pd.DataFrame, expectations: Sequence[Expectation], *, what: str, keys: Sequence[str]
) -> list[Finding]:
    """Check a frame against a suite; what follows from it is `findings.require`'s to say.

    The suite runs once with booleans only, which takes a third of the Spark jobs; what failed is asked again, for
    the observed value and the offending rows. The frame should be cached by the caller.

    Args:
        what: how a finding calls the frame, e.g. "events".
        keys: the columns that tell an offending row from others, shown beside those that the expectation is about.

    Returns: a finding for each expectation, in their order; a failed one has the observed value and up to five
        offending rows.
    """
    batch = _batch(frame)
    for position, expectation in enumerate(expectations):
        expectation.meta = {_KEY: position}
    suite = gx.ExpectationSuite(name=what, expectations=list(expectations))
    results = batch.validate(suite, result_format="BOOLEAN_ONLY").results
    failed = {result.expectation_config.meta[_KEY] for result in results if not result.success}
    return [
        _finding(what, each, _observe(batch, each, keys) if position in failed else None)
        for position, each in enumerate(expectations)
    ]


def _finding(what: str, expectation: Expectation, observed: str | None) -> Finding:
    kwargs = expectation.configuration.kwargs
    arguments = ", ".join(f"{key}={value!r}" for key, value in kwargs.items() if value is not None)
    is_critical = expectation.severity == FailureSeverity.CRITICAL
    return Finding(
        audited=what,
        expectation=f"{expectation.configuration.type}({arguments})",
        columns=", ".join(_columns_of(kwargs)),
        severity=expectation.severity.value,
        status="ok" if observed is None else "failed" if is_critical else "warning",
        observed=observed,
    )


def _batch(frame: DataFrame | pd.DataFrame) -> Batch:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    sources = context.data_sources
    source = sources.add_pandas("staged") if isinstance(frame, pd.DataFrame) else sources.add_spark("staged")
    asset = source.add_dataframe_asset("frame")
    return asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})


def _observe(batch: Batch, expectation: Expectation, keys: Sequence[str]) -> str:
    result = batch.validate(
        expectation,
        result_format={
            # A query's rows come with the complete result alone, and are at most 200 there.
            "result_format": "COMPLETE" if isinstance(expectation, UnexpectedRowsExpectation) else "SUMMARY",
            "partial_unexpected_count": OFFENDING_ROWS,
            "include_unexpected_rows": True,
        },
    )
    about = (*keys, *_columns_of(expectation.configuration.kwargs))
    return _observed(result.result, result.exception_info, about)


def _columns_of(arguments: Mapping[str, Any]) -> list[str]:
    named = [arguments.get(key) for key in ("column", "column_A", "column_B")]
    return [*(name for name in named if name), *arguments.get("column_list", [])]


def _observed(result: Mapping[str, Any], exception_info: Mapping[str, Any], about: Sequence[str]) -> str:
    if "observed_value" in result and "unexpected_rows" not in result:
        chosen = result.get("details", {}).get("unexpected_rows", [])
        return f"observed {_plain(result['observed_value'])}" + _such_as(chosen)
    if "unexpected_count" not in result:
        return next(
            (str(each["exception_message"]) for each in _exceptions(exception_info)),
            "it could not be checked",
        )
    of = f" of {result['element_count']}" if "element_count" in result else ""
    found = _rows(result.get("unexpected_rows"))
    # Whole rows would bury what matters.
    rows = [{key: row[key] for key in row if key in about} if set(about) <= set(row) else row for row in found]
    return f"observed {result['unexpected_count']}{of} rows that break it" + _such_as(rows)


def _such_as(rows: Sequence[Any]) -> str:
    # Where NaN alone breaks a range, Great Expectations counts the rows and shows none.
    return f", such as {'; '.join(_plain(row) for row in rows[:OFFENDING_ROWS])}" if rows else ""


def _rows(unexpected: Any) -> list[Mapping[str, Any]]:
    if isinstance(unexpected, pd.DataFrame):
        return unexpected.to_dict("records")
    return [row.asDict() if hasattr(row, "asDict") else row for row in unexpected or []]


def _exceptions(exception_info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    infos = [exception_info, *(each for each in exception_info.values() if isinstance(each, Mapping))]
    return [each for each in infos if each.get("exception_message")]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(each)}" for key, each in value.items()) + "}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
