"""Copies of the default catalog: one after each commit, of which the last five stay.

The catalog is a small SQLite file that says which metadata file each table is at. A lost or damaged one is made again
from its copies: what they name was committed, while a newer metadata file may be that of a commit that lost its race.
"""

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import CommitTableResponse, Table

from pipeline.warehouse.local_catalog import Entry, read_entries

FOLDER = "catalog-copies"
KEPT = 5
_UNFINISHED = ".unfinished"
_log = logging.getLogger(__name__)


class CopiedCatalog(SqlCatalog):
    """PyIceberg's catalog in a local SQLite file, of which a copy is kept after each commit.

    Args:
        database: that file.
        properties: as `SqlCatalog` takes them.
    """

    def __init__(self, name: str, database: Path, **properties: str) -> None:
        super().__init__(name, **properties)
        self._database = database

    def commit_table(self, *given: Any, **named: Any) -> CommitTableResponse:
        response = super().commit_table(*given, **named)
        keep_copy(self._database)
        return response

    def create_table(self, *given: Any, **named: Any) -> Table:
        table = super().create_table(*given, **named)
        keep_copy(self._database)
        return table


def keep_copy(database: Path) -> None:
    """Copy a catalog as its last commit left it, and drop all but the newest `KEPT` copies.

    What cannot be copied is logged: the commit itself is done.
    """
    folder = database.with_name(FOLDER)
    now = datetime.now(UTC)
    copy = folder / f"{now:%Y%m%dT%H%M%S.%f}-{os.getpid()}.db"
    unfinished = copy.with_name(copy.name + _UNFINISHED)
    try:
        folder.mkdir(exist_ok=True)
        # Not `ro`: SQLite could not roll back what a killed writer left half done.
        uri = f"file:{quote(str(database))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True)) as origin, closing(sqlite3.connect(unfinished)) as target:
            origin.backup(target)
        shutil.copymode(database, unfinished)
        unfinished.rename(copy)
        for old in _newest_first(folder)[KEPT:]:
            old.unlink(missing_ok=True)
        for left in folder.glob(f"*{_UNFINISHED}"):
            # Of a writer that was killed; what another writes now is younger.
            if now.timestamp() - left.stat().st_mtime > 3_600:
                left.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        _log.warning("no copy of the catalog %s was kept: %s", database, error)


def renew_copies(database: Path) -> None:
    """Keep a copy of a catalog that was written anew, and none of what it was before."""
    shutil.rmtree(database.with_name(FOLDER), ignore_errors=True)
    keep_copy(database)


def copied_entries(warehouse: Path) -> Iterator[Entry]:
    """The tables as the copies of a warehouse's catalog have them, those of the newest copy first; damaged copies have
    none.
    """
    for copy in _newest_first(warehouse / FOLDER):
        with suppress(sqlite3.Error, OSError), closing(sqlite3.connect(copy)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() == ("ok",):
                yield from read_entries(copy)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.db"), reverse=True)
