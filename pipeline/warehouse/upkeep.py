"""Keeps an Iceberg table small: compacts files, expires snapshots, removes orphans. Called through `Warehouse`."""

import re
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import ArrowScan, PyArrowFileIO, parquet_files_to_data_files
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import ALWAYS_TRUE, FileScanTask, Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AssertRefSnapshotId, AssertTableUUID, RemoveSnapshotsUpdate
from pyiceberg.table.update.snapshot import _OverwriteFiles

from pipeline.warehouse.damage import version_of
from pipeline.warehouse.other_catalogs import metadata_of_others
from pipeline.warehouse.snapshots import properties_of_rewrite, snapshots_to_keep

SMALL_BYTES = 8 * 2**20
"""A file below this size is small. The files of a large night are above it and stay separate on purpose."""
CHECKSUM = re.compile(r"\.([^/]+)\.crc$")
"""Hadoop's local file system writes `.name.crc` next to `name`."""


@dataclass(frozen=True)
class Compacted:
    """How many small files were rewritten, and into how many."""

    files: int = 0
    into: int = 0


@dataclass(frozen=True)
class Cleaned:
    """How many snapshots expired, and how many orphans of what size were removed.

    `kept` are the files that would be orphans if metadata unknown to this catalog, `of`, did not name them; `older`
    those that nothing names and that are older than the table itself.
    """

    snapshots: int = 0
    files: int = 0
    bytes: int = 0
    kept: int = 0
    of: str = ""
    older: int = 0


def compact(table: Table, *, more_than: int, dry_run: bool) -> Compacted:
    """Rewrite the small files of each partition that has more than `more_than` of them as one; one commit for all.

    Raises:
        CommitFailedException: another writer committed meanwhile; the table is as it left it.
    """
    crowded = _crowded_partitions(table, more_than)
    done = Compacted(sum(map(len, crowded)), len(crowded))
    current = table.current_snapshot()
    if dry_run or current is None or not crowded:
        return done
    written = [_write_as_one(table, tasks) for tasks in crowded]
    properties = properties_of_rewrite(table, current)
    try:
        with (
            table.transaction() as transaction,
            transaction.update_snapshot(snapshot_properties=properties).overwrite() as swap,
        ):
            _evaluate_each_manifest_anew(swap)
            for task in (task for tasks in crowded for task in tasks):
                swap.delete_data_file(task.file)
            for data_file in parquet_files_to_data_files(table.io, table.metadata, iter(written)):
                swap.append_data_file(data_file)
    except CommitFailedException:
        for path in written:
            table.io.delete(path)
        raise
    return done


def clean(table: Table, *, since: datetime, publishes: int, older_than: datetime, dry_run: bool) -> Cleaned:
    """Expire snapshots that nobody needs, then remove orphans: files that no remaining snapshot refers to.

    Args:
        since: a snapshot that a reader may have pinned after this time is kept.
        publishes: how many of the last publishes are kept, however old.
        older_than: an orphan written later stays, since a run may have staged it for its commit. So does a file that is
            older than the table: the catalog was made anew over it.

    Raises:
        CommitFailedException: another writer committed meanwhile; nothing was expired or removed.
    """
    # Files are listed before snapshots are read, so files committed in between are never taken for orphans.
    system, found = _list_files(table)
    table.refresh()
    needed = snapshots_to_keep(table, since=since, publishes=publishes)
    expired = [each.snapshot_id for each in table.snapshots() if each.snapshot_id not in needed]
    if expired and not dry_run:
        _expire(table, expired)
    referenced = _referenced_files(table, [each for each in table.snapshots() if each.snapshot_id in needed])
    unknown = [each for each in found if _without_checksum(each.path) not in referenced]
    others = dict(metadata_of_others(table, (_location(table, each) for each in unknown)))
    theirs = _paths(table, others) | _files_of_others(table, others.values())
    kept = [each for each in unknown if _without_checksum(each.path) in theirs]
    made_at = _made_at(table)
    older = [each for each in unknown if each not in kept and made_at and each.mtime < made_at]
    spared = {each.path for each in (*kept, *older)}
    orphans = [each for each in unknown if each.path not in spared and each.mtime < older_than]
    for each in () if dry_run else orphans:
        _remove(system, each)
    size = sum(each.size for each in orphans)
    return Cleaned(len(expired), len(orphans), size, len(kept), max(others, default=""), len(older))


def _crowded_partitions(table: Table, more_than: int) -> list[list[FileScanTask]]:
    by_partition: dict[object, list[FileScanTask]] = {}
    for task in table.scan().plan_files():
        if task.file.file_size_in_bytes < SMALL_BYTES:
            by_partition.setdefault(task.file.partition[0], []).append(task)
    return [tasks for tasks in by_partition.values() if len(tasks) > more_than]


def _evaluate_each_manifest_anew(swap: _OverwriteFiles) -> None:
    """Give each manifest an evaluator of its own.

    PyIceberg asks one evaluator about several manifests at once, from threads, and it answers for whichever it was
    asked about last: files to be replaced are then not found.
    """
    build = swap._build_manifest_evaluator
    swap._build_manifest_evaluator = lambda spec_id: lambda manifest: build(spec_id)(manifest)  # type: ignore[method-assign]


def _write_as_one(table: Table, tasks: Sequence[FileScanTask]) -> str:
    scan, schema = ArrowScan(table.metadata, table.io, table.schema(), ALWAYS_TRUE), table.schema().as_arrow()
    rows = pa.Table.from_batches([batch.cast(schema) for batch in scan.to_record_batches(tasks)], schema)
    path = f"{table.location()}/data/{uuid.uuid4().hex}.parquet"
    with table.io.new_output(path).create() as stream:
        # A stored Arrow schema would make these strings large ones for Arrow's readers, unlike those of other files.
        pq.write_table(rows, stream, compression="zstd", store_schema=False)
    return path


def _expire(table: Table, snapshots: Sequence[int]) -> None:
    # Through the catalog, not `table.maintenance`: that would also expire a snapshot that a rollback has just made
    # current, and break the table. It removes no files either.
    current = table.current_snapshot()
    table.catalog.commit_table(
        table,
        (
            AssertTableUUID(uuid=table.metadata.table_uuid),
            AssertRefSnapshotId.model_validate(
                {"ref": MAIN_BRANCH, "snapshot-id": current.snapshot_id if current else None}
            ),
        ),
        (RemoveSnapshotsUpdate.model_validate({"snapshot-ids": list(snapshots)}),),
    )
    table.refresh()


def remove_folder(table: Table, location: str) -> None:
    """Remove a folder of a table with all that is in it; nothing happens if it is not there."""
    system, path = _open_location(table, location)
    system.delete_dir_contents(path, missing_dir_ok=True)
    if system.get_file_info(path).type == FileType.Directory:
        system.delete_dir(path)


def _open_location(table: Table, location: str) -> tuple[FileSystem, str]:
    """The file system of a location in a table's folder, and its path there."""
    # FileIO has no listing; PyArrow's takes the same properties as any other.
    files = PyArrowFileIO(table.io.properties)
    scheme, host, path = files.parse_location(location, files.properties)
    return files.fs_by_scheme(scheme, host), path


def _list_files(table: Table) -> tuple[FileSystem, list[FileInfo]]:
    system, path = _open_location(table, table.location())
    found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return system, [each for each in found if each.type == FileType.File]


def _referenced_files(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
    """Paths, as the file system spells them, of every file that these snapshots and the table refer to."""
    metadata = table.metadata
    referenced = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    referenced |= {each.statistics_path for each in (*metadata.statistics, *metadata.partition_statistics)}
    manifests: dict[str, ManifestFile] = {}
    for snapshot in snapshots:
        referenced.add(snapshot.manifest_list)
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    for path, manifest in manifests.items():
        referenced.add(path)
        referenced |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
    return _paths(table, referenced)


def _files_of_others(table: Table, others: Iterable[TableMetadata]) -> set[str]:
    """Paths of the files that other catalogs' metadata refers to, as far as it can be followed."""
    referenced: set[str] = set()
    snapshots = {each.manifest_list: each for metadata in others for each in metadata.snapshots}
    for snapshot in snapshots.values():
        referenced.add(snapshot.manifest_list)
        with suppress(Exception):
            for manifest in snapshot.manifests(table.io):
                if manifest.manifest_path not in referenced:
                    referenced.add(manifest.manifest_path)
                    referenced |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
    return _paths(table, referenced)


def _made_at(table: Table) -> datetime | None:
    """When the table was made; None once its metadata no longer remembers. What is older was never this table's."""
    first = min(table.metadata.metadata_log, key=lambda entry: entry.timestamp_ms, default=None)
    location = first.metadata_file if first else table.metadata_location
    if version_of(location) != 0:
        return None
    made_ms = first.timestamp_ms if first else table.metadata.last_updated_ms
    return datetime.fromtimestamp(made_ms / 1000, UTC)


def _paths(table: Table, locations: Iterable[str]) -> set[str]:
    return {PyArrowFileIO.parse_location(each, table.io.properties)[2] for each in locations}


def _location(table: Table, file: FileInfo) -> str:
    """A listed file's location, spelled as the table's own is."""
    own = PyArrowFileIO.parse_location(table.location(), table.io.properties)[2]
    return table.location() + str(file.path).removeprefix(own)


def _without_checksum(path: str) -> str:
    """The path of the file that a checksum belongs to; any other path unchanged."""
    return CHECKSUM.sub(r"\1", path)


def _remove(system: FileSystem, file: FileInfo) -> None:
    # Two maintenance runs at the same time find the same files.
    with suppress(FileNotFoundError):
        system.delete_file(file.path)
