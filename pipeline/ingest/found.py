"""Looks for a source's files in the file system that Spark reads, or in the object store that it sees a mirror of."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow.fs import FileInfo, FileType
from pyspark.sql import SparkSession

from pipeline.config.settings import Settings
from pipeline.engines.mirror import find_mirror, transfer, write_whole
from pipeline.errors import FunnelError
from pipeline.ingest.listing import day_pattern
from pipeline.stores import explain_store_error, list_below, open_location

HIDDEN = (".", "_")
"""What the names begin with of files and folders that Spark does not read."""


@dataclass(frozen=True)
class Found:
    """A file or a folder; a path of Hadoop's is an escaped URI."""

    path: str
    is_file: bool

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]


def find_files(spark: SparkSession, settings: Settings, pattern: str) -> list[Found]:
    """What there is, by one of Hadoop's globs, where Spark would read it.

    Raises:
        FunnelError: the object store does not answer, or refuses.
    """
    if find_mirror(spark, pattern):
        return [Found(address, entry.is_file) for address, entry in _match(settings, pattern)]
    path = spark._jvm.org.apache.hadoop.fs.Path(pattern)  # type: ignore[union-attr]
    conf = spark._jsparkSession.sessionState().newHadoopConf()
    listed = path.getFileSystem(conf).globStatus(path) or ()
    return [Found(each.getPath().toString(), each.isFile()) for each in listed]


def fetch_sources(spark: SparkSession, settings: Settings, patterns: Iterable[str]) -> None:
    """Let Spark see the files at and below these paths as they are now, if it reads a mirror of their store.

    Raises:
        FunnelError: the object store does not answer, or refuses; or there is no room for the files here.
    """
    storage = settings.storage.iceberg
    wanted: dict[Path, tuple[str, FileInfo]] = {}
    folders: set[Path] = set()
    for pattern in patterns:
        if find_mirror(spark, pattern) is None:
            continue
        for address, entry in _match(settings, pattern):
            here = find_mirror(spark, address)
            assert here is not None
            folders.add(here)
            below = [(address, entry)] if entry.is_file else _list(settings, address)
            wanted |= {
                here if each == address else here / each.removeprefix(f"{address.rstrip('/')}/"): (each, found)
                for each, found in below
                if found.type == FileType.File and not _is_hidden(each.removeprefix(address))
            }
    for folder in folders:
        for path in folder.rglob("*"):
            # Taken away at the source since it was fetched.
            if path.is_file() and path not in wanted:
                path.unlink()
    stale = [(path, *entry) for path, entry in wanted.items() if not _is_current(path, entry[1])]

    def fetch(file: tuple[Path, str, FileInfo]) -> None:
        here, address, entry = file
        system, path = open_location(address, storage)
        with system.open_input_stream(path, compression=None) as source:
            write_whole(here, source)
        # Spark's readers can be told to look at it.
        os.utime(here, ns=(entry.mtime_ns or 0, entry.mtime_ns or 0))

    transfer(stale, fetch)


def _is_current(path: Path, entry: FileInfo) -> bool:
    if not path.is_file():
        return False
    here = path.stat()
    return here.st_size == entry.size and here.st_mtime_ns == entry.mtime_ns


def _is_hidden(below: str) -> bool:
    return any(part.startswith(HIDDEN) and "=" not in part for part in below.split("/") if part)


def _match(settings: Settings, pattern: str) -> Iterator[tuple[str, FileInfo]]:
    """The files and folders in an object store whose addresses are what one of Hadoop's globs says, in order."""
    plain = re.match(r"[^*?\[{\\]*", pattern)
    assert plain is not None
    is_glob = plain[0] != pattern
    start = plain[0].rpartition("/")[0] if is_glob else pattern.rstrip("/")
    matches = re.compile(day_pattern(pattern.rstrip("/")))
    for address, entry in sorted(_list(settings, start), key=lambda each: each[0]):
        if matches.fullmatch(address.rstrip("/")) and (is_glob or address.rstrip("/") == start):
            yield address, entry


def _list(settings: Settings, address: str) -> list[tuple[str, FileInfo]]:
    """What is at and below an address of an object store, each with its own address."""
    scheme = address.partition("://")[0]
    try:
        found = list_below(address, settings.storage.iceberg)
    except (OSError, ValueError) as error:
        raise explain_store_error(error) or FunnelError(f"{address} cannot be looked at: {error}") from None
    return [(f"{scheme}://{each.path}", each) for each in found]
