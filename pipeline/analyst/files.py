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
    """A file that several threads read at once: each seeks and reads at a position of its own.

    DuckDB seeks and reads in two calls, and its threads share a handle.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._size = os.fstat(self._descriptor).st_size
        self._of_thread = threading.local()
        self.closed = False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        self._of_thread.position = start + offset
        return start + offset

    def tell(self) -> int:
        return getattr(self._of_thread, "position", 0)

    def read(self, size: int = -1) -> bytes:
        position = self.tell()
        content = os.pread(self._descriptor, self._size - position if size < 0 else size, position)
        self._of_thread.position = position + len(content)
        return content

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
