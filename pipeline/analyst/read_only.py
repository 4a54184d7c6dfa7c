"""What analysts' SQL may do: read. DuckDB's parser says what a statement is, its settings what files it can open."""

import re
from collections.abc import Iterable

import duckdb

from pipeline.errors import FunnelError

_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?\b", re.IGNORECASE)
_WRITING = re.compile(r'"type":"[A-Z_]+_QUERY_NODE"')
"""Of a parsed SELECT: a WITH that inserts, updates, deletes or copies to a file. In text, quotes are escaped."""


def one_select(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """The one statement of a text, which reads: SELECT and its relatives, or EXPLAIN of one.

    Raises:
        FunnelError: it is none or several, or writes, be it within a WITH.
        duckdb.Error: it cannot be parsed.
    """
    # EXPLAIN ANALYZE runs what it explains.
    explained = _EXPLAIN.sub("", text, count=1) if _EXPLAIN.match(text) else text
    kinds = [statement.type for statement in connection.extract_statements(explained)]
    if kinds == [duckdb.StatementType.MULTI]:
        # DuckDB makes several statements of it, the first of which creates a type.
        raise FunnelError("funnel sql takes one SELECT; a PIVOT has to list its values: ON stage IN ('click', …)")
    if kinds != [duckdb.StatementType.SELECT]:
        raise FunnelError("funnel sql only reads and takes one SELECT")
    ((parsed,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [explained]).fetchall()
    if _WRITING.search(parsed):
        raise FunnelError("funnel sql only reads: a WITH may not INSERT, UPDATE, DELETE or COPY")
    return _without_end(text)


def lock(connection: duckdb.DuckDBPyConnection, *, files: Iterable[str], folders: Iterable[str]) -> None:
    """Leave a connection nothing to open but these files and what is in these folders, and no way to change that."""
    connection.execute(f"SET allowed_paths = {_list(files)}")
    connection.execute(f"SET allowed_directories = {_list(folders)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _without_end(text: str) -> str:
    """Without what follows a statement: DuckDB's relations take a comment after the ; for a mistake."""
    whole = text.encode()
    for start, kind in reversed(duckdb.tokenize(text)):
        if kind != duckdb.token_type.comment and whole[start : start + 1] != b";":
            break
        whole = whole[:start]
    return whole.decode()


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"
