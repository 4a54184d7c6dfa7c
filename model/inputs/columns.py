"""Columns of a table, read the same way by training and scoring: as strings, numbers or lists."""

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
    """Raise ValueError unless this is a table or batch, saying how to convert a DataFrame."""
    if not isinstance(table, pa.Table | pa.RecordBatch):
        kind = type(table).__name__
        raise ValueError(f"rows are a {kind}, not a pyarrow Table (pyarrow.Table.from_pandas takes a DataFrame)")


def get_column(table: pa.Table | pa.RecordBatch, name: str) -> Column:
    """Look up a column by name.

    Raises:
        ValueError: No such column, or more than one; the message lists the table's columns.
    """
    position = table.schema.get_field_index(name)
    if position < 0:  # missing or ambiguous
        times = "not" if name not in table.schema.names else "more than once"
        raise ValueError(f"column {name!r} is {times} in the table; it has {', '.join(table.schema.names)}")
    return table.column(position)


def list_chunks(column: Column) -> list[pa.Array]:
    """List the arrays that make up a column."""
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def read_strings(column: Column, name: str) -> Column:
    """Read values as strings, null where missing. Integers are cast directly, so no digit is lost. -0.0 reads as 0.0.

    Raises:
        ValueError: The type does not cast to strings; the message names the column.
    """
    kind = column.type
    try:
        if pa.types.is_dictionary(kind):
            column = pc.cast(column, kind.value_type)
        if not pa.types.is_floating(column.type):
            return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
        written = pc.cast(pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column), pa.string())
        return pc.if_else(pc.equal(written, "-0"), "0", written)
    except pa.ArrowException as error:
        raise ValueError(f"column {name!r} of type {kind} cannot be read as strings: {error}") from error


def read_numbers(column: Column, name: str, trained: str | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Read values as numbers; ``trained``, the column's type at training, is for the error.

    Returns:
        A float64 copy (n,), NaN where missing or beyond float32, and a bool mask (n,) of those places, or None if
        there are none.

    Raises:
        ValueError: The column is not numeric; the message names it.
    """
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (is_number or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        was = f" and was of type {trained} at training; cast the column" if trained else ""
        raise ValueError(f"column {name!r} is of type {kind}, not numeric{was}")
    if not (pa.types.is_float32(kind) or pa.types.is_float64(kind)):
        column = pc.cast(column, pa.float64(), safe=False)
    if column.null_count:  # otherwise the conversion to NumPy would go value by value
        column = pc.fill_null(column, pa.scalar(np.nan, column.type))
    read = np.asarray(column)
    values = read.astype(np.float64)
    # Minimum and maximum suffice to tell that no value is missing: a NaN would be both.
    if not len(read) or (np.minimum.reduce(read) >= -_FLOAT32_MAX and np.maximum.reduce(read) <= _FLOAT32_MAX):
        return values, None
    missing = ~(np.abs(read) <= _FLOAT32_MAX)
    values[missing] = np.nan
    return values, missing


def read_lists(column: Column, name: str) -> list[pa.Array]:
    """Read a column as list or large list arrays, one per chunk. A column of only nulls becomes null lists.

    Raises:
        ValueError: The column holds no lists; the message names it.
    """
    kind = column.type
    if pa.types.is_null(kind):
        column = pc.cast(column, pa.list_(pa.string()))
    elif pa.types.is_fixed_size_list(kind):
        column = pc.cast(column, pa.list_(kind.value_type))
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise ValueError(f"column {name!r} is of type {kind}, not a list")
    return list_chunks(column)
