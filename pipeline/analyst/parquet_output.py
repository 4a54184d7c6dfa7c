"""A query's result as a Parquet file, which appears once it is whole."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import duckdb
import pyarrow.parquet as pq

from pipeline.errors import FunnelError

_AS_WRITTEN = {"hugeint": "DOUBLE", "uhugeint": "DOUBLE"} | dict.fromkeys(
    ("interval", "bit", "union", "time with time zone"), "VARCHAR"
)
"""DuckDB types that Parquet lacks, and what they become; sums of whole numbers are HUGEINT."""


def write_parquet(result: duckdb.DuckDBPyRelation, out: Path) -> None:
    """Write a result to a file; one that is there is replaced.

    Raises:
        FunnelError: the file cannot be written.
    """
    columns = (
        f"#{position}{f'::{_AS_WRITTEN[kind.id]}' if kind.id in _AS_WRITTEN else ''} "
        f'AS "{name.replace(chr(34), chr(34) * 2)}"'
        for position, (name, kind) in enumerate(zip(result.columns, result.types, strict=True), start=1)
    )
    rows = result.project(", ".join(columns)).to_arrow_reader()
    draft = out.with_name(f".{out.name}.{uuid4().hex}")
    try:
        with pq.ParquetWriter(draft, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)
        draft.replace(out)
    except OSError as error:
        raise FunnelError(f"--out {out}: the file cannot be written: {error}") from None
    finally:
        with suppress(OSError):
            draft.unlink()
