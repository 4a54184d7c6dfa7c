"""Moves and copies the local model registry: MLflow keeps absolute addresses of its artifacts, too."""

import sqlite3
from contextlib import closing
from pathlib import Path

from pipeline.models.tracking import DATABASE, local_folder
from pipeline.relocation.tables import copy_verified


def registry_root(models: Path, name: str) -> Path | None:
    """The folder that a registry's addresses begin with; None if it has no experiment of this name yet."""
    database = models / DATABASE
    if not database.exists():
        return None
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (name,)).fetchone()
    return local_folder(found[0]).parent if found else None


def rewrite_registry(database: Path, old: Path, new: Path) -> int:
    """Replace a folder by another in every address of a registry's database, in one transaction; returns how many."""
    changed = 0
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
            for table, column in _text_columns(connection):
                changed += connection.execute(
                    f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '
                    f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                    (after, len(before) + 1, before, len(before) + 1, f"{before}/"),
                ).rowcount
    return changed


def copy_registry(source: Path, target: Path, name: str) -> list[Path]:
    """Copy a registry with its bundles and make the copy's addresses its own; returns the copied files."""
    root = registry_root(source, name)
    files = copy_folder(source, target, without=(DATABASE, f"{DATABASE}.lock"))
    draft = target / f".{DATABASE}.copy"
    draft.unlink(missing_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source / DATABASE, timeout=30)) as origin, closing(sqlite3.connect(draft)) as copy:
        origin.backup(copy)
    if root:
        rewrite_registry(draft, root, target)
    draft.rename(target / DATABASE)
    return [*files, target / DATABASE]


def copy_folder(source: Path, target: Path, *, without: tuple[str, ...] = ()) -> list[Path]:
    """Copy those of a folder's files that are not there yet, each compared by its SHA-256; returns the copies."""
    found = sorted(path for path in source.rglob("*") if path.is_file() and path.name not in without)
    copies = []
    for path in found:
        copies.append(target / path.relative_to(source))
        if not copies[-1].exists():
            copy_verified(path, copies[-1])
    return copies


def _text_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return [
        (table, column[1])
        for table in tables
        for column in connection.execute(f'PRAGMA table_info("{table}")')
        if "CHAR" in column[2].upper() or "TEXT" in column[2].upper()
    ]
