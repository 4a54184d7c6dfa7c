"""Rewrites a table without what is to be erased, forgets its history, and scans every file in its folder.

An order that a kill leaves repeatable: the rows go in one commit, then the older snapshots, then the files. What is
left to do is found in the files themselves, so the next call goes on from there. Called through `Warehouse`.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSystem
from pyiceberg.avro.file import AvroFile
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import ArrowScan, parquet_files_to_data_files
from pyiceberg.manifest import ManifestEntry, ManifestEntryStatus, ManifestFile
from pyiceberg.table import ALWAYS_TRUE, FileScanTask, Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _OverwriteFiles
from pyiceberg.typedef import Record
from pyiceberg.types import StringType

from pipeline.errors import describe_error
from pipeline.warehouse.snapshots import properties_of_rewrite
from pipeline.warehouse.upkeep import _expire, _list_files, _location, _paths, _referenced_files, _remove
from pipeline.warehouse.upkeep import _without_checksum as without_checksum

BOUND_LENGTH = 16
"""Characters of a text that Iceberg keeps as a file's lower and upper bound."""
TOTALS = re.compile("(total|added|deleted|changed|removed)-")
"""How a snapshot's figures are called, which are digits written as text."""


class Sought(Protocol):
    """Whatever is to be found in a table's files, and taken out of their rows."""

    def is_in(self, batch: pa.RecordBatch) -> bool: ...

    def take_out(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...

    def is_named(self, text: str) -> bool: ...

    def is_bound(self, column: str, bound: bytes, *, length: int | None) -> bool:
        """Whether a column's bound is that of one sought; given a length, whether it may be one's cut off there."""
        ...


@dataclass(frozen=True)
class Erased:
    """What went from a table: rows, of how many files; old snapshots; files."""

    rows: int = 0
    rewritten: int = 0
    snapshots: int = 0
    files: int = 0


@dataclass
class Scanned:
    """Files that were read, by kind, and those in which something sought was found, or that cannot be read."""

    files: dict[str, int] = field(default_factory=dict)
    hits: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def count(self, kind: str, number: int = 1) -> None:
        self.files[kind] = self.files.get(kind, 0) + number

    def __add__(self, other: "Scanned") -> "Scanned":
        files = {kind: self.files.get(kind, 0) + other.files.get(kind, 0) for kind in {**self.files, **other.files}}
        return Scanned(files, [*self.hits, *other.hits], [*self.unreadable, *other.unreadable])


class _Rewritten(_OverwriteFiles):
    """A swap of files whose manifests say nothing of the files that went: their bounds would name who was erased."""

    def _existing_manifests(self) -> list[ManifestFile]:
        snapshot = self._transaction.table_metadata.snapshot_by_name(name=self._target_branch)
        by_spec: dict[int, list[ManifestEntry]] = {}
        for manifest in snapshot.manifests(io=self._io) if snapshot else ():
            for entry in manifest.fetch_manifest_entry(io=self._io, discard_deleted=True):
                if entry.data_file not in self._deleted_data_files:
                    by_spec.setdefault(manifest.partition_spec_id, []).append(entry)
        written = []
        for spec, entries in by_spec.items():
            with self.new_manifest_writer(self.spec(spec)) as writer:
                for entry in entries:
                    writer.add_entry(
                        ManifestEntry.from_args(
                            status=ManifestEntryStatus.EXISTING,
                            snapshot_id=entry.snapshot_id,
                            sequence_number=entry.sequence_number,
                            file_sequence_number=entry.file_sequence_number,
                            data_file=entry.data_file,
                        )
                    )
            written.append(writer.to_manifest_file())
        return written

    def _deleted_entries(self) -> list[ManifestEntry]:
        return []


def erase(table: Table, sought: Sought) -> Erased:
    """Take what is sought out of a table's rows, and remove every older snapshot and file that has it.

    Nobody else may be writing to the table: files that no snapshot names go, too, if they have it or cannot be read.

    Raises:
        CommitFailedException: another writer committed all the same; the table is as it left it.
    """
    system, found = _list_files(table)
    table.refresh()
    marked = _find_marked(table, system, found, sought)
    if not marked:
        return Erased()
    current = table.current_snapshot()
    before = _referenced_files(table, table.snapshots())
    live = _referenced_files(table, [current] if current else [])
    rows = rewritten = 0
    if marked & live:
        tasks = [task for task in table.scan().plan_files() if _paths(table, [task.file.file_path]) & marked]
        rows, rewritten = _rewrite(table, tasks, sought), len(tasks)
        current = table.current_snapshot()
        live = _referenced_files(table, [current] if current else [])
    expired = [each.snapshot_id for each in table.snapshots() if not current or each.snapshot_id != current.snapshot_id]
    if expired:
        _expire(table, expired)
    gone = [each for each in found if (path := without_checksum(each.path)) in before | marked and path not in live]
    for each in gone:
        _remove(system, each)
    return Erased(rows, rewritten, len(expired), sum(each.path == without_checksum(each.path) for each in gone))


def scan(table: Table, sought: Sought) -> Scanned:
    """Read every file in a table's folder: data files and manifests whoever names them, metadata, checksums."""
    scanned = Scanned()
    system, found = _list_files(table)
    for each in found:
        kind, reason = _kind(each.path), None
        try:
            reason = _why_marked(table, system, each, sought)
        except Exception as error:
            scanned.unreadable.append(f"{_location(table, each)} ({describe_error(error)[:80]})")
        scanned.count(kind)
        if reason:
            scanned.hits.append(f"{_location(table, each)} ({reason})")
    return scanned


def _find_marked(table: Table, system: FileSystem, found: Sequence[FileInfo], sought: Sought) -> set[str]:
    """Paths of the files that have what is sought, and of those that nobody can read."""
    marked = set()
    for each in found:
        try:
            is_marked = _why_marked(table, system, each, sought) is not None
        except Exception:
            is_marked = True
        if is_marked:
            marked.add(each.path)
    return marked


def _kind(path: str) -> str:
    for end, kind in ((".parquet", "data files"), (".avro", "manifests"), (".metadata.json", "metadata files")):
        if path.endswith(end):
            return kind
    return "other files"


def _why_marked(table: Table, system: FileSystem, file: FileInfo, sought: Sought) -> str | None:
    """What of a file has what is sought; None: nothing has."""
    kind = _kind(file.path)
    if kind == "data files":
        with system.open_input_file(file.path) as stream:
            parquet = pq.ParquetFile(stream)
            batches = parquet.iter_batches(columns=_text_columns(parquet.schema_arrow))
            # To the end, so that all who are there are known.
            found = [sought.is_in(batch) for batch in batches]
            if any(found):
                return "rows"
            return "statistics" if any(sought.is_bound(*each, length=None) for each in _statistics(parquet)) else None
    if kind == "manifests":
        return "bounds" if _is_in_avro(table, _location(table, file), sought) else None
    with system.open_input_file(file.path) as stream:
        content = stream.read()
    if kind == "metadata files":
        return "text" if any(map(sought.is_named, _texts(json.loads(content)))) else None
    return "text" if sought.is_named(content.decode("utf-8", errors="replace")) else None


def _text_columns(schema: pa.Schema) -> list[str]:
    return [
        each.name
        for each in schema
        if pa.types.is_string(each.type) or pa.types.is_large_string(each.type) or pa.types.is_map(each.type)
    ]


def _statistics(parquet: pq.ParquetFile) -> Iterator[tuple[str, bytes]]:
    for group in range(parquet.metadata.num_row_groups):
        for position in range(parquet.metadata.num_columns):
            column = parquet.metadata.row_group(group).column(position)
            found = column.statistics
            if found is not None and found.has_min_max and found.physical_type == "BYTE_ARRAY":
                yield from ((column.path_in_schema, str(each).encode()) for each in (found.min, found.max))


def _is_in_avro(table: Table, location: str, sought: Sought) -> bool:
    """Whether a manifest's bounds name what is sought.

    Bounds are cut. Those of a file that is part of the table are not taken for one sought that only begins alike: its
    rows have been read.
    """
    texts = {each.field_id: each.name for each in table.schema().fields if isinstance(each.field_type, StringType)}
    with AvroFile[Record](table.io.new_input(location)) as reader:
        for entry in reader:
            is_gone = isinstance(entry[0], int) and entry[0] == ManifestEntryStatus.DELETED.value
            length = BOUND_LENGTH if is_gone else None
            if any(sought.is_bound(*bound, length=length) for bound in _bounds(entry, texts)):
                return True
    return False


def _bounds(value: Any, names: Mapping[int, str]) -> Iterator[tuple[str, bytes]]:
    """The bounds in a manifest's entry, each with its column's name."""
    if isinstance(value, Record):
        for position in range(len(value)):
            yield from _bounds(value[position], names)
    elif isinstance(value, Mapping):
        yield from ((names[key], each) for key, each in value.items() if key in names and isinstance(each, bytes))


def _texts(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, str) and not TOTALS.match(key):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _texts(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _rewrite(table: Table, tasks: Sequence[FileScanTask], sought: Sought) -> int:
    """Commit the files anew without what is sought, all at once, with manifests that know nothing of the old ones."""
    written, rows = [], 0
    for task in tasks:
        path, gone = _write_without(table, task, sought)
        rows += gone
        written += [path] if path else []
    properties = properties_of_rewrite(table, table.current_snapshot())
    try:
        with (
            table.transaction() as transaction,
            _Rewritten(
                operation=Operation.OVERWRITE,
                transaction=transaction,
                io=table.io,
                snapshot_properties=properties,
            ) as swap,
        ):
            for task in tasks:
                swap.delete_data_file(task.file)
            for data_file in parquet_files_to_data_files(table.io, table.metadata, iter(written)):
                swap.append_data_file(data_file)
    except CommitFailedException:
        for path in written:
            table.io.delete(path)
        raise
    return rows


def _write_without(table: Table, task: FileScanTask, sought: Sought) -> tuple[str | None, int]:
    """Write a file's rows without what is sought; returns the new file, None if no row is left, and the rows gone."""
    scan, schema = ArrowScan(table.metadata, table.io, table.schema(), ALWAYS_TRUE), table.schema().as_arrow()
    path = f"{table.location()}/data/{uuid.uuid4().hex}.parquet"
    before = after = 0
    with (
        table.io.new_output(path).create() as stream,
        pq.ParquetWriter(stream, schema, compression="zstd", store_schema=False) as writer,
    ):
        for batch in scan.to_record_batches([task]):
            kept = sought.take_out(batch.cast(schema))
            before, after = before + batch.num_rows, after + kept.num_rows
            if kept.num_rows:
                writer.write_batch(kept)
    if not after:
        table.io.delete(path)
        return None, before
    return path, before - after
