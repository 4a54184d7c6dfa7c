"""A table of the warehouse: its columns with their descriptions, as Arrow and as Iceberg take them."""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

STRING, BOOLEAN, INT, LONG, DOUBLE, DATE = (
    pa.string(),
    pa.bool_(),
    pa.int32(),
    pa.int64(),
    pa.float64(),
    pa.date32(),
)
TIMESTAMP = pa.timestamp("us", tz="UTC")
DOC_KEY = "doc"
"""Where PyIceberg looks for a column's description in an Arrow field's metadata."""


@dataclass(frozen=True)
class Column:
    """A column: name, Arrow type, and a description of at most 255 characters, which every catalog accepts."""

    name: str
    type: pa.DataType
    doc: str


@dataclass(frozen=True)
class Table:
    """A table: its name, what one row of it is, and its columns, of which the last, a date, is the partition."""

    name: str
    about: str
    columns: tuple[Column, ...]

    @property
    def partition(self) -> str:
        return self.columns[-1].name

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns without their descriptions: what readers, staging and audits work with."""
        return pa.schema([(column.name, column.type) for column in self.columns])

    @cached_property
    def described_schema(self) -> pa.Schema:
        """The columns with their descriptions, as PyIceberg takes them."""
        return pa.schema(
            [pa.field(column.name, column.type, metadata={DOC_KEY: column.doc}) for column in self.columns]
        )
