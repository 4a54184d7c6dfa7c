"""The type that a column had at training, and columns of other types read as that one.

A vocabulary holds values as strings, and "1", "1.0" and "true" may all be the same value, of columns of three types. So
a bundle keeps the types of training. A value of another type is read as the training's type if nothing is lost by it,
and refused otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from model.inputs.columns import Column

_EXACT_INTEGERS = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
"""Whole numbers up to this one are told apart from their neighbours."""
_DECIMAL = re.compile(r"decimal(32|64|128|256)\((\d+), (-?\d+)\)")
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=(.+)\]")


def name_type(kind: pa.DataType) -> str:
    """Name the type of a column's values, whatever their physical form.

    >>> name_type(pa.dictionary(pa.int32(), pa.large_string())), name_type(pa.timestamp("us", "UTC"))
    ('string', 'timestamp[us, tz=UTC]')
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary"
    return str(kind)


def read_as(column: Column, trained: str | None, name: str) -> Column:
    """Read a column's values as those of the type ``trained``, from ``name_type``.

    None, of a bundle that does not know its types, changes nothing; nor do types whose values are written alike.

    Raises:
        ValueError: A value would not be the same; the message names the column, both types and the value.

    >>> read_as(pa.array([7.0, float("nan")]), "int64", "shop").to_pylist()
    [7, None]
    >>> read_as(pa.array([1, 2]), "bool", "member")
    Traceback (most recent call last):
      ...
    ValueError: column 'member' is of type int64 and was of type bool at training: 2 is no bool; cast the column
    """
    if trained is None or trained == "null" or _are_written_alike(column.type, trained):
        return column
    now = name_type(column.type)
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if column.null_count == len(column):
        return column
    try:
        read, kept = _convert(column, trained)
    except pa.ArrowException as error:
        raise _refuse(name, now, trained, " ".join(str(error).split())) from error
    lost = pc.index(pc.fill_null(kept, True), False).as_py()
    if lost >= 0:
        raise _refuse(name, now, trained, f"{column[lost].as_py()!r} is no {trained}")
    return read


def _refuse(name: str, now: str, trained: str, reason: str) -> ValueError:
    return ValueError(
        f"column {name!r} is of type {now} and was of type {trained} at training: {reason}; cast the column"
    )


def _are_written_alike(kind: pa.DataType, trained: str) -> bool:
    """Whether equal values of both types have the same digits or letters."""
    now = name_type(kind)
    if now == trained or {now, trained} == {"string", "binary"}:
        return True
    one, other = _parse(now), _parse(trained)
    return one is not None and other is not None and pa.types.is_integer(one) and pa.types.is_integer(other)


def _convert(column: Column, trained: str) -> tuple[Column, Column]:
    """The column cast to the type, and whether each value is still the same, bool."""
    kind = _parse(trained)
    if kind is None or not _can_mean(column.type, kind):
        raise pa.ArrowInvalid(f"{_first(column)!r} is no {trained}")
    if pa.types.is_string(column.type):
        return pc.cast(column, kind), pc.equal(column, column)
    between = column
    if pa.types.is_boolean(column.type):
        between = pc.cast(column, pa.int64())
    elif pa.types.is_decimal(column.type) and not pa.types.is_decimal(kind):
        between = pc.cast(column, pa.float64()) if pa.types.is_floating(kind) else _read_integers(column)
    if pa.types.is_decimal(kind) and pa.types.is_integer(between.type):
        return pc.cast(pc.cast(between, pa.string()), kind), pc.equal(between, between)
    read = pc.cast(between, kind)
    kept = pc.equal(pc.cast(read, between.type), between)
    if pa.types.is_floating(column.type) and pa.types.is_integer(kind):
        kept = pc.and_(kept, pc.less_equal(pc.abs(column), _EXACT_INTEGERS[column.type]))
    elif pa.types.is_floating(column.type) and pa.types.is_floating(kind):
        # A 0.1 of 32 bits is another number than a 0.1 of 64, though it may have been the same one once.
        is_written_alike = pc.equal(pc.cast(read, pa.string()), pc.cast(column, pa.string()))
        kept = pc.and_(kept, pc.or_(pc.equal(pc.floor(column), column), is_written_alike))
    return read, kept


def _can_mean(kind: pa.DataType, trained: pa.DataType) -> bool:
    """Whether a value of one type can be a value of the other: numbers of each other, as dates; strings of both."""
    families: tuple[Callable[[pa.DataType], bool], ...] = (_is_number, _is_date, _is_zoned, pa.types.is_time)
    return any(are(trained) and (are(kind) or pa.types.is_string(kind)) for are in families)


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind))


def _is_date(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None))


def _is_zoned(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.tz is not None)


def _read_integers(decimals: Column) -> Column:
    """The whole numbers of a decimal column, int64."""
    # Arrow asks for the digits that any 64-bit integer may have.
    wide = pc.cast(decimals, pa.decimal256(76, decimals.type.scale))
    return pc.cast(wide, pa.int64())


def _first(column: Column) -> object:
    return pc.drop_null(column)[0].as_py()


def _parse(name: str) -> pa.DataType | None:
    """The type of a name from ``name_type``; None for those that other types cannot be read as."""
    if match := _DECIMAL.fullmatch(name):
        return getattr(pa, f"decimal{match[1]}")(int(match[2]), int(match[3]))
    if match := _ZONED.fullmatch(name):
        return pa.timestamp(match[1], match[2])
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return None
