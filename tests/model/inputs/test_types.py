"""Columns of another type than at training: the same ids, or one line that names both types."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.inputs.categorical import Categorical, CategoricalList
from model.inputs.feature_spec import FeatureSpec
from model.inputs.lookup import MISSING, UNSEEN
from model.inputs.numeric import Numeric

NAN = float("nan")
DAY = datetime.date(2024, 2, 29)
NOON = datetime.datetime(2024, 2, 29, 12)


def encoded(spec, column):
    return spec.encode(pa.table({"c": column})).sparse.flatten().tolist()


SAME = [
    (pa.array([7, 8]), pa.array([7.0, NAN, 9.0])),
    (pa.array([7, 8]), pa.array([7.0, None, 9.0], pa.float32())),
    (pa.array([7, 8]), pa.array(["7", None, "9"])),
    (pa.array([7, 8]), pa.array(["7", None, "9"]).dictionary_encode()),
    (pa.array([7, 8]), pa.array([Decimal("7.00"), None, Decimal("9.00")])),
    (pa.array([7, 8]), pa.array([7, None, 9], pa.uint8())),
    (pa.array([1, 2]), pa.array([True, None, False])),
    (pa.array([7.0, 8.0]), pa.array([7, None, 9])),
    (pa.array([7.5, 8.0]), pa.array(["7.50", None, "9"])),
    (pa.array([0.5, 8.0]), pa.array([0.5, NAN, 9.0], pa.float32())),
    (pa.array([2.0**60, 8.0], pa.float32()), pa.array([2.0**60, NAN, 9.0])),
    (pa.array([1.0, 8.0]), pa.array([True, None, False])),
    (pa.array([7.5, 8.0]), pa.array([Decimal("7.50"), None, Decimal("9.00")])),
    (pa.array([True]), pa.array([1.0, NAN, 0.0])),
    (pa.array([True]), pa.array([1, None, 0])),
    (pa.array([True]), pa.array(["True", None, "false"])),
    (pa.array([True]), pa.array([Decimal(1), None, Decimal(0)])),
    (pa.array([Decimal("7.50")]), pa.array([Decimal("7.5"), None, Decimal("9.0")])),
    (pa.array([Decimal("7.50")]), pa.array([7.5, NAN, 9.0])),
    (pa.array([Decimal("7.00")]), pa.array([7, None, 9])),
    (pa.array([Decimal("1.00")]), pa.array([True, None, False])),
    (pa.array([DAY]), pa.array([DAY.isoformat(), None, "2024-03-01"])),
    (pa.array([DAY]), pa.array([datetime.datetime(2024, 2, 29), None, datetime.datetime(2024, 3, 1)])),
    (pa.array([NOON], pa.timestamp("s")), pa.array([NOON, None, datetime.datetime(2024, 3, 1)], pa.timestamp("ns"))),
    (pa.array(["x"]), pa.array(["x", None, "y"], pa.large_string())),
    (pa.array(["x"]), pa.array([b"x", None, b"y"])),
]


@pytest.mark.parametrize(("trained", "now"), SAME, ids=lambda column: str(column.type))
def test_the_same_values_of_another_type_have_the_same_ids(trained, now):
    """The first value is the first of training, the second missing, the third unseen."""
    spec = FeatureSpec.fit([Categorical("c")], pa.table({"c": trained}))
    expected = [encoded(spec, trained)[0], MISSING, UNSEEN]
    assert encoded(spec, now) == encoded(spec, pa.chunked_array([now.slice(0, 1), now.slice(1)])) == expected
    lists = FeatureSpec.fit(
        [CategoricalList("c")], pa.table({"c": pa.ListArray.from_arrays([0, len(trained)], trained)})
    )
    table = pa.table({"c": pa.ListArray.from_arrays([0, 3], now)})
    assert lists.encode(table).lists[0, :3].tolist() == expected


REFUSED = [
    (pa.array([7]), pa.array([7.5]), "7.5"),
    (pa.array([7]), pa.array([2.0**53 + 2]), "9007199254740994"),
    (pa.array([7]), pa.array(["x"]), "'x'"),
    (pa.array([7]), pa.array([DAY]), "2024"),
    (pa.array([0.1]), pa.array([0.1], pa.float32()), "0.1"),
    (pa.array([0.1], pa.float32()), pa.array([0.1]), "0.1"),
    (pa.array([7.0]), pa.array([2**53 + 1]), "9007199254740993"),
    (pa.array([True]), pa.array([2]), "2"),
    (pa.array([True]), pa.array(["yes"]), "yes"),
    (pa.array([Decimal("7.5")]), pa.array([7.25]), "7.25"),
    (pa.array([DAY]), pa.array([NOON]), "12"),
    (pa.array([DAY]), pa.array([19_782]), "19782"),
    (pa.array([NOON]), pa.array([NOON], pa.timestamp("us", "UTC")), "2024"),
    # Digits can be written in several ways: "7", "007", "7.0".
    (pa.array(["007"]), pa.array([7]), "7"),
    (pa.array(["true"]), pa.array([True]), "True"),
]


@pytest.mark.parametrize(("trained", "now", "value"), REFUSED, ids=lambda each: str(getattr(each, "type", each)))
def test_a_value_that_would_not_be_the_same_is_refused_in_one_line(trained, now, value):
    spec = FeatureSpec.fit([Categorical("c")], pa.table({"c": trained}))
    with pytest.raises(ValueError) as error:
        encoded(spec, now)
    line = str(error.value)
    words = ("'c'", f"is of type {now.type} ", f"was of type {trained.type} at training", value)
    assert all(word in line for word in words) and "\n" not in line


def test_a_column_without_values_may_be_of_any_type():
    """As pandas makes it of a column of missing values."""
    spec = FeatureSpec.fit([Categorical("c")], pa.table({"c": ["x"]}))
    assert encoded(spec, pa.array([NAN, NAN])) == encoded(spec, pa.nulls(2)) == [MISSING, MISSING]
    assert encoded(spec, pa.array([], pa.int64())) == []


def test_a_number_is_the_same_in_each_numeric_type_and_nothing_else_is_one():
    spec = FeatureSpec.fit([Numeric("c")], pa.table({"c": [0, 1, 2]}))
    for kind in (pa.float32(), pa.float64(), pa.int8(), pa.decimal128(5, 2)):
        column = pa.array([0, 1, 2], pa.int8()).cast(pa.string()).cast(kind)
        assert torch.equal(spec.encode(pa.table({"c": column})).dense, spec.encode(pa.table({"c": [0, 1, 2]})).dense)
    with pytest.raises(ValueError, match=r"'c' is of type string, not numeric and was of type int64 at training"):
        spec.encode(pa.table({"c": ["1"]}))


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_zero_has_no_sign(kind):
    """Columns of floats hold -0.0 after a multiplication, and it equals 0."""
    zeros = pa.array([-0.0, 0.0, 1.0, None, NAN], pa.float64()).cast(kind)
    spec = FeatureSpec.fit([Categorical("c")], pa.table({"c": zeros}))
    assert encoded(spec, zeros) == [2, 2, 3, MISSING, MISSING]
    assert encoded(spec, pa.array([0, 1])) == [2, 3]


NUMBERS = st.integers(-(2**60), 2**60) | st.floats(width=32, allow_infinity=False) | st.booleans() | st.none()
TYPES = [pa.int64(), pa.int8(), pa.float64(), pa.float32(), pa.bool_(), pa.string(), pa.decimal128(20, 1)]


@settings(deadline=None, max_examples=200)
@given(st.lists(NUMBERS, min_size=1, max_size=6), st.sampled_from(TYPES), st.sampled_from(TYPES))
def test_types_either_agree_or_are_refused(values, trained, now):
    """Of values that Python holds equal, none reads as unseen."""
    columns = []
    for kind in (trained, now):
        written = [each if each is None or kind != pa.string() else str(each) for each in values]
        try:
            columns.append(pa.array(written, kind))
        except (pa.ArrowException, TypeError, OverflowError):
            return
    if columns[0].to_pylist() != columns[1].to_pylist() and pa.string() not in (trained, now):
        return
    spec = FeatureSpec.fit([Categorical("c")], pa.table({"c": columns[0]}))
    try:
        found = encoded(spec, columns[1])
    except ValueError as error:
        assert "'c'" in str(error) and "\n" not in str(error)
    else:
        assert found == encoded(spec, columns[0])
