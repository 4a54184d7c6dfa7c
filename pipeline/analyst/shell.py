"""`funnel sql` without a query: a prompt on a terminal, otherwise the statements piped in.

Every statement sees the tables as they are when it starts, or as of the one time asked for.
"""

import sqlite3
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import duckdb

from pipeline.analyst.connection import table_and_view_names
from pipeline.analyst.listing import print_columns, print_tables, print_views
from pipeline.analyst.query import Format, run_query
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.warehouse.tables import all_tables

HISTORY = Path.home() / ".funnel_sql_history"
HELP = """\
SELECT ...;         run a query; it may span lines and ends with ;
.tables             list the tables and what they hold
.views              list the views and what one row of each is
.schema NAME        list the columns of a table or view
.format table|csv   choose how results are printed
.quit               leave, as does Ctrl-D"""


def run_shell(settings: Settings, *, format: Format, out: Path | None, at: datetime | None) -> None:
    """Prompt for statements on a terminal; otherwise run those on stdin in turn, up to the first that fails.

    Raises:
        FunnelError: a piped statement is wrong or writes.
    """
    if sys.stdin.isatty():
        Shell(settings, format=format, at=at).run()
        return
    text = sys.stdin.read()
    # One result to a file; several would overwrite one another.
    for statement in [text] if out else _split_statements(text):
        run_query(settings, statement, format=format, out=out, at=at)


class Shell:
    """The prompt, its commands and their settings."""

    def __init__(self, settings: Settings, *, format: Format, at: datetime | None) -> None:
        self._settings = settings
        self._format = format
        self._at = at

    def run(self) -> None:
        """Read and run statements until the user leaves; a mistake prints one line and the prompt returns."""
        _set_up_history_and_completion(self._words())
        tables, views = table_and_view_names(self._settings)
        as_of = f" as of {self._at.isoformat(' ', 'seconds')}" if self._at else ""
        print(f"{len(tables)} tables and {len(views)} views{as_of}, read-only; .help lists the commands")
        while True:
            try:
                statement = self._read()
                if statement in (".quit", ".exit"):
                    return
                self._answer(statement)
            except FunnelError as error:
                print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
            except KeyboardInterrupt:
                print()
            except EOFError:
                print()
                return

    def _read(self) -> str:
        """A command, or lines up to the end of a statement."""
        text = input("funnel> ").strip()
        while text and not text.startswith(".") and not sqlite3.complete_statement(text):
            text += "\n" + input("   ...> ")
        return text

    def _answer(self, statement: str) -> None:
        command, *arguments = statement.split()[:2] or [""]
        if not command.startswith("."):
            for each in _split_statements(statement):
                run_query(self._settings, each, format=self._format, at=self._at)
        elif command == ".tables":
            print_tables(self._settings)
        elif command == ".views":
            print_views(self._settings)
        elif command == ".schema" and arguments:
            print_columns(self._settings, arguments[0])
        elif command == ".format" and arguments in (["table"], ["csv"]):
            self._format = "csv" if arguments == ["csv"] else "table"
        elif command == ".help":
            print(HELP)
        else:
            raise FunnelError(f"no such command: {statement}; .help lists them")

    def _words(self) -> list[str]:
        tables, views = table_and_view_names(self._settings)
        columns = {column for table in all_tables(self._settings).values() for column in table.schema.names}
        return sorted({*tables, *views, *columns})


def _split_statements(text: str) -> list[str]:
    try:
        return [statement.query for statement in duckdb.extract_statements(text)]
    except duckdb.Error as error:
        raise FunnelError(f"funnel sql: {str(error).strip().splitlines()[0]}") from None


def _set_up_history_and_completion(words: Iterable[str]) -> None:
    """Statements of earlier sessions on the arrow keys, names on Tab."""
    try:
        import atexit
        import readline
    except ImportError:
        # Not on Windows.
        return
    with suppress(OSError):
        readline.read_history_file(HISTORY)

    def save() -> None:
        with suppress(OSError):
            readline.write_history_file(HISTORY)

    def complete(start: str, state: int) -> str | None:
        matches = [word for word in words if word.startswith(start)]
        return matches[state] if state < len(matches) else None

    atexit.register(save)
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
