"""CSV of a query's result that is safe to open in a spreadsheet and can be read back exactly.

Text that a spreadsheet would take for a formula gets an apostrophe in front, and so does text that begins with
apostrophes and goes on like a formula. Whoever reads the file takes one apostrophe off where a cell begins with
apostrophes followed by = + - @, a tab or the end of a line. Signed numbers are left alone.
"""

import re
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.errors import FunnelError
from pipeline.text import FORMULA, SIGNED_NUMBER, show

_PLAIN = {"boolean", "tinyint", "smallint", "integer", "bigint", "hugeint", "float", "double", "decimal", "varchar"}
"""DuckDB types that CSV shows as they are."""


_MARKED = f"^'*{FORMULA}"


class FormulaMarks:
    """Puts an apostrophe before text that a spreadsheet would take for a formula, and counts how often."""

    def __init__(self) -> None:
        self.count = 0
        self.example = ""

    def mark_name(self, name: str) -> str:
        if not re.match(_MARKED, name) or re.fullmatch(SIGNED_NUMBER, name):
            return name
        self._note(1, name)
        return f"'{name}"

    def mark_column(self, column: pa.Array) -> pa.Array:
        if not pa.types.is_string(column.type):
            return column
        is_number = pc.match_substring_regex(column, SIGNED_NUMBER)
        is_marked = pc.and_not(pc.match_substring_regex(column, _MARKED), is_number)
        count = pc.sum(is_marked).as_py() or 0
        if not count:
            return column
        self._note(count, column.filter(is_marked)[0].as_py())
        return pc.if_else(is_marked, pc.binary_join_element_wise("'", column, ""), column)

    def _note(self, count: int, example: str) -> None:
        self.example = self.example or example
        self.count += count


def write_csv(result: duckdb.DuckDBPyRelation, out: Path | None) -> None:
    """Write a result to a file, or to the standard output, as CSV; tell on stderr what got an apostrophe.

    On a terminal, control characters are escaped.

    Raises:
        FunnelError: the file cannot be written.
    """
    # Arrow's writer knows neither maps nor lists, and would print times in UTC.
    columns = (
        f'#{position}{"" if kind.id in _PLAIN else "::VARCHAR"} AS "{name.replace(chr(34), chr(34) * 2)}"'
        for position, (name, kind) in enumerate(zip(result.columns, result.types, strict=True), start=1)
    )
    rows = result.project(", ".join(columns)).to_arrow_reader()
    marks, is_terminal = FormulaMarks(), out is None and sys.stdout.isatty()
    names = [marks.mark_name(name) for name in rows.schema.names]
    schema = pa.schema(
        [field.with_name(show(name) if is_terminal else name) for field, name in zip(rows.schema, names, strict=True)]
    )
    try:
        with pyarrow.csv.CSVWriter(sys.stdout.buffer if out is None else str(out), schema) as writer:
            for batch in rows:
                cells = [marks.mark_column(column) for column in batch.columns]
                shown = [_escape(column) for column in cells] if is_terminal else cells
                writer.write_batch(pa.RecordBatch.from_arrays(shown, schema=schema))
    except FileNotFoundError as error:
        raise FunnelError(f"--out {out}: the file cannot be written: {error}") from None
    if marks.count:
        print(
            f"{marks.count:,} texts that a spreadsheet would take for formulas got an apostrophe in front, such as "
            f"{show(repr(marks.example))}; --format parquet writes them as they are",
            file=sys.stderr,
        )


def _escape(column: pa.Array) -> pa.Array:
    if not pa.types.is_string(column.type):
        return column
    return pa.array([None if text is None else show(text) for text in column.to_pylist()], pa.string())
