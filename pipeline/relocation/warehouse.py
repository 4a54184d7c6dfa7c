"""Moves, copies and takes over whole warehouses of the default catalog: all tables first, then the catalog at once."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from pipeline.errors import FunnelError, describe_error
from pipeline.relocation.tables import Move, rewrite_table
from pipeline.warehouse.catalog import cannot_be_opened, read_own_entries, root_of
from pipeline.warehouse.copies import keep_copy, renew_copies
from pipeline.warehouse.damage import read_metadata
from pipeline.warehouse.local_catalog import CATALOG, DATABASE, ENTRIES, Entry
from pipeline.warehouse.moved import note_move

DRAFT = "catalog.db.unfinished"
"""The catalog of a copy until everything in it is there: a run that was killed goes on where this lies."""
_SWITCH = """
UPDATE iceberg_tables SET metadata_location = ?, previous_metadata_location = NULL
WHERE catalog_name = ? AND table_namespace = ? AND table_name = ? AND metadata_location = ?
"""


@dataclass(frozen=True)
class Moved:
    """What was moved: the tables, and all files they consist of in their new place."""

    tables: Sequence[str]
    files: Sequence[Path]


@contextmanager
def as_one_line_error() -> Iterator[None]:
    """Report a disk or a catalog that cannot be read or written as one line.

    Raises:
        FunnelError: in place of the error.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else describe_error(error)
        raise FunnelError(
            f"the company cannot be moved, copied or recovered: {reason}; nothing was switched"
        ) from error


def relocate_in_place(warehouse: Path) -> Moved:
    """Make the tables in a folder that was copied or moved those of this folder.

    The catalog switches in one transaction, after the last table is rewritten and verified. A run that is killed before
    leaves nothing but new files that nobody names.

    Raises:
        FunnelError: there is no catalog, a file is missing, or somebody committed meanwhile.
    """
    database = warehouse / DATABASE
    entries = _require_entries(warehouse)
    pairs, files = _rewrite(entries, warehouse, warehouse)
    with _open(database) as connection:
        _switch(connection, pairs)
    renew_copies(database)
    return Moved([entry.name for entry, _ in pairs], files)


def copy_warehouse(source: Path, target: Path, *, retire: bool = False) -> Moved:
    """Copy the tables of one folder into another, as they are now, and make them those of the other.

    Args:
        source: may have been moved or copied itself since its catalog was written.
        target: new or empty, or what a killed run left.
        retire: take the source's catalog out of use at the switch, so that nobody commits to it afterwards.

    Raises:
        FunnelError: the target holds something else, a file is missing, or, when it is retired, the source was written
            meanwhile.
    """
    begin_copy(source, target, target)
    draft = target / DRAFT
    with _open(source / DATABASE) as origin, closing(sqlite3.connect(draft)) as copy:
        origin.backup(copy)
    entries = read_own_entries(draft)
    pairs, files = _rewrite(entries, source, target)
    with _open(draft) as connection:
        _switch(connection, pairs)
    if not retire:
        draft.rename(target / DATABASE)
        keep_copy(target / DATABASE)
        return Moved([entry.name for entry in entries], [*files, target / DATABASE])
    with _open(source / DATABASE) as origin:
        # Until the old catalog is out of the way, nobody else can commit to it.
        origin.execute("BEGIN EXCLUSIVE")
        if _read_locked(origin) != entries:
            raise FunnelError(f"{source} was written while it was copied: nothing was switched, run this again")
        draft.rename(target / DATABASE)
        note_move(source, target)
        # Its rows, not its file: a writer that has the file open could still commit to it.
        origin.execute("DELETE FROM iceberg_tables WHERE catalog_name = ?", (CATALOG,))
        origin.execute("COMMIT")
    keep_copy(target / DATABASE)
    return Moved([entry.name for entry in entries], [*files, target / DATABASE])


def replace_entry(database: Path, entry: Entry, location: str) -> None:
    """Make a catalog name another metadata file for a table.

    Raises:
        FunnelError: the table was written meanwhile.
    """
    with _open(database) as connection:
        _switch(connection, [(entry, location)])


def begin_copy(source: Path, target: Path, folder: Path) -> None:
    """Mark a folder as one that is copied into, which it stays until the copy's catalog is in place.

    Args:
        folder: holds the target, and whatever else is copied: new or empty, or marked by a run that was killed.

    Raises:
        FunnelError: the folder holds something else, or the source has no tables.
    """
    _require_entries(source)
    draft = target / DRAFT
    if folder.exists() and any(folder.iterdir()) and not draft.exists():
        raise FunnelError(f"{folder} is not empty: move it away, or name another folder")
    target.mkdir(parents=True, exist_ok=True)
    draft.touch()


def _read_locked(connection: sqlite3.Connection) -> list[Entry]:
    """The tables of a catalog, through a connection that holds its lock."""
    return [Entry(*row) for row in connection.execute(ENTRIES, (CATALOG,))]


def _rewrite(entries: Sequence[Entry], source: Path, target: Path) -> tuple[list[tuple[Entry, str]], list[Path]]:
    pairs: list[tuple[Entry, str]] = []
    files: list[Path] = []
    for entry in entries:
        folder, new = source / entry.namespace / entry.name, f"{root_of(str(target))}/{entry.namespace}/{entry.name}"
        metadata_file = _find_metadata(folder, entry)
        metadata = read_metadata(str(metadata_file))
        if isinstance(metadata, str):
            raise FunnelError(
                f"table {entry.name!r} cannot be moved: its metadata file {metadata_file} {metadata}; nothing was "
                "switched. `funnel warehouse recover` goes back to the last one that is whole"
            )
        if (metadata.location, entry.location) == (new, new):
            continue
        location, its_files = rewrite_table(metadata_file, Move(entry.name, metadata.location, new, folder))
        pairs.append((entry, location))
        files += its_files
    return pairs, files


def _find_metadata(folder: Path, entry: Entry) -> Path:
    move = Move(entry.name, entry.location, entry.location, folder)
    return move.find(entry.metadata)


def _switch(connection: sqlite3.Connection, pairs: Sequence[tuple[Entry, str]]) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for entry, location in pairs:
            key = (location, CATALOG, entry.namespace, entry.name, entry.metadata)
            if connection.execute(_SWITCH, key).rowcount != 1:
                raise FunnelError(f"table {entry.name!r} was written meanwhile: nothing was switched, run this again")


def _require_entries(warehouse: Path) -> list[Entry]:
    entries = read_own_entries(warehouse / DATABASE)
    if not entries:
        raise FunnelError(
            f"{warehouse} has no catalog with tables; `funnel warehouse recover` makes one of tables that are there"
        )
    return entries


@contextmanager
def _open(database: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=30)) as connection:
            connection.isolation_level = None
            yield connection
    except sqlite3.Error as error:
        raise cannot_be_opened(str(database.parent), error) from None
