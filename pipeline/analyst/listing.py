"""What can be queried: the tables, the views, and the columns of either, printed."""

from pipeline.analyst.connection import describe_unknown_name, table_and_view_names
from pipeline.analyst.query import run_query
from pipeline.config.settings import Settings
from pipeline.engines.views import all_views
from pipeline.errors import FunnelError
from pipeline.terminal import TextTable
from pipeline.warehouse.warehouse import Warehouse


def print_tables(settings: Settings) -> None:
    """Print every table that holds rows."""
    table = TextTable("table", "rows", "files", "partitions", "newest", "snapshot", "committed")
    for state in Warehouse.of(settings, read_only=True).states():
        table.add_row(
            state.name,
            f"{state.rows:,}",
            str(state.files),
            str(state.partitions),
            state.newest,
            str(state.snapshot_id),
            f"{state.committed_at:%Y-%m-%d %H:%M:%S}",
        )
    table.print()


def print_views(settings: Settings) -> None:
    """Print every view and what one row of it is."""
    table = TextTable("view", "one row is")
    for view in all_views(settings).values():
        table.add_row(view.name, view.about)
    table.print()


def print_columns(settings: Settings, name: str) -> None:
    """Print the columns of a table or view and their types.

    Raises:
        FunnelError: no table or view has this name.
    """
    if name not in [each for kind in table_and_view_names(settings) for each in kind]:
        raise FunnelError(describe_unknown_name(name, settings))
    run_query(settings, f'SELECT column_name AS "column", column_type AS "type" FROM (DESCRIBE "{name}")')
