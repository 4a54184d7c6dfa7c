"""Where users are named outside the tables: reports, exported lists, and files beside the tables."""

import csv
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq

from pipeline.analyst.connection import connect
from pipeline.config.settings import Settings
from pipeline.erasure.sought import SoughtUsers
from pipeline.errors import describe_error
from pipeline.files import write_atomically
from pipeline.runs.context import Context
from pipeline.runs.erasures import PENDING
from pipeline.warehouse.erasure import Scanned
from pipeline.warehouse.exclusion import state_folder


def scan_reports(settings: Settings, sought: SoughtUsers) -> Scanned:
    """Read the reports; those on another file system are not."""
    return _scan_files(_reports(settings), "reports", sought)


def rewrite_reports(settings: Settings, sought: SoughtUsers) -> Iterator[Path]:
    """Replace the ids in the reports that have any, and yield these reports."""
    for path in _reports(settings):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if sought.is_named(text):
            content = sought.replace(text).encode("utf-8", errors="surrogateescape")
            write_atomically(str(path), content, what=str(path), see="[reports] path", storage={})
            yield path


def scan_rest_of_warehouse(settings: Settings, sought: SoughtUsers, tables: Collection[str]) -> Scanned:
    """Read what lies in the warehouse's folder besides its tables: the catalog, and whatever else somebody left."""
    folder = state_folder(settings)
    if settings.warehouse.catalog or not folder.is_dir():
        return Scanned()
    own = [folder / settings.warehouse.namespace / name for name in tables]
    # The unfinished erasure itself has the ids until the end.
    rest = [
        path
        for path in files_below(folder)
        if path != folder / PENDING and not any(path.is_relative_to(each) for each in own)
    ]
    return _scan_files(rest, "other files of the warehouse", sought)


def find_exports(context: Context, sought: SoughtUsers) -> list[str]:
    """The exported files that list a user: those on record, and those in the folder of the lists."""
    settings = context.settings
    with connect(settings, "exports") as connection:
        paths = {path for (path,) in connection.execute("SELECT DISTINCT path FROM exports").fetchall()}
    folder = settings.resolve(settings.targeting.path)
    local = {Path(each) for each in paths if "://" not in each} | {*files_below(Path(folder))}
    named = [str(path) for path in sorted(local) if path.is_file() and _lists(path, sought)]
    return named + sorted(f"{each} (not looked into)" for each in paths if "://" in each)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []


def why_named(path: Path, sought: SoughtUsers) -> str | None:
    """What of a file names a user; None: nothing does.

    Raises:
        OSError, sqlite3.Error, ValueError: it cannot be read.
    """
    if path.suffix == ".parquet":
        with path.open("rb") as stream:
            return "rows" if any(map(sought.is_in, pq.ParquetFile(stream).iter_batches())) else None
    content = path.read_bytes()
    if content.startswith(b"SQLite format 3\0"):
        return next((f"table {table}" for table, text in _database_texts(path) if sought.is_named(text)), None)
    return "text" if sought.is_named(content.decode("utf-8", errors="replace")) else None


def _reports(settings: Settings) -> list[Path]:
    folder = settings.resolve(settings.reports.path)
    return [] if "://" in folder else files_below(Path(folder))


def _scan_files(paths: Collection[Path], kind: str, sought: SoughtUsers) -> Scanned:
    scanned = Scanned()
    for path in paths:
        scanned.count(kind)
        try:
            if reason := why_named(path, sought):
                scanned.hits.append(f"{path} ({reason})")
        except (OSError, sqlite3.Error, ValueError) as error:
            scanned.unreadable.append(f"{path} ({describe_error(error)[:80]})")
    return scanned


def _database_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Every text of a SQLite database, with its table."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from ((table, each) for each in row if isinstance(each, str))


def _lists(path: Path, sought: SoughtUsers) -> bool:
    """Whether an exported file lists a user."""
    try:
        if path.suffix == ".parquet":
            return why_named(path, sought) is not None
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            return any(cell in sought.ids for row in csv.reader(stream) for cell in row)
    except (OSError, ValueError, csv.Error):
        return False
