"""The feature specification: encoding, fitting in batches, storage, and what is rejected."""

import datetime
import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.inputs.categorical import Categorical, CategoricalList
from model.inputs.encoded import Encoded, FeatureColumns
from model.inputs.feature_spec import FeatureSpec
from model.inputs.lookup import PADDING
from model.inputs.numeric import Numeric

FEATURES = (
    Numeric("rank", transform="quantile"),
    Numeric("n", context=True),
    CategoricalList("l", max_vocabulary=3, max_length=2),
    Categorical("c", max_vocabulary=3),
    Numeric("log", transform="log"),
)
NUMBERS = st.none() | st.floats(allow_nan=True, allow_infinity=True)
INTEGERS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3)
ROWS = st.lists(
    st.tuples(NUMBERS, st.none() | st.lists(INTEGERS, max_size=4), INTEGERS, NUMBERS, NUMBERS), min_size=1, max_size=20
)
TYPES = {"n": pa.float64(), "l": pa.list_(pa.int64()), "c": pa.int64(), "log": pa.float64(), "rank": pa.float64()}


def table_of(rows):
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(column, TYPES[name]) for name, column in zip(TYPES, columns, strict=True)})


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


@settings(max_examples=50, deadline=None)  # Arrow's first group_by is slow to load
@given(ROWS, ROWS)
def test_any_values_encode_to_finite_numbers_and_valid_ids_and_survive_json(rows, later):
    table, served = table_of(rows), table_of(later)
    spec = FeatureSpec.fit(FEATURES, table)
    restored = FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False)))
    assert restored == spec and FeatureSpec.from_dict(spec.to_dict()) == spec
    for each in (table, served):
        encoded = spec.encode(each)
        assert encoded.dense.dtype == torch.float32 and encoded.dense.shape == (each.num_rows, spec.dense_width)
        assert bool(encoded.dense.isfinite().all()) and float(encoded.dense.abs().max()) <= 10.0
        assert encoded.sparse.dtype == encoded.lists.dtype == torch.int32
        assert int(encoded.sparse.min()) >= 0 and int(encoded.sparse.max()) < spec.vocabulary_sizes[0]
        assert int(encoded.lists.min()) >= PADDING and int(encoded.lists.max()) < spec.list_sizes[0]
        assert same(restored.encode(each), encoded)


@settings(max_examples=50, deadline=None)  # Arrow's first group_by is slow to load
@given(ROWS, st.lists(st.integers(0, 20), max_size=4))
def test_batch_boundaries_do_not_matter(rows, cuts):
    table = table_of(rows)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [table.slice(start, stop - start) for start, stop in pairwise(bounds)]
    batches = [piece.combine_chunks().to_batches()[0] for piece in pieces if piece.num_rows]
    whole = FeatureSpec.fit(FEATURES, table)
    streamed = FeatureSpec.fit(FEATURES, iter(batches))
    assert streamed.categoricals == whole.categoricals and streamed.lists == whole.lists
    assert [each.indicator for each in streamed.numerics] == [each.indicator for each in whole.numerics]
    for one, other in zip(streamed.numerics[1:], whole.numerics[1:], strict=True):
        assert one.scaler.scale == pytest.approx(other.scaler.scale, rel=1e-9)
        assert abs(one.scaler.mean - other.scaler.mean) <= 1e-9 * max(other.scaler.scale, abs(other.scaler.mean))
        np.testing.assert_allclose(one.edges, other.edges, atol=2e-5)
    assert streamed.numerics[0] == whole.numerics[0]
    torch.testing.assert_close(streamed.encode(table).dense, whole.encode(table).dense, atol=1e-6, rtol=1e-6)


def test_batches_give_the_same_specification_as_their_table():
    table = table_of([(float(row), [row], row % 3, float(row % 7), row**0.5) for row in range(100)])
    chunked = pa.concat_tables([table.slice(0, 60), table.slice(60)])
    assert FeatureSpec.fit(FEATURES, iter(chunked.to_batches())) == FeatureSpec.fit(FEATURES, chunked)
    reader = pa.RecordBatchReader.from_batches(chunked.schema, chunked.to_batches())
    assert FeatureSpec.fit(FEATURES, reader) == FeatureSpec.fit(FEATURES, chunked)


def test_tables_batches_and_chunks_encode_alike():
    table = pa.table({"c": ["a", None, "b", "a"], "x": [1, 2, None, 4], "l": [["a"], [], None, ["b", "a", "a"]]})
    spec = FeatureSpec.fit([Categorical("c"), Numeric("x"), CategoricalList("l", max_length=2)], table)
    whole = spec.encode(table)
    assert same(whole, spec.encode(pa.concat_tables([table.slice(0, 1), table.slice(1)])))
    assert same(whole.select(slice(1, None)), spec.encode(table.to_batches()[0].slice(1)))
    assert same(whole, Encoded.concatenate([spec.encode(table.slice(0, 3)), spec.encode(table.slice(3))]))
    empty = spec.encode(table.slice(0, 0))
    assert [each.shape for each in empty.tensors] == [(0, 1), (0, 2), (0, 2)]


def test_without_features_of_a_kind_its_tensor_has_no_columns():
    encoded = FeatureSpec.fit([Numeric("x")], pa.table({"x": [1.0, 3.0]})).encode(pa.table({"x": [3.0, 1.0]}))
    assert len(encoded) == 2
    assert encoded.sparse.shape == encoded.lists.shape == (2, 0)
    assert encoded.dense.tolist() == [[1.0], [-1.0]]


def test_a_features_columns_are_those_that_change_with_it():
    table = table_of([(1.0, [1], 1, 1.0, 1.0), (None, [2], 2, None, 2.0), (3.0, [1], 1, 3.0, 3.0)])
    table = table.append_column("m", table["l"])
    spec = FeatureSpec.fit([*FEATURES, CategoricalList("m", max_length=3)], table)
    assert spec.names == ("c", "l", "m", "rank", "n", "log")
    assert spec.locate("rank") == FeatureColumns(dense=(0,))  # never missing in training: no indicator
    assert spec.locate("m") == FeatureColumns(lists=(2, 3, 4))
    before = spec.encode(table)
    for name in spec.names:
        other = table.column(name).take([1, 0, 1])
        if name == "m":
            other = pa.array([[2, 2, 2], [1, 1, 1], [2, 2, 2]])
        if name == "l":
            other = pa.array([[2, 2], [1, 1], [2, 2]])
        after = spec.encode(table.set_column(table.schema.get_field_index(name), name, other))
        changed = [
            tuple((one != two).any(0).nonzero().flatten().tolist())
            for one, two in zip(before.tensors, after.tensors, strict=True)
        ]
        assert FeatureColumns(*changed) == spec.locate(name)
    with pytest.raises(ValueError, match=r"'city' is not a feature.* c, l, m, rank, n, log"):
        spec.locate("city")


def test_hiding_context_blanks_the_context_of_the_given_rows_in_a_copy():
    table = pa.table(
        {
            "offer": ["a", "b"],
            "hour": [8.0, 12.0],
            "shown": [["p", "q"], ["q"]],
            "city": ["x", "y"],
            "age": [1.0, 3.0],
            "viewed": [["s"], []],
        }
    )
    features = [
        Categorical("offer", context=True),
        Categorical("city"),
        CategoricalList("viewed", max_length=1),
        CategoricalList("shown", max_length=2, context=True),
        Numeric("age"),
        Numeric("hour", context=True),
    ]
    spec = FeatureSpec.fit(features, table)
    encoded = spec.encode(table)
    kept = [each.clone() for each in encoded.tensors]
    hidden = spec.hide_context(encoded, torch.tensor([False, True]))
    assert hidden.sparse.tolist() == [[2, 2], [0, 3]]
    assert hidden.dense.tolist() == [[-1.0, -1.0, 0.0], [1.0, 0.0, 1.0]]
    assert hidden.lists.tolist() == [[2, 3, 2], [-1, 0, -1]]
    assert same(encoded, Encoded(*kept))

    nulls = table.set_column(0, "offer", pa.nulls(2)).set_column(1, "hour", pa.nulls(2))
    nulls = nulls.set_column(2, "shown", pa.nulls(2))
    assert same(spec.hide_context(encoded), spec.encode(nulls))


@pytest.mark.parametrize(
    ("feature", "table", "words"),
    [
        (Numeric("age"), {"other": [1]}, ["'age'", "not in the table", "other"]),
        (Numeric("age"), {"age": ["young"]}, ["'age'", "string", "not numeric"]),
        (Numeric("age"), {"age": [datetime.date(2024, 1, 1)]}, ["'age'", "date32"]),
        (Categorical("city"), {"city": [[1, 2]]}, ["'city'", "list"]),
        (Categorical("city"), {"town": ["x"]}, ["'city'", "not in the table"]),
        (CategoricalList("viewed"), {"seen": [["x"]]}, ["'viewed'", "not in the table", "seen"]),
    ],
)
def test_a_bad_column_is_named(feature, table, words):
    with pytest.raises(ValueError) as error:
        FeatureSpec.fit([feature], pa.table(table))
    assert all(word in str(error.value) for word in words)


def test_a_column_whose_type_changes_between_batches_is_named():
    batches = [pa.record_batch({"c": [1]}), pa.record_batch({"c": [1.0]})]
    with pytest.raises(ValueError, match=r"'c' is of type double in a batch, and int64 in those before it"):
        FeatureSpec.fit([Categorical("c")], batches)
    with pytest.raises(ValueError, match=r"'c' is not in the table; it has d"):
        FeatureSpec.fit([Categorical("c")], [batches[0], pa.record_batch({"d": [1]})])


@pytest.mark.parametrize("source", [pa.table({"x": pa.array([], pa.int64())}), [], [pa.record_batch({"x": [1]})[:0]]])
def test_a_source_without_rows_is_rejected(source):
    with pytest.raises(ValueError, match="no rows to fit features on"):
        FeatureSpec.fit([Numeric("x")], source)


@pytest.mark.parametrize(
    ("features", "words"),
    [([], "empty"), ([Numeric("x"), CategoricalList("x")], "'x' is declared more than once")],
)
def test_invalid_declarations_are_rejected(features, words):
    with pytest.raises(ValueError, match=words):
        FeatureSpec.fit(features, pa.table({"x": [1]}))
