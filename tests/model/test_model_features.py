"""Encoding: what a column becomes, and what is refused."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import Categorical, FeatureSpec, Numeric


def fitted(column, feature):
    return FeatureSpec.fit([feature], pa.table({feature.name: column}))


def ids(spec, column, name="c"):
    return spec.encode(pa.table({name: column})).sparse.flatten().tolist()


def test_missing_and_unseen_values_have_ids_of_their_own():
    spec = fitted(["b", "a", "b", None], Categorical("c"))
    assert ids(spec, ["b", "a", None, "zz"]) == [2, 3, 0, 1]


def test_vocabulary_keeps_the_most_frequent_values():
    spec = fitted(["x", "y", "y", "z", "z", "z"], Categorical("c", max_vocabulary=2))
    assert spec.vocabulary_sizes == (4,)
    assert ids(spec, ["z", "y", "x"]) == [2, 3, 1]


def test_large_integers_keep_every_digit():
    big = 2**53
    spec = fitted(pa.array([big, big + 1, None]), Categorical("c"))
    assert len(set(ids(spec, pa.array([big, big + 1, big + 2])))) == 3
    assert ids(spec, pa.array([None, big + 1])) == [0, 3]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2], pa.int8()),
        pa.array([True, False]),
        pa.array([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]),
        pa.array([Decimal("1.5"), Decimal("2.5")]),
        pa.array(["x", "y"]).dictionary_encode(),
        pa.array(["x", "y"], pa.large_string()),
    ],
    ids=lambda column: str(column.type),
)
def test_anything_that_reads_as_a_string_can_be_categorical(column):
    assert sorted(ids(fitted(column, Categorical("c")), column)) == [2, 3]


def test_nan_is_missing_in_a_categorical():
    assert ids(fitted([1.0, float("nan")], Categorical("c")), [float("nan"), 1.0]) == [0, 2]


def test_numeric_is_standardised_with_an_indicator_for_missing():
    spec = fitted([1.0, 3.0, None], Numeric("x"))
    encoded = spec.encode(pa.table({"x": [3.0, None, float("nan"), float("inf"), 1e300]}))
    assert encoded.dense.tolist() == [[1.0, 0.0]] + [[0.0, 1.0]] * 4


def test_a_numeric_never_missing_in_training_reads_as_the_mean_later():
    spec = fitted([1.0, 3.0], Numeric("x"))
    assert spec.encode(pa.table({"x": [None, 2.0]})).dense.tolist() == [[0.0], [0.0]]


def test_log_is_signed():
    spec = fitted([-np.expm1(2.0), np.expm1(2.0)], Numeric("x", log=True))
    assert spec.encode(pa.table({"x": [np.expm1(1.0), 0.0]})).dense.flatten().tolist() == pytest.approx([0.5, 0.0])


def test_outliers_and_constants_stay_finite():
    spec = fitted([5.0, 5.0], Numeric("x"))
    assert spec.encode(pa.table({"x": [5.0, 1e30, -1e30]})).dense.flatten().tolist() == [0.0, 10.0, -10.0]


def test_a_column_that_is_all_null_can_be_fitted_and_served():
    table = pa.table({"c": pa.nulls(2), "x": pa.nulls(2)})
    spec = FeatureSpec.fit([Categorical("c"), Numeric("x")], table)
    encoded = spec.encode(table)
    assert encoded.sparse.tolist() == [[0], [0]]
    assert encoded.dense.tolist() == [[0.0, 1.0], [0.0, 1.0]]


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=True, allow_infinity=True),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_values_encode_to_finite_numbers_and_valid_ids_and_survive_json(rows):
    table = pa.table(
        {
            "c": pa.array([row[0] for row in rows], pa.int64()),
            "x": pa.array([row[1] for row in rows], pa.float64()),
        }
    )
    spec = FeatureSpec.fit([Categorical("c", max_vocabulary=3), Numeric("x")], table)
    encoded = spec.encode(table)
    assert bool(encoded.dense.isfinite().all())
    assert int(encoded.sparse.min()) >= 0 and int(encoded.sparse.max()) < spec.vocabulary_sizes[0]
    restored = FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False)))
    assert restored == spec
    assert torch.equal(restored.encode(table).dense, encoded.dense)


def test_tables_batches_and_chunks_encode_alike():
    table = pa.table({"c": ["a", None, "b", "a"], "x": [1, 2, None, 4]})
    spec = FeatureSpec.fit([Categorical("c"), Numeric("x")], table)
    whole = spec.encode(table)
    chunked = spec.encode(pa.concat_tables([table.slice(0, 1), table.slice(1)]))
    batch = spec.encode(table.to_batches()[0].slice(1))
    assert torch.equal(whole.sparse, chunked.sparse) and torch.equal(whole.dense, chunked.dense)
    assert torch.equal(whole.sparse[1:], batch.sparse) and torch.equal(whole.dense[1:], batch.dense)
    assert spec.encode(table.slice(0, 0)).sparse.shape == (0, 1)


def test_hiding_context_blanks_the_context_of_those_rows_in_a_copy():
    table = pa.table({"offer": ["a", "b"], "hour": [8.0, 12.0], "city": ["x", "y"], "age": [1.0, 3.0]})
    features = [
        Categorical("offer", context=True),
        Categorical("city"),
        Numeric("age"),
        Numeric("hour", context=True),
    ]
    spec = FeatureSpec.fit(features, table)
    encoded = spec.encode(table)
    sparse, dense = encoded.sparse.clone(), encoded.dense.clone()
    hidden = spec.hide_context(encoded, torch.tensor([False, True]))
    assert hidden.sparse.tolist() == [[2, 2], [0, 3]]
    assert hidden.dense.tolist() == [[-1.0, -1.0, 0.0], [1.0, 0.0, 1.0]]
    assert torch.equal(encoded.sparse, sparse) and torch.equal(encoded.dense, dense)

    nulls = table.set_column(0, "offer", pa.nulls(2)).set_column(1, "hour", pa.nulls(2))
    everything = spec.hide_context(encoded)
    assert torch.equal(everything.sparse, spec.encode(nulls).sparse)
    assert torch.equal(everything.dense, spec.encode(nulls).dense)


def test_encoding_does_not_change_the_table():
    values = np.array([1.0, np.inf, np.nan])
    spec = fitted([1.0, 2.0], Numeric("x", log=True))
    spec.encode(pa.table({"x": values}))
    np.testing.assert_array_equal(values, [1.0, np.inf, np.nan])


@pytest.mark.parametrize(
    ("feature", "table", "words"),
    [
        (Numeric("age"), {"other": [1]}, ["'age'", "not in the table", "other"]),
        (Numeric("age"), {"age": ["young"]}, ["'age'", "string", "not numeric"]),
        (Numeric("age"), {"age": [datetime.date(2024, 1, 1)]}, ["'age'", "date32"]),
        (Categorical("city"), {"city": [[1, 2]]}, ["'city'", "list"]),
        (Categorical("city"), {"town": ["x"]}, ["'city'", "not in the table"]),
    ],
)
def test_a_bad_column_is_named(feature, table, words):
    with pytest.raises(ValueError) as error:
        FeatureSpec.fit([feature], pa.table(table))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("features", "words"),
    [([], "empty"), ([Numeric("x"), Categorical("x")], "'x' is declared more than once")],
)
def test_bad_declarations_are_refused(features, words):
    with pytest.raises(ValueError, match=words):
        FeatureSpec.fit(features, pa.table({"x": [1]}))


def test_a_vocabulary_of_no_values_is_refused():
    with pytest.raises(ValueError, match=r"'city'.*max_vocabulary is 0"):
        Categorical("city", max_vocabulary=0)
