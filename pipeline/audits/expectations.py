"""The expectations that staged files must meet before they are published, table by table."""

import math
from collections.abc import Sequence
from itertools import pairwise

import great_expectations.expectations as gxe
import pyarrow as pa
from great_expectations.expectations.expectation import Expectation
from pyspark.sql.pandas.types import from_arrow_schema

from pipeline.config.features import declared_features
from pipeline.config.sections import Audit
from pipeline.config.settings import Settings
from pipeline.warehouse.schema import Table

BASELINE_NIGHTS = 7
"""A night is compared with this many nights before it."""


def event_expectations(table: Table, settings: Settings) -> list[Expectation]:
    """Schema, nulls, event names, one row per key and landing day."""
    return [
        *_schema(table),
        *_not_null("event_id", "user_id", "event", "event_time", "landed_on"),
        gxe.ExpectColumnValuesToBeInSet(column="event", value_set=list(settings.funnel.event_kinds)),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["event_id", "user_id", "event", "event_time", "landed_on"]),
    ]


def history_expectations(limits: Audit) -> list[Expectation]:
    """Of one row per landing day of a backfill: only too many rejected rows stop it, an unusual past does not."""
    return [
        gxe.ExpectColumnValuesToBeBetween(column="quarantine_share", max_value=limits.max_quarantine_share),
        gxe.ExpectColumnValuesToBeInSet(column="is_unexpectedly_empty", value_set=[False], severity="warning"),
    ]


def night_expectations(stages: Sequence[str], limits: Audit) -> list[Expectation]:
    """Of a night's one row: rows and stage rates relative to the last 7 nights, quarantine share."""
    low, high = limits.row_count_ratio
    rate_low, rate_high = limits.stage_rate_ratio
    return [
        gxe.ExpectColumnValuesToBeBetween(column="quarantine_share", max_value=limits.max_quarantine_share),
        gxe.ExpectColumnValuesToBeInSet(column="is_unexpectedly_empty", value_set=[False], severity=limits.empty_day),
        gxe.ExpectColumnValuesToBeBetween(
            column="rows_to_last_7_nights", min_value=low, max_value=high, severity="warning"
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=f"{stage}_rate_to_last_7_nights",
                min_value=rate_low,
                max_value=rate_high,
                severity="warning",
            )
            for stage in stages
        ),
    ]


def example_expectations(table: Table, settings: Settings) -> list[Expectation]:
    """Schema, nulls, one row per exposure, nested labels of 0 or 1 exactly where mature, features in range."""
    stages = settings.funnel.stage_names
    return [
        *_schema(table),
        *_not_null("exposure_id", "user_id", "exposure_time", "feature_as_of", "as_of"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["exposure_id", "user_id", "exposure_time"]),
        *(gxe.ExpectColumnValuesToBeInSet(column=f"label_{stage}", value_set=[0, 1]) for stage in stages),
        *(
            gxe.UnexpectedRowsExpectation(
                description=f"label_{stage} is null exactly where mature_{stage} is false",
                unexpected_rows_query=f"SELECT exposure_id, exposure_time, mature_{stage}, label_{stage} "
                f"FROM {{batch}} WHERE mature_{stage} = (label_{stage} IS NULL)",
            )
            for stage in stages
        ),
        *(
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=f"label_{earlier}",
                column_B=f"label_{later}",
                or_equal=True,
                ignore_row_if="either_value_is_missing",
            )
            for earlier, later in pairwise(stages)
        ),
        *(gxe.ExpectColumnMaxToBeBetween(column=f"label_{stage}", min_value=1, severity="warning") for stage in stages),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=each.name, min_value=each.minimum)
            for each in declared_features(settings)
            if each.minimum is not None
        ),
    ]


def score_expectations(table: Table, settings: Settings, *, eligible: int, usual: float | None) -> list[Expectation]:
    """Schema, nulls, probabilities in [0, 1] without NaN, monotone stages, one row per eligible user.

    Args:
        eligible: the number of eligible users.
        usual: the median number of rows of the last 7 nights; None without any.
    """
    stages = settings.funnel.stage_names
    probabilities = [f"{kind}_{stage}" for kind in ("p", "raw") for stage in stages]
    bands = [f"band_{stage}" for stage in stages]
    return [
        *_schema(table),
        *_not_null("user_id", "ds", *probabilities, *bands, "model_version"),
        gxe.ExpectTableRowCountToEqual(value=eligible),
        *([] if usual is None else [_usual_row_count(usual, settings.audit)]),
        gxe.ExpectColumnValuesToBeUnique(column="user_id"),
        # Spark orders NaN above every number, so the upper bound catches it.
        *(gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=1) for column in probabilities),
        *(gxe.ExpectColumnValuesToBeBetween(column=column, min_value=1, max_value=10) for column in bands),
        *(
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A=f"p_{earlier}", column_B=f"p_{later}", or_equal=True)
            for earlier, later in pairwise(stages)
        ),
    ]


def _usual_row_count(usual: float, limits: Audit) -> Expectation:
    low, high = limits.row_count_ratio
    return gxe.ExpectTableRowCountToBeBetween(
        min_value=math.floor(low * usual), max_value=math.ceil(high * usual), severity="warning"
    )


def _schema(table: Table) -> list[Expectation]:
    types = {field.name: type(field.dataType).__name__ for field in from_arrow_schema(table.schema).fields}
    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=list(table.schema.names), exact_match=True),
        *(
            gxe.ExpectColumnValuesToBeOfType(column=field.name, type_=types[field.name])
            for field in table.schema
            if not pa.types.is_map(field.type)
        ),
    ]


def _not_null(*columns: str) -> list[Expectation]:
    return [gxe.ExpectColumnValuesToNotBeNull(column=column) for column in columns]
