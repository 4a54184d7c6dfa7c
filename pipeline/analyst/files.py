"""The files that DuckDB may open for an analyst: through a file system that has no way to write.

DuckDB's own access to files is off. What it is given instead knows the files of the pinned tables and those of one
folder, and opens them for reading, so that no statement, however it is put, can change one.
"""

import os
import re
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import duckdb
from fsspec import AbstractFileSystem

PROTOCOL = "funnelcast"
SCHEME = f"{PROTOCOL}://"
LISTS = (".csv", ".tsv", ".txt", ".parquet", ".json", ".jsonl", ".ndjson", ".gz")
"""How the names end of files that a query may name as if they were tables."""


class ReadOnlyFiles(AbstractFileSystem):
    """An fsspec file system for DuckDB, of the addresses `funnelcast://PATH`.

    Args:
        files: absolute paths that can be opened.
        folder: whose files can be opened, too, by paths relative to it.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, files: Iterable[str], folder: Path) -> None:
        super().__init__()
        self._files, self._folder = frozenset(files), folder.resolve()

    def resolve(self, address: str) -> Path:
        """The file of an address.

        Raises:
            FileNotFoundError: there is none that may be opened.
        """
        name = address.removeprefix(SCHEME)
        if name in self._files:
            return Path(name)
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise FileNotFoundError(f"no file of the warehouse and none in the current folder: {name}")
        return path

    def open(self, path: str, mode: str = "rb", **_: Any) -> "SharedFile":
        if mode != "rb":
            _refuse()
        return SharedFile(self.resolve(path))

    def exists(self, path: str, **_: Any) -> bool:
        try:
            return self.resolve(path).is_file()
        except OSError:
            return False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        found = self.resolve(path).stat()
        return {"name": path, "size": found.st_size, "type": "file", "mtime": found.st_mtime}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.resolve(path).stat().st_mtime, UTC)

    def glob(self, path: str, **_: Any) -> list[str]:
        """The address itself: a path of the warehouse is no pattern, whatever is in its name."""
        return [path] if self.exists(path) else []

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        return []

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> NoReturn:
        _refuse()

    def makedirs(self, path: str, exist_ok: bool = False) -> NoReturn:
        _refuse()

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> NoReturn:
        _refuse()

    def rm_file(self, path: str) -> NoReturn:
        _refuse()

    def mv(self, path1: str, path2: str, **_: Any) -> NoReturn:
        _refuse()


class SharedFile:
    """A file that several threads read at once, in either way of DuckDB's threads, which share a handle.

    Some read at a position: they seek and read, in two calls, between which another thread may do the same; a read
    after a seek of its own thread is therefore at that position. Others take turns at reading on from where the last
    of them stopped: a read without such a seek goes on where the last read ended, whoever read.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._size = os.fstat(self._descriptor).st_size
        self._lock = threading.Lock()
        self._sought: dict[int, int] = {}
        self._position = 0
        self.closed = False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._lock:
            start = {os.SEEK_SET: 0, os.SEEK_CUR: self._here(), os.SEEK_END: self._size}[whence]
            self._position = self._sought[threading.get_ident()] = start + offset
            return self._position

    def tell(self) -> int:
        with self._lock:
            return self._here()

    def read(self, size: int = -1) -> bytes:
        with self._lock:
            position = self._here()
            if self._sought.pop(threading.get_ident(), None) is None:
                self._sought.clear()
            wanted = self._size - position if size < 0 else size
            content = os.pread(self._descriptor, max(wanted, 0), position)
            self._position = position + len(content)
            return content

    def _here(self) -> int:
        return self._sought.get(threading.get_ident(), self._position)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)

    def __del__(self) -> None:
        self.close()


def named_lists(query: str | None, files: ReadOnlyFiles) -> list[str]:
    """The files of the current folder that a query names in quotes as if they were tables: `FROM 'my list.csv'`."""
    names: list[str] = []
    quoted = r"(?:\b(?:FROM|JOIN)|,)\s*(?:'((?:[^']|'')+)'|\"((?:[^\"]|\"\")+)\")"
    for single, double in re.findall(quoted, query or "", re.IGNORECASE):
        name = single.replace("''", "'") if single else double.replace('""', '"')
        if name.lower().endswith(LISTS) and name not in names and files.exists(name):
            names.append(name)
    return names


def lock(connection: duckdb.DuckDBPyConnection, *, also: Iterable[str] = ()) -> None:
    """Leave a connection nothing to open but its `ReadOnlyFiles`, with no way to change that.

    Other settings, such as the time zone, can be changed. What does not fit into memory still spills to DuckDB's
    temporary folder.

    Args:
        also: further files, such as those of an object store.
    """
    connection.execute(f"SET allowed_directories = ['{SCHEME}']")
    connection.execute(f"SET allowed_paths = {_list(also)}")
    connection.execute("SET enable_external_access = false")


def _refuse() -> NoReturn:
    raise PermissionError("funnel sql only reads")


def _list(values: Iterable[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"
