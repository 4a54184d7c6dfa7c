"""Columns of a table, read one way by training and scoring: as strings, as numbers, as lists."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = pa.ChunkedArray | pa.Array

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_name(name: str) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"a feature's name is {name!r}, not the name of a column")


def check_table(table: object) -> None:
    """Raises ValueError for what is no table, and says what to do with a DataFrame."""
    if not isinstance(table, pa.Table | pa.RecordBatch):
        kind = type(table).__name__
        raise ValueError(f"rows are a {kind}, not a pyarrow Table (pyarrow.Table.from_pandas takes a DataFrame)")


def get_column(table: pa.Table | pa.RecordBatch, name: str) -> Column:
    """The column of that name. Raises ValueError that says which columns there are."""
    position = table.schema.get_field_index(name)
    if position < 0:  # not there, or there twice
        times = "not" if name not in table.schema.names else "more than once"
        raise ValueError(f"column {name!r} is {times} in the table; it has {', '.join(table.schema.names)}")
    return table.column(position)


def list_chunks(column: Column) -> list[pa.Array]:
    """The arrays that a column is made of."""
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def read_strings(column: Column, name: str) -> Column:
    """The values as strings, null where missing. Integers are cast as integers: no digit is lost."""
    kind = column.type
    try:
        if pa.types.is_dictionary(kind):
            column = pc.cast(column, kind.value_type)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} of type {kind} cannot be read as strings: {error}") from error


def read_numbers(column: Column, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The values as float64 (n,), in memory of their own, NaN where missing or beyond float32; and where they are, bool
    (n,), or None for nowhere."""
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise ValueError(f"column {name!r} is of type {kind}, not numeric")
    if not (pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        column = pc.cast(column, pa.float64(), safe=False)
    if column.null_count:  # NumPy would be given the NaN value by value
        column = pc.fill_null(column, pa.scalar(np.nan, column.type))
    read = np.asarray(column)
    values = read.astype(np.float64)
    # The least and the greatest value tell that none is missing; a NaN among them is either.
    if not len(read) or (np.minimum.reduce(read) >= -_FLOAT32_MAX and np.maximum.reduce(read) <= _FLOAT32_MAX):
        return values, None
    missing = ~(np.abs(read) <= _FLOAT32_MAX)
    values[missing] = np.nan
    return values, missing


def read_lists(column: Column, name: str) -> list[pa.Array]:
    """The column's arrays, each a list or large list array. A column of nulls alone has null lists."""
    kind = column.type
    if pa.types.is_null(kind):
        column = pc.cast(column, pa.list_(pa.string()))
    elif pa.types.is_fixed_size_list(kind):
        column = pc.cast(column, pa.list_(kind.value_type))
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise ValueError(f"column {name!r} is of type {kind}, not a list")
    return list_chunks(column)
