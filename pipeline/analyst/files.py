"""The files that DuckDB may open for an analyst: through a file system that has no way to write.

DuckDB's own access to files is off. What it is given instead knows the files of the pinned tables, wherever these lie,
and those of one folder, and opens them for reading, so that no statement, however it is put, can change one.
"""

import os
import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pyarrow as pa
from fsspec import AbstractFileSystem

PROTOCOL = "funnelcast"
SCHEME = f"{PROTOCOL}://"
LISTS = (".csv", ".tsv", ".txt", ".parquet", ".json", ".jsonl", ".ndjson", ".gz")
"""How the names end of files that a query may name as if they were tables."""
SMALL_BYTES = 2**20
"""Up to this size, one request for a whole file is faster than several for its parts."""
KEPT_BYTES = 2**28
"""Of such files in memory, all together."""


class ReadOnlyFiles(AbstractFileSystem):
    """An fsspec file system for DuckDB, of the addresses `funnelcast://PATH`.

    Args:
        files: absolute paths and addresses that can be opened; of each that is not of this machine, what opens it.
        folder: whose files can be opened, too, by paths relative to it.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self, files: Mapping[str, Callable[[], pa.NativeFile] | None], folder: Path) -> None:
        super().__init__()
        self._files, self._folder = files, folder.resolve()
        self._remote: dict[str, pa.NativeFile] = {}
        self._kept_bytes = 0

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
        return SharedFile(self._open_remote(path) or LocalFile(self.resolve(path)))

    def _open_remote(self, address: str) -> pa.NativeFile | None:
        """A file elsewhere, which is asked for once: it never changes. One that is small is fetched whole."""
        name = address.removeprefix(SCHEME)
        open_it = self._files.get(name)
        if open_it is None:
            return None
        if name not in self._remote:
            file = open_it()
            if file.size() <= SMALL_BYTES and self._kept_bytes + file.size() <= KEPT_BYTES:
                content = file.read()
                self._kept_bytes += len(content)
                file = pa.BufferReader(content)
            self._remote[name] = file
        return self._remote[name]

    def exists(self, path: str, **_: Any) -> bool:
        if self._files.get(path.removeprefix(SCHEME)):
            return True
        try:
            return self.resolve(path).is_file()
        except OSError:
            return False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if remote := self._open_remote(path):
            return {"name": path, "size": remote.size(), "type": "file", "mtime": 0.0}
        found = self.resolve(path).stat()
        return {"name": path, "size": found.st_size, "type": "file", "mtime": found.st_mtime}

    def modified(self, path: str) -> datetime:
        if self._files.get(path.removeprefix(SCHEME)):
            return datetime.fromtimestamp(0, UTC)
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


class LocalFile:
    """A file of this machine, to be read at positions."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read_at(self, size: int, position: int) -> bytes:
        return os.pread(self._descriptor, size, position)

    def __del__(self) -> None:
        # Not there if the file could not be opened.
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


class SharedFile:
    """A view of a file that several threads read at once, in either way of DuckDB's threads, which share a handle.

    Some read at a position: they seek and read, in two calls, between which another thread may do the same; a read
    after a seek of its own thread is therefore at that position. Others take turns at reading on from where the last
    of them stopped: a read without such a seek goes on where the last read ended, whoever read.
    """

    def __init__(self, file: LocalFile | pa.NativeFile) -> None:
        self._file, self._size = file, file.size()
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
            content: bytes = self._file.read_at(min(max(wanted, 0), max(self._size - position, 0)), position)
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
        # The file itself may be shared; it is closed when nothing refers to it.
        self.closed = True


def named_lists(query: str | None, files: ReadOnlyFiles) -> list[str]:
    """The files of the current folder that a query names in quotes as if they were tables: `FROM 'my list.csv'`."""
    names: list[str] = []
    quoted = r"(?:\b(?:FROM|JOIN)|,)\s*(?:'((?:[^']|'')+)'|\"((?:[^\"]|\"\")+)\")"
    for single, double in re.findall(quoted, query or "", re.IGNORECASE):
        name = single.replace("''", "'") if single else double.replace('""', '"')
        if name.lower().endswith(LISTS) and name not in names and files.exists(name):
            names.append(name)
    return names


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Leave a connection nothing to open but its `ReadOnlyFiles`, with no way to change that.

    Other settings, such as the time zone, can be changed. What does not fit into memory still spills to DuckDB's
    temporary folder.
    """
    connection.execute(f"SET allowed_directories = ['{SCHEME}']")
    connection.execute("SET enable_external_access = false")


def _refuse() -> NoReturn:
    raise PermissionError("funnel sql only reads")
