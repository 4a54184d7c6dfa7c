"""Audits: what stops a publish, what only warns, and what the message says."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
import pyarrow as pa
import pytest
from great_expectations.expectations.expectation import Expectation

from pipeline.audits.audit import audit
from pipeline.audits.expectations import (
    event_expectations,
    example_expectations,
    history_expectations,
    night_expectations,
    score_expectations,
)
from pipeline.audits.findings import require_no_failures
from pipeline.config.sections import Audit
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.errors import AuditError
from pipeline.runs.publish import stage_audit_publish
from pipeline.runs.record import recorded
from tests.support.company import Company

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Row = dict[str, Any]


def complaint(frame: pd.DataFrame, *expectations: Expectation, keys: Sequence[str] = ("user_id",)) -> str:
    with pytest.raises(AuditError) as raised:
        require_no_failures(audit(frame, expectations, what="people", keys=keys))
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith("audit of people failed: ")
    assert line.endswith("; nothing was published")
    return line


def people(number: int, **columns: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame({"user_id": [f"u{n}" for n in range(number)], "city": ["far"] * number, **columns})


def test_the_line_names_expectation_column_observation_and_rows() -> None:
    line = complaint(people(3, age=[20, 150, 30]), gxe.ExpectColumnValuesToBeBetween(column="age", max_value=120))
    assert "expect_column_values_to_be_between(column='age', max_value=120" in line
    assert "1 of 3 rows break it, such as {user_id: u1, age: 150}" in line
    assert "far" not in line, "columns that it is not about would bury what matters"


def test_at_most_five_rows_are_shown_and_all_counted() -> None:
    line = complaint(people(9, age=[200] * 9), gxe.ExpectColumnValuesToBeBetween(column="age", max_value=120))
    assert "9 of 9 rows" in line
    assert line.count("age: 200") == 5


def test_a_value_is_observed_where_no_row_is_to_blame() -> None:
    line = complaint(people(3), gxe.ExpectTableRowCountToEqual(value=5))
    assert "expect_table_row_count_to_equal(value=5): observed 3" in line


def test_a_missing_column_is_reported_not_passed() -> None:
    line = complaint(people(3), gxe.ExpectColumnValuesToNotBeNull(column="age"))
    assert "expect_column_values_to_not_be_null(column='age'" in line
    assert 'The column "age" in BatchData does not exist' in line


def test_more_than_one_failure_is_counted() -> None:
    line = complaint(
        people(2, age=[None, 200]),
        gxe.ExpectColumnValuesToNotBeNull(column="age"),
        gxe.ExpectColumnValuesToBeBetween(column="age", max_value=120),
        gxe.ExpectColumnValuesToBeUnique(column="city", severity="warning"),
    )
    assert "(and 1 more critical failures)" in line


def test_warnings_alone_pass_and_are_returned() -> None:
    found = audit(
        people(2, age=[20, 200]),
        [
            gxe.ExpectColumnValuesToNotBeNull(column="age"),
            gxe.ExpectColumnValuesToBeBetween(column="age", max_value=120, severity="warning"),
        ],
        what="people",
        keys=("user_id",),
    )
    warnings = require_no_failures(found)
    assert len(warnings) == 1
    assert warnings[0].startswith("audit of people: expect_column_values_to_be_between(column='age'")
    assert "{user_id: u1, age: 200}" in warnings[0]


def test_nothing_is_returned_if_nothing_failed() -> None:
    found = audit(people(2), [gxe.ExpectColumnValuesToNotBeNull(column="city")], what="people", keys=())
    assert require_no_failures(found) == []


def test_every_expectation_has_a_finding_in_its_order() -> None:
    found = audit(
        people(3, age=[20, None, 200]),
        [
            gxe.ExpectTableRowCountToEqual(value=3),
            gxe.ExpectColumnValuesToNotBeNull(column="age"),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="age", column_B="age", severity="warning"),
            gxe.ExpectColumnValuesToBeUnique(column="city", severity="info"),
        ],
        what="people",
        keys=("user_id",),
    )
    assert [(each.columns, each.severity, each.status) for each in found] == [
        ("", "critical", "ok"),
        ("age", "critical", "failed"),
        ("age, age", "warning", "warning"),
        ("city", "info", "warning"),
    ]
    assert {each.audited for each in found} == {"people"}
    assert found[0].expectation == "expect_table_row_count_to_equal(value=3)"
    assert found[0].observed is None
    assert found[1].observed == "1 of 3 rows break it, such as {user_id: u1, age: nan}"


def night(**changes: Any) -> pd.DataFrame:
    usual: Row = {
        "landed_on": DAY,
        "rows": 100.0,
        "rows_to_last_7_nights": 1.1,
        "is_unexpectedly_empty": False,
        "click_rate_to_last_7_nights": 0.9,
        "quarantine_share": 0.01,
        "reasons": "null user: 1",
    }
    return pd.DataFrame([usual | changes])


@pytest.mark.parametrize(
    ("changes", "expected", "stops"),
    [
        ({"quarantine_share": 0.2}, "quarantine_share: 0.2, reasons: null user: 1", True),
        ({"is_unexpectedly_empty": True}, "column='is_unexpectedly_empty'", True),
        ({"rows_to_last_7_nights": 0.1}, "rows_to_last_7_nights: 0.1", False),
        ({"rows_to_last_7_nights": 3.5}, "rows_to_last_7_nights: 3.5", False),
        ({"click_rate_to_last_7_nights": 6.0}, "click_rate_to_last_7_nights: 6", False),
    ],
)
def test_a_night_is_compared_with_the_nights_before(changes: Row, expected: str, stops: bool) -> None:
    check = partial(audit, night(**changes), what="the night", keys=("landed_on", "reasons"))
    assert require_no_failures(audit(night(), night_expectations(["click"], Audit()), what="the night", keys=())) == []
    if stops:
        with pytest.raises(AuditError) as raised:
            require_no_failures(check(night_expectations(["click"], Audit())))
        assert expected in str(raised.value)
    else:
        (warning,) = require_no_failures(check(night_expectations(["click"], Audit())))
        assert expected in warning


def test_an_empty_night_can_be_allowed_and_only_warns_in_a_backfill() -> None:
    empty = night(is_unexpectedly_empty=True, rows=0.0, rows_to_last_7_nights=None, click_rate_to_last_7_nights=None)
    for limits in (night_expectations(["click"], Audit(empty_day="warning")), history_expectations(Audit())):
        (warning,) = require_no_failures(audit(empty, limits, what="the night", keys=("landed_on",)))
        assert "is_unexpectedly_empty" in warning


def an_event(n: int) -> Row:
    return {"event_id": f"e{n}", "user_id": f"u{n}", "event": "exposure", "event_time": NOON, "landed_on": DAY}


def an_example(n: int, settings: Settings) -> Row:
    """A click's label is 1, a registration's 0, and a completion's window has not passed."""
    return {
        "exposure_id": f"x{n}",
        "user_id": f"u{n}",
        "exposure_time": NOON,
        "exposure_date": DAY,
        "feature_as_of": date(2026, 2, 28),
        "as_of": DAY,
        **{f"{event}_n_{days}d": n for event in ("exposure", *settings.funnel.stage_names) for days in (1, 7, 30)},
        "mature_click": True,
        "observed_click": 1,
        "label_click": 1,
        "mature_register": True,
        "observed_register": 0,
        "label_register": 0,
        "mature_complete": False,
    }


def a_score(n: int) -> Row:
    return {
        "user_id": f"u{n}",
        "p_click": 0.3,
        "p_register": 0.2,
        "p_complete": 0.1,
        "raw_click": 0.3,
        "raw_register": 0.2,
        "raw_complete": 0.1,
        "band_click": 5,
        "band_register": 5,
        "band_complete": 5,
        "feature_as_of": DAY,
        "model_version": "m",
        "run_id": "r",
        "code_version": "c",
        "scored_at": NOON,
        "ds": DAY,
    }


KEYS = {"events": ("event_id",), "examples": ("exposure_id",), "user_scores": ("user_id",)}


class Publisher:
    """Publishes rows of one table through stage, audit and commit, as a night does."""

    def __init__(self, company: Company) -> None:
        self.company = company
        self.settings = company.settings
        self.context = company.context()
        self.table = self.context.warehouse.tables

    def good(self, name: str, number: int = 7) -> list[Row]:
        makers: Mapping[str, Callable[[int], Row]] = {
            "events": an_event,
            "examples": lambda n: an_example(n, self.settings),
            "user_scores": a_score,
        }
        return [makers[name](n) for n in range(number)]

    def expectations(self, name: str) -> list[Expectation]:
        table = self.table[name]
        if name == "user_scores":
            return score_expectations(table, self.settings, eligible=7, usual=None)
        return (event_expectations if name == "events" else example_expectations)(table, self.settings)

    def publish(self, name: str, rows: list[Row]) -> None:
        check = partial(audit, expectations=self.expectations(name), what=name, keys=KEYS[name])
        with recorded(self.context, name, DateRange(DAY, DAY)) as run:
            frame = self.context.spark.createDataFrame(pa.Table.from_pylist(rows, schema=self.table[name].schema))
            stage_audit_publish(run, name, frame, check)

    def files(self, name: str) -> tuple[set[str], set[str]]:
        """The table's files as readers see them, and those that lie under its location."""
        published = {path.removeprefix("file://") for path in self.context.warehouse.pin(name).files}
        folder = self.company.folder.resolve() / "warehouse" / "funnel" / name / "data"
        return published, {str(path) for path in folder.rglob("*.parquet")}


@pytest.fixture(scope="module")
def publisher(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """Each table holds one sound partition."""
    made = Publisher(Company.make(tmp_path_factory.mktemp("audited")))
    for name in KEYS:
        made.publish(name, made.good(name))
    return made


BREAKS: list[tuple[str, Row, str, str]] = [
    ("events", {"event_id": None}, "expect_column_values_to_not_be_null", "event_id"),
    ("events", {"user_id": None}, "expect_column_values_to_not_be_null", "user_id"),
    ("events", {"event": None}, "expect_column_values_to_not_be_null", "event"),
    ("events", {"event_time": None}, "expect_column_values_to_not_be_null", "event_time"),
    ("events", {"event": "visit"}, "expect_column_values_to_be_in_set", "event: visit"),
    ("events", {"event_id": "e2", "user_id": "u2"}, "expect_compound_columns_to_be_unique", "event_id: e2"),
    ("examples", {"exposure_id": "x2", "user_id": "u2"}, "expect_compound_columns_to_be_unique", "exposure_id: x2"),
    ("examples", {"user_id": None}, "expect_column_values_to_not_be_null", "user_id"),
    ("examples", {"feature_as_of": None}, "expect_column_values_to_not_be_null", "feature_as_of"),
    ("examples", {"label_click": 2}, "expect_column_values_to_be_in_set", "label_click: 2"),
    ("examples", {"label_complete": 0}, "unexpected_rows_expectation", "mature_complete: False, label_complete: 0"),
    ("examples", {"label_register": None}, "unexpected_rows_expectation", "mature_register: True"),
    (
        "examples",
        {"label_click": 0, "label_register": 1},
        "expect_column_pair_values_a_to_be_greater",
        "label_click: 0",
    ),
    ("examples", {"click_n_7d": -1}, "expect_column_values_to_be_between", "click_n_7d: -1"),
    ("user_scores", {"user_id": "u2"}, "expect_column_values_to_be_unique", "user_id: u2"),
    ("user_scores", {"p_click": None}, "expect_column_values_to_not_be_null", "p_click"),
    (
        "user_scores",
        {"p_click": float("nan")},
        "expect_column_values_to_be_between",
        "column='p_click', min_value=0.0, max_value=1.0): 1 of 7 rows break it",
    ),
    ("user_scores", {"raw_click": 1.5}, "expect_column_values_to_be_between", "raw_click: 1.5"),
    ("user_scores", {"p_register": 0.4}, "expect_column_pair_values_a_to_be_greater", "p_register: 0.4"),
    ("user_scores", {"band_click": 11}, "expect_column_values_to_be_between", "band_click: 11"),
    ("user_scores", {"band_click": None}, "expect_column_values_to_not_be_null", "band_click"),
    ("user_scores", {"model_version": None}, "expect_column_values_to_not_be_null", "model_version"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "expectation", "expected"),
    [
        pytest.param(
            *case,
            id=f"{case[0]}-{next(iter(case[1]))}-{next(iter(case[1].values()))}",
        )
        for case in BREAKS
    ],
)
def test_a_critical_failure_leaves_the_table_as_it_was(
    publisher: Publisher, name: str, change: Row, expectation: str, expected: str
) -> None:
    published, on_disk = publisher.files(name)
    assert published == on_disk
    rows = publisher.good(name)
    rows[3] |= change
    with pytest.raises(AuditError) as raised:
        publisher.publish(name, rows)
    line = str(raised.value)
    assert line.startswith(f"{name} {DAY}: audit of {name} failed: {expectation}")
    assert expected in line
    assert "\n" not in line
    assert publisher.files(name) == (published, published), "the staged files are gone, the published ones stay"
    last = max(publisher.company.rows("runs"), key=lambda run: run["started_at"])
    assert (last["stage"], last["status"]) == (name, "failed")
    assert last["message"] in line
    noted = [row for row in publisher.company.rows("audits") if row["run_id"] == last["run_id"]]
    latest = [row for row in noted if row["checked_at"] == max(each["checked_at"] for each in noted)]
    assert len(latest) == len(publisher.expectations(name)), "an audit that stops the night is on record too"
    assert {(row["ds"], row["audited"]) for row in latest} == {(DAY, name)}
    failed = [row for row in latest if row["status"] == "failed"]
    assert any(
        row["expectation"].startswith(expectation) and expected in f"{row['expectation']}: {row['observed']}"
        for row in failed
    )


@pytest.mark.slow
def test_a_number_of_users_other_than_the_eligible_ones_stops_the_night(publisher: Publisher) -> None:
    before = publisher.files("user_scores")
    with pytest.raises(AuditError, match=r"expect_table_row_count_to_equal\(value=7\): observed 6"):
        publisher.publish("user_scores", publisher.good("user_scores")[:6])
    assert publisher.files("user_scores") == before


@pytest.mark.slow
def test_rows_that_only_warn_are_published_and_the_warning_is_recorded_and_shown(publisher: Publisher) -> None:
    rows = [row | {"label_click": 0, "observed_click": 0} for row in publisher.good("examples")]
    publisher.publish("examples", rows)
    assert {row["label_click"] for row in publisher.company.rows("examples")} == {0}
    last = max(publisher.company.rows("runs"), key=lambda run: run["started_at"])
    assert (last["stage"], last["status"]) == ("examples", "ok")
    assert "audit of examples: expect_column_max_to_be_between(column='label_click'" in last["warnings"]
    shown = [line for line in publisher.company.lines if line.startswith(f"warning: examples {DAY}: ")]
    assert any("column='label_click'" in line for line in shown)


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_another_schema_than_the_table_s_is_refused(publisher: Publisher, name: str) -> None:
    column = {"events": "campaign_id", "examples": "age", "user_scores": "code_version"}[name]
    spark, schema = publisher.context.spark, publisher.table[name].schema
    frame = spark.createDataFrame(pa.Table.from_pylist(publisher.good(name), schema=schema))
    check = partial(audit, expectations=publisher.expectations(name), what=name, keys=KEYS[name])
    for wrong, expected in (
        (frame.drop(column), "expect_table_columns_to_match_set"),
        (frame.selectExpr("*", "1 AS more"), "expect_table_columns_to_match_set"),
        (frame.withColumn(column, frame["user_id"] == ""), f"expect_column_values_to_be_of_type(column='{column}'"),
    ):
        with pytest.raises(AuditError) as raised:
            require_no_failures(check(wrong))
        assert expected in str(raised.value)
