"""Run Great Expectations over staged files."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

# Read when the library is imported: a night sends no usage statistics.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations as gx
import pandas as pd
from great_expectations.datasource.fluent.interfaces import Batch
from great_expectations.expectations.core import UnexpectedRowsExpectation
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity
from pyspark.sql import DataFrame

from pipeline.audits.findings import Finding
from pipeline.text import show

OFFENDING_ROWS = 5
_KEY = "funnelcast"


def audit(
    frame: DataFrame | pd.DataFrame, expectations: Sequence[Expectation], *, what: str, keys: Sequence[str]
) -> list[Finding]:
    """Check a frame against a suite, without raising: `findings.require_no_failures` does.

    The suite first runs for booleans only, which takes fewer Spark jobs. Only what failed is checked again, for the
    observed value and the offending rows. The caller should cache the frame.

    Args:
        what: the frame's name in a finding, e.g. "events".
        keys: the columns that identify an offending row, shown with those that the expectation is about.

    Returns: a finding for each expectation, in their order; a failed one has the observed value and up to
        `OFFENDING_ROWS` rows.
    """
    batch = _make_batch(frame)
    for position, expectation in enumerate(expectations):
        expectation.meta = {_KEY: position}
    suite = gx.ExpectationSuite(name=what, expectations=list(expectations))
    results = batch.validate(suite, result_format="BOOLEAN_ONLY").results
    failed = {result.expectation_config.meta[_KEY] for result in results if not result.success}
    return [
        _make_finding(what, each, _check_again(batch, each, keys) if position in failed else None)
        for position, each in enumerate(expectations)
    ]


def _make_finding(what: str, expectation: Expectation, observed: str | None) -> Finding:
    kwargs = expectation.configuration.kwargs
    arguments = ", ".join(f"{key}={value!r}" for key, value in kwargs.items() if value is not None)
    is_critical = expectation.severity == FailureSeverity.CRITICAL
    return Finding(
        audited=what,
        name=expectation.configuration.type,
        expectation=f"{expectation.configuration.type}({arguments})",
        columns=", ".join(_columns_of(kwargs)),
        severity=expectation.severity.value,
        status="ok" if observed is None else "failed" if is_critical else "warning",
        observed=observed,
    )


def _make_batch(frame: DataFrame | pd.DataFrame) -> Batch:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    sources = context.data_sources
    source = sources.add_pandas("staged") if isinstance(frame, pd.DataFrame) else sources.add_spark("staged")
    asset = source.add_dataframe_asset("frame")
    return asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})


def _check_again(batch: Batch, expectation: Expectation, keys: Sequence[str]) -> str:
    result = batch.validate(
        expectation,
        result_format={
            # Only the complete result has a query's rows, at most 200.
            "result_format": "COMPLETE" if isinstance(expectation, UnexpectedRowsExpectation) else "SUMMARY",
            "partial_unexpected_count": OFFENDING_ROWS,
            "include_unexpected_rows": True,
        },
    )
    about = (*keys, *_columns_of(expectation.configuration.kwargs))
    return show(_describe(result.result, result.exception_info, about))


def _columns_of(arguments: Mapping[str, Any]) -> list[str]:
    named = [arguments.get(key) for key in ("column", "column_A", "column_B")]
    return [*(name for name in named if name), *arguments.get("column_list", [])]


def _describe(result: Mapping[str, Any], exception_info: Mapping[str, Any], about: Sequence[str]) -> str:
    if "observed_value" in result and "unexpected_rows" not in result:
        chosen = result.get("details", {}).get("unexpected_rows", [])
        return f"observed {_format(result['observed_value'])}" + _format_examples(chosen)
    if "unexpected_count" not in result:
        return next(
            (str(each["exception_message"]) for each in _find_exceptions(exception_info)),
            "could not be checked",
        )
    of = f" of {result['element_count']}" if "element_count" in result else ""
    found = _as_mappings(result.get("unexpected_rows"))
    # Whole rows would bury what matters.
    rows = [{key: row[key] for key in row if key in about} if set(about) <= set(row) else row for row in found]
    return f"{result['unexpected_count']}{of} rows break it" + _format_examples(rows)


def _format_examples(rows: Sequence[Any]) -> str:
    # Of rows that break a range by NaN alone, Great Expectations shows none.
    return f", such as {'; '.join(_format(row) for row in rows[:OFFENDING_ROWS])}" if rows else ""


def _as_mappings(unexpected: Any) -> list[Mapping[str, Any]]:
    if isinstance(unexpected, pd.DataFrame):
        return unexpected.to_dict("records")
    return [row.asDict() if hasattr(row, "asDict") else row for row in unexpected or []]


def _find_exceptions(exception_info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    infos = [exception_info, *(each for each in exception_info.values() if isinstance(each, Mapping))]
    return [each for each in infos if each.get("exception_message")]


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_format(each)}" for key, each in value.items()) + "}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
