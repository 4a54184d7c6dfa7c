"""Tells whether a statement reads: one that writes could harm nothing (`files.py`), but is told so in one line."""

import re

import duckdb

from pipeline.errors import FunnelError

_EXPLAIN = re.compile(r"\s*EXPLAIN(\s+ANALYZE)?\b", re.IGNORECASE)
_WRITING = re.compile(r'"type":"[A-Z_]+_QUERY_NODE"')
"""In a parsed SELECT: a WITH that inserts, updates, deletes or copies to a file. Quotes within text are escaped."""


def parse_select(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """The one reading statement of a text: SELECT and its relatives, or EXPLAIN of one.

    Raises:
        FunnelError: the text has none or several, or writes, even within a WITH.
        duckdb.Error: the text cannot be parsed.
    """
    # EXPLAIN ANALYZE runs what it explains.
    explained = _EXPLAIN.sub("", text, count=1) if _EXPLAIN.match(text) else text
    try:
        kinds = [statement.type for statement in connection.extract_statements(explained)]
    except ValueError:
        # A kind for which DuckDB's Python has no name, such as UPDATE EXTENSIONS.
        kinds = []
    if kinds == [duckdb.StatementType.MULTI]:
        # DuckDB splits it into several statements, the first of which creates a type.
        raise FunnelError("funnel sql takes one SELECT; a PIVOT has to list its values: ON stage IN ('click', …)")
    if kinds != [duckdb.StatementType.SELECT]:
        raise FunnelError("funnel sql only reads and takes one SELECT")
    ((parsed,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [explained]).fetchall()
    if _WRITING.search(parsed):
        raise FunnelError("funnel sql only reads: a WITH may not INSERT, UPDATE, DELETE or COPY")
    return _strip_end(text)


def _strip_end(text: str) -> str:
    """Drop the final ; and the comments around it: DuckDB's relations reject a comment after the ;."""
    whole = text.encode()
    for start, kind in reversed(duckdb.tokenize(text)):
        if kind != duckdb.token_type.comment and whole[start : start + 1] != b";":
            break
        whole = whole[:start]
    return whole.decode()
