"""What of a table is missing or damaged: its metadata, its manifests, its data files; each told in one line."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, ManifestFile, read_manifest_list
from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from pipeline.errors import FunnelError, describe_error
from pipeline.stores import explain_store_error
from pipeline.warehouse.failures import is_of_catalog
from pipeline.warehouse.local_catalog import LocalFiles
from pipeline.warehouse.places import as_path

VERSION = re.compile(r"(\d+)-[^/]*\.metadata\.json$")
"""PyIceberg's names of metadata files: the number of the commit, then a UUID."""
Kind = Literal["metadata file", "manifest list", "manifest", "data file"]
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Damage:
    """A file of a table that is not as the table says, and why.

    Of a data file, `day` is its partition and `rows` are how many are lost with it.
    """

    kind: Kind
    path: str
    reason: str
    day: date | None = None
    rows: int = 0

    def __str__(self) -> str:
        lost = f" with {self.rows:,} rows of {self.day}" if self.day else ""
        return f"{self.kind} {as_path(self.path) or self.path}{lost} {self.reason}"


def describe(table: str, damage: Damage) -> str:
    """Describe one table's damage in one line: what is lost, and how to go on."""
    ways = {
        "metadata file": "`funnel warehouse recover` registers the last one that is whole",
        "data file": f"put it back from a backup, or run the night of {damage.day} again, which writes its rows anew; "
        "`funnel doctor --deep` reads every file",
    }
    way = ways.get(damage.kind, "`funnel warehouse recover` goes back to the last state whose files are all there")
    return f"table {table!r} is damaged: {damage}; {way}"


def data_damage(files: Iterable[DataFile], io: FileIO, *, deep: bool) -> Iterator[Damage]:
    """The data files that are missing or not as long as when they were written.

    Args:
        deep: also read each file's footer and compare its rows.
    """
    for file in files:
        if reason := _why_unreadable(file, io, deep=deep):
            yield Damage("data file", file.file_path, reason, _day(file), file.record_count)


def find_damage(metadata: TableMetadata, io: FileIO, snapshots: Iterable[Snapshot], *, deep: bool) -> Iterator[Damage]:
    """What is missing or damaged of these snapshots, each file once."""
    seen: set[str] = set()
    for snapshot in snapshots:
        listed = _read(partial(_manifests, snapshot, io))
        if isinstance(listed, str):
            yield Damage("manifest list", snapshot.manifest_list, listed)
            continue
        for manifest in listed:
            if manifest.manifest_path in seen:
                continue
            seen.add(manifest.manifest_path)
            files = _read(partial(_data_files, manifest, io))
            if isinstance(files, str):
                yield Damage("manifest", manifest.manifest_path, files)
                continue
            fresh = [file for file in files if file.file_path not in seen]
            seen.update(file.file_path for file in fresh)
            yield from data_damage(fresh, io, deep=deep)


def files_at(location: str, io: FileIO) -> FileIO:
    """What opens a table's files: plain Python where they are local, which reads what is there now."""
    return io if as_path(location) is None else LocalFiles()


def metadata_files(table: Path) -> list[Path]:
    """The metadata files in a table's folder, the newest first."""
    found = [(int(named[1]), path) for path in (table / "metadata").glob("*.metadata.json") if (named := _named(path))]
    return [path for _, path in sorted(found, key=lambda each: (each[0], each[1].stat().st_mtime_ns), reverse=True)]


def version_of(path: str) -> int:
    """The number of the commit that wrote a metadata file; -1 if its name does not tell."""
    named = VERSION.search(path)
    return int(named[1]) if named else -1


def read_metadata(location: str) -> TableMetadata | str:
    """A local table's metadata, or why it cannot be read."""
    return _read(lambda: FromInputFile.table_metadata(LocalFiles().new_input(location)))


def has_rows(table: Path) -> datetime | None:
    """When the table whose files are in a folder was last committed; None if nothing ever was."""
    for path in metadata_files(table):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("current-snapshot-id") not in (None, -1):
                return datetime.fromtimestamp(content["last-updated-ms"] / 1000, UTC)
        except (OSError, ValueError, AttributeError, KeyError):
            continue
    return None


class _HasDamage(Protocol):
    def damage_of(self, name: str) -> Damage | None: ...


S = TypeVar("S", bound=_HasDamage)


def names_damage(method: Callable[Concatenate[S, str, P], R]) -> Callable[Concatenate[S, str, P], R]:
    """Decorator for what reads a table by name: if it fails, tell which of the table's files is missing or damaged.

    Raises:
        FunnelError: in place of the error, if a file is.
    """

    @wraps(method)
    def wrapped(self: S, name: str, *args: P.args, **options: P.kwargs) -> R:
        try:
            return method(self, name, *args, **options)
        except Exception as error:
            if is_of_catalog(error):
                raise
            if found := explain_store_error(error):
                raise found from error
            if damage := self.damage_of(name):
                raise FunnelError(describe(name, damage)) from error
            raise

    return wrapped


def _read(read: Callable[[], R]) -> R | str:
    """What can be read, or why it cannot: a damaged Avro or JSON file fails in ways that no library promises.

    Raises:
        FunnelError: an object store does not answer, or refuses.
    """
    try:
        return read()
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return _why_refused(error)
    except Exception as error:
        return f"is damaged ({describe_error(error)[:80]})"


def _why_refused(error: OSError) -> str:
    """Why a file that is there cannot be read. An object store that is away says nothing about its files."""
    if found := explain_store_error(error):
        raise found from error
    return f"cannot be read ({error.strerror or describe_error(error)})"


def _manifests(snapshot: Snapshot, io: FileIO) -> list[ManifestFile]:
    return list(read_manifest_list(io.new_input(snapshot.manifest_list)))


def _data_files(manifest: ManifestFile, io: FileIO) -> list[DataFile]:
    return [entry.data_file for entry in manifest.fetch_manifest_entry(io)]


def _why_unreadable(file: DataFile, io: FileIO, *, deep: bool) -> str | None:
    source = io.new_input(file.file_path)
    try:
        size = len(source)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return _why_refused(error)
    if size != file.file_size_in_bytes:
        return f"has {size:,} bytes instead of {file.file_size_in_bytes:,}"
    if not deep:
        return None

    def count() -> int:
        with source.open() as stream:
            return int(pq.read_metadata(stream).num_rows)

    rows = _read(count)
    if isinstance(rows, str):
        return rows
    return None if rows == file.record_count else f"has {rows:,} rows instead of {file.record_count:,}"


def _day(file: DataFile) -> date | None:
    first: Any = file.partition[0] if len(file.partition) else None
    return date(1970, 1, 1) + timedelta(days=first) if isinstance(first, int) else None


def _named(path: Path) -> re.Match[str] | None:
    return VERSION.search(path.name)
