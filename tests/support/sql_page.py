"""Writes the tables and views of `sql/README.md` from the descriptions in the code: python -m tests.support.sql_page

The columns are those of the demo's configuration; types are DuckDB's, over an empty warehouse.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from pipeline.analyst.connection import connect
from pipeline.config.settings import load
from pipeline.engines.views import all_views
from pipeline.warehouse.tables import all_tables
from tests.support.places import ROOT

PAGE = ROOT / "sql" / "README.md"
HEADING = "## Tables"
INTRODUCTION = (
    "Of a funnel with the stages click, register and complete, as `pipeline/demo.toml` has it. `users` and "
    "`known_users` also have `time_zone` where the source maps it. All below is written by "
    "`python -m tests.support.sql_page`."
)


def render_page(page: str) -> str:
    """The page with its tables and views as the code describes them; what stands before them stays."""
    return page.partition(HEADING)[0] + "\n".join(_parts()).rstrip() + "\n"


def _parts() -> Iterator[str]:
    with TemporaryDirectory() as folder:
        settings = load(ROOT / "pipeline" / "demo.toml").model_copy(update={"base": Path(folder)})
        tables, views = all_tables(settings).values(), all_views(settings).values()
        yield f"{HEADING}\n\n{INTRODUCTION}\n"
        yield "| table | partition | one row is |\n|---|---|---|"
        yield from (f"| {_link(each.name)} | `{each.partition}` | {_row(each.about)} |" for each in tables)
        yield "\n## Views\n\n| view | one row is |\n|---|---|"
        yield from (f"| {_link(each.name)} | {_row(each.about)} |" for each in views)
        yield "\n## Columns of the tables\n"
        with connect(settings) as connection:
            for table in tables:
                docs = {column.name: column.doc for column in table.columns}
                yield from _section(connection, table.name, table.about, docs)
            yield "## Columns of the views\n"
            for view in views:
                yield from _section(connection, view.name, view.about, view.column_docs)


def _link(name: str) -> str:
    return f"[`{name}`](#{name})"


def _row(about: str) -> str:
    return about[0].lower() + about[1:]


def _section(connection: duckdb.DuckDBPyConnection, name: str, about: str, docs: Mapping[str, str]) -> Iterator[str]:
    yield f"### `{name}`\n\n{about}\n\n| column | type | meaning |\n|---|---|---|"
    types = connection.sql(f'SELECT column_name, column_type FROM (DESCRIBE "{name}")').fetchall()
    for column, kind in types:
        type_ = kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")
        yield f"| `{column}` | {type_} | {docs[column].replace('<', '&lt;')} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
