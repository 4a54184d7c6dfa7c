"""The row groups of a data set's files, and how processes share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:  # slow to import, since it imports pandas, and scoring does not need it
    import pyarrow.dataset


@dataclass(frozen=True)
class RowGroup:
    """``rows`` rows of a data set's fragment, from row ``start``, to be read with ``schema``."""

    fragment: pa.dataset.Fragment
    schema: pa.Schema
    start: int
    rows: int

    def read(self, most: int) -> list[pa.RecordBatch]:
        """Read the rows, in batches of at most ``most``."""
        # Read in one batch, because every batch would come with a dictionary of its own.
        table = self.fragment.to_table(columns=self.schema.names, schema=self.schema, batch_size=2**31 - 1)
        return table.slice(self.start, self.rows).to_batches(max_chunksize=most)


def list_row_groups(fragment: pa.dataset.Fragment, schema: pa.Schema, columns: Sequence[str]) -> list[RowGroup]:
    """List a Parquet file's row groups, except empty ones; a fragment of another format counts as one.

    Strings in Parquet are read as Arrow dictionaries, so that a value repeated in a row group is looked up once.
    """
    schema = pa.schema([schema.field(name) for name in columns])
    if hasattr(fragment, "split_by_row_group"):
        fragment, schema = _with_dictionaries(fragment, schema)
        # A part's own count_rows would count the rows of the whole file.
        sized = [(part, part.row_groups[0].num_rows) for part in fragment.split_by_row_group()]
    else:
        sized = [(fragment, fragment.count_rows())]
    return [RowGroup(part, schema, 0, rows) for part, rows in sized if rows]


def _with_dictionaries(
    fragment: pa.dataset.ParquetFileFragment, schema: pa.Schema
) -> tuple[pa.dataset.ParquetFileFragment, pa.Schema]:
    from pyarrow.dataset import ParquetFileFormat, ParquetReadOptions

    strings = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    if not strings or not fragment.path:
        return fragment, schema
    options = fragment.format.read_options
    read_as = ParquetFileFormat(
        read_options=ParquetReadOptions(
            dictionary_columns=[*options.dictionary_columns, *strings],
            coerce_int96_timestamp_unit=options.coerce_int96_timestamp_unit,
        ),
        default_fragment_scan_options=fragment.format.default_fragment_scan_options,
    )
    opened = read_as.make_fragment(
        fragment.path,
        filesystem=fragment.filesystem,
        partition_expression=fragment.partition_expression,
        row_groups=[group.id for group in fragment.row_groups],
    )
    for name in strings:  # unless a file stores the column as another type, or lacks it
        position = opened.physical_schema.get_field_index(name)
        if position >= 0 and pa.types.is_dictionary(opened.physical_schema.field(position).type):
            column = schema.get_field_index(name)
            schema = schema.set(column, schema.field(column).with_type(opened.physical_schema.field(position).type))
    return opened, schema


def cut_row_groups(groups: Sequence[RowGroup], part: slice) -> list[RowGroup]:
    """Cut the rows of ``part``, counted across all groups.

    >>> groups = [RowGroup(None, None, 0, 10), RowGroup(None, None, 0, 10), RowGroup(None, None, 0, 10)]
    >>> [(group.start, group.rows) for group in cut_row_groups(groups, slice(7, 20))]
    [(7, 3), (0, 10)]
    """
    parts, first = [], 0
    for group in groups:
        start, stop = max(part.start - first, 0), min(part.stop - first, group.rows)
        if start < stop:
            parts.append(RowGroup(group.fragment, group.schema, group.start + start, stop - start))
        first += group.rows
    return parts
