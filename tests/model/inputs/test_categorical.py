"""Vocabularies: which values get which ids, in single columns and in lists."""

import datetime
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.inputs.categorical import MERGE_AT, Categorical, CategoricalList, VocabularyFit
from model.inputs.feature_spec import FeatureSpec
from model.inputs.lookup import MISSING, PADDING, SPECIAL_IDS, UNSEEN, Lookup


def fitted(column, feature):
    return FeatureSpec.fit([feature], pa.table({feature.name: column}))


def ids(spec, column):
    return spec.encode(pa.table({"c": column})).sparse.flatten().tolist()


def list_ids(spec, column):
    return spec.encode(pa.table({"l": column})).lists.tolist()


def test_missing_and_unseen_values_have_their_own_ids():
    spec = fitted(["b", "a", "b", None], Categorical("c"))
    assert ids(spec, ["b", "a", None, "zz"]) == [2, 3, MISSING, UNSEEN]


def test_vocabulary_keeps_the_most_frequent_values():
    spec = fitted(["x", "y", "y", "z", "z", "z"], Categorical("c", max_vocabulary=2))
    assert spec.vocabulary_sizes == (4,)
    assert ids(spec, ["z", "y", "x"]) == [2, 3, UNSEEN]


def test_large_integers_keep_every_digit():
    big = 2**53
    spec = fitted(pa.array([big, big + 1, None]), Categorical("c"))
    assert len(set(ids(spec, pa.array([big, big + 1, big + 2])))) == 3
    assert ids(spec, pa.array([None, big + 1])) == [0, 3]

    spec = fitted(pa.array([[big, big + 1, None], None]), CategoricalList("l", max_length=3))
    assert list_ids(spec, pa.array([[big + 1, None, big], [big + 2]])) == [[3, 0, 2], [1, -1, -1]]


READS_AS_STRINGS = [
    pa.array([1, 2], pa.int8()),
    pa.array([True, False]),
    pa.array([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]),
    pa.array([Decimal("1.5"), Decimal("2.5")]),
    pa.array(["x", "y"]).dictionary_encode(),
    pa.array(["x", "y"], pa.large_string()),
]


@pytest.mark.parametrize("column", READS_AS_STRINGS, ids=lambda column: str(column.type))
def test_anything_that_casts_to_a_string_can_be_categorical(column):
    assert sorted(ids(fitted(column, Categorical("c")), column)) == [2, 3]


@pytest.mark.parametrize("elements", READS_AS_STRINGS, ids=lambda elements: str(elements.type))
def test_anything_that_casts_to_a_string_can_be_in_a_list(elements):
    column = pa.ListArray.from_arrays([0, 2, 2], elements)
    pair, empty = list_ids(fitted(column, CategoricalList("l", max_length=2)), column)
    assert sorted(pair) == [2, 3] and empty == [PADDING, PADDING]


def test_nan_is_missing():
    values = pa.array([1.0, float("nan")])
    assert ids(fitted(values, Categorical("c")), values) == [2, 0]
    assert ids(fitted(values, Categorical("c")), values.dictionary_encode()) == [2, 0]
    lists = pa.array([[float("nan"), 1.0]])
    assert list_ids(fitted(lists, CategoricalList("l", max_length=2)), lists) == [[0, 2]]


def test_a_dictionary_encodes_like_its_values():
    values = pa.chunked_array([["a", None, "b", "a", "zz", "a"], ["b", "b", "c", None, "b"]])
    spec = fitted(["b", "a", "b"], Categorical("c"))
    encoded = values.dictionary_encode()
    assert ids(spec, encoded) == ids(spec, values)
    assert ids(spec, encoded.slice(1, 8)) == ids(spec, values)[1:9]
    assert ids(spec, encoded.slice(4, 1)) == [UNSEEN]  # fewer rows than entries
    assert fitted(encoded, Categorical("c")).categoricals == fitted(values, Categorical("c")).categoricals


INTEGER_TYPES = [pa.int8(), pa.int16(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64()]


@settings(deadline=None)
@given(
    values=st.lists(st.integers(-(2**63), 2**64 - 1) | st.integers(-300, 300), unique=True, max_size=40),
    odd=st.lists(st.sampled_from(["007", "-0", "+1", "1.0", "", "x", "99999999999999999999"]), unique=True),
    kind=st.sampled_from(INTEGER_TYPES),
    data=st.data(),
)
def test_integers_have_the_ids_of_their_decimal_strings(values, odd, kind, data):
    vocabulary = [str(value) for value in values] + odd
    bits, signed = kind.bit_width, pa.types.is_signed_integer(kind)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    near = st.sampled_from([value for value in values if low <= value <= high] or [0])
    column = pa.array(data.draw(st.lists(st.none() | st.integers(low, high) | near, max_size=30)), kind)
    ids = {value: id for id, value in enumerate(vocabulary, SPECIAL_IDS)}
    expected = [MISSING if each is None else ids.get(str(each), UNSEEN) for each in column.to_pylist()]
    lookup = Lookup(vocabulary)
    assert lookup.find_ids(column, "c").tolist() == expected
    assert lookup.find_ids(column.slice(1), "c").tolist() == expected[1:]
    assert lookup.find_ids(column.dictionary_encode(), "c").tolist() == expected
    assert lookup.find_ids(column.cast(pa.string()), "c").tolist() == expected


@pytest.mark.parametrize("step", [1, 3, 2**32, 2**44 + 1], ids=["dense", "close", "far", "farther"])
def test_every_integer_of_a_large_vocabulary_is_found(step):
    values = np.arange(-5_000, 5_000) * step
    lookup = Lookup([str(value) for value in values])
    np.testing.assert_array_equal(lookup.find_ids(pa.array(values), "c"), np.arange(10_000) + SPECIAL_IDS)
    between = pa.array(np.setdiff1d(np.concatenate([values + 1, values - 1, [2**63 - 1, -(2**63)]]), values))
    assert set(lookup.find_ids(between, "c")) == {UNSEEN}


def test_successive_dictionaries_are_told_apart():
    lookup = Lookup(["a", "b", "c"])
    column = pa.array(["a", "b", "b", None]).dictionary_encode()
    other = pa.DictionaryArray.from_arrays(column.indices, pa.array(["c", "a"]))
    for _ in range(2):
        assert lookup.find_ids(column, "c").tolist() == [2, 3, 3, MISSING]
        assert lookup.find_ids(other, "c").tolist() == [4, 2, 2, MISSING]
        assert lookup.find_ids(other.slice(1, 2), "c").tolist() == [2, 2]
    entries = pa.array(["a", "b", "c"])
    parts = [pa.DictionaryArray.from_arrays(pa.array([0, 1]), entries.slice(start, 2)) for start in (0, 1)]
    assert lookup.find_ids(pa.chunked_array(parts), "c").tolist() == [2, 3, 3, 4]


def test_few_strings_and_many_have_the_same_ids():
    vocabulary = [f"v{number}" for number in range(1_000)]
    column = [None, "v0", "v999", "x", *vocabulary]
    lookup = Lookup(vocabulary)
    whole = lookup.find_ids(pa.array(column), "c").tolist()
    assert [lookup.find_ids(pa.array([value], pa.string()), "c").tolist() for value in column[:50]] == [
        [id] for id in whole[:50]
    ]
    assert whole[:5] == [MISSING, 2, 1_001, UNSEEN, 2]


def test_a_list_becomes_its_first_ids_and_padding():
    spec = fitted([["a", "b", "a"], ["b", "a"]], CategoricalList("l", max_length=3))
    assert spec.list_sizes == (4,) and spec.list_lengths == (3,) and spec.list_poolings == ("mean",)
    column = [["b"], None, [], [None, "zz"], ["a", "a", "b", "b", "b"]]
    assert list_ids(spec, column) == [
        [3, -1, -1],
        [MISSING, -1, -1],
        [-1, -1, -1],
        [MISSING, UNSEEN, -1],
        [2, 2, 3],
    ]


def test_elements_beyond_max_length_and_under_null_lists_are_not_counted():
    long = fitted([["a", "b", "b", "b"], ["a", "c"]], CategoricalList("l", max_length=2))
    assert long.lists[0].values == ("a", "b", "c")
    under_null = pa.ListArray.from_arrays([0, 2, 3], pa.array(["x", "x", "a"]), mask=pa.array([True, False]))
    spec = fitted(under_null, CategoricalList("l", max_length=2))
    assert spec.lists[0].values == ("a",)
    assert list_ids(spec, under_null) == [[MISSING, PADDING], [2, PADDING]]


def test_the_lists_of_two_features_lie_side_by_side():
    table = pa.table({"l": [["a"], []], "m": [[1, 2], [3]]})
    spec = FeatureSpec.fit([CategoricalList("m", max_length=2), CategoricalList("l", max_length=1)], table)
    assert spec.encode(table).lists.tolist() == [[2, 3, 2], [4, -1, -1]]


def test_a_column_of_only_nulls_can_be_fitted_and_served():
    table = pa.table({"c": pa.nulls(2), "l": pa.nulls(2)})
    spec = FeatureSpec.fit([Categorical("c"), CategoricalList("l", max_length=2)], table)
    assert spec.vocabulary_sizes == spec.list_sizes == (SPECIAL_IDS,)
    encoded = spec.encode(table)
    assert encoded.sparse.tolist() == [[0], [0]]
    assert encoded.lists.tolist() == [[0, -1], [0, -1]]


ELEMENTS = st.none() | st.integers(-(2**63), -(2**63) + 2) | st.integers(0, 3)
LISTS = st.lists(st.none() | st.lists(ELEMENTS, max_size=5), max_size=12)


@settings(deadline=None)
@given(
    rows=LISTS,
    kind=st.sampled_from([pa.list_(pa.int64()), pa.large_list(pa.int64())]),
    max_length=st.integers(1, 6),
    cuts=st.lists(st.integers(0, 12), max_size=3),
)
def test_encoded_lists_equal_a_loop_over_rows(rows, kind, max_length, cuts):
    vocabulary = {"0": 2, "1": 3, str(-(2**63)): 4}
    spec = fitted([[0, 0, 0, 1, 1, -(2**63)]], CategoricalList("l", max_length=max_length))
    known = set(spec.lists[0].values)
    expected = []
    for row in rows:
        found = [] if row is None else [MISSING if each is None else str(each) for each in row[:max_length]]
        found = [vocabulary[each] if each in known else each if each == MISSING else UNSEEN for each in found]
        found = [MISSING] if row is None else found
        expected.append(found + [PADDING] * (max_length - len(found)))
    array = pa.array([[1], *rows, [2]], kind).slice(1, len(rows))
    assert list_ids(spec, array) == expected
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [array.slice(start, stop - start) for start, stop in pairwise(bounds)]
    assert list_ids(spec, pa.chunked_array(pieces, kind)) == expected


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(ELEMENTS, min_size=3, max_size=3), min_size=1, max_size=8), st.integers(1, 4))
def test_fixed_size_lists_encode_like_other_lists(rows, max_length):
    fixed = pa.array(rows, pa.list_(pa.int64(), 3))
    spec = fitted(fixed, CategoricalList("l", max_length=max_length))
    assert spec == fitted(pa.array(rows, pa.list_(pa.int64())), CategoricalList("l", max_length=max_length))
    expected = list_ids(spec, pa.array(rows, pa.list_(pa.int64())))
    assert list_ids(spec, fixed) == expected
    assert list_ids(spec, fixed.slice(1)) == expected[1:]


def test_counts_are_exact_over_many_batches_of_many_values():
    draw = np.random.default_rng(0)
    values = (draw.pareto(0.5, 300_000) * 1_000).clip(max=1e15).astype(np.int64)
    fit = VocabularyFit(Categorical("c", max_vocabulary=200_000))
    for piece in np.array_split(values, 40):
        fit.add(pa.record_batch({"c": piece}))
    found, counts = np.unique(values.astype(str), return_counts=True)
    expected = found[np.lexsort((found, -counts))]
    assert len(expected) > MERGE_AT  # so counts are merged in between
    np.testing.assert_array_equal(fit.finish().values, expected[:200_000])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array(["x"]), ["'l'", "string", "not a list"]),
        (pa.array([{"x": 1}]), ["'l'", "struct", "not a list"]),
        (pa.array([[[1]]]), ["'l'", "list", "string"]),
    ],
    ids=["string", "struct", "nested"],
)
def test_a_column_without_lists_of_values_is_rejected_by_fit_and_encode(column, words):
    spec = fitted([["x"]], CategoricalList("l"))
    for refused in (lambda: fitted(column, CategoricalList("l")), lambda: list_ids(spec, column)):
        with pytest.raises(ValueError) as error:
            refused()
        assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: Categorical("city", max_vocabulary=0), r"'city'.*max_vocabulary is 0"),
        (lambda: CategoricalList("seen", max_vocabulary=0), r"'seen'.*max_vocabulary is 0"),
        (lambda: CategoricalList("seen", max_length=0), r"'seen'.*max_length is 0"),
        (lambda: CategoricalList("seen", pooling="last"), r"'seen'.*'last', not one of mean, sum, max"),
        (lambda: CategoricalList(""), r"name is ''"),
    ],
)
def test_an_invalid_declaration_is_rejected(declare, words):
    with pytest.raises(ValueError, match=words):
        declare()
