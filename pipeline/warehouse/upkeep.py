"""What keeps an Iceberg table small: few files, few snapshots, nothing that no snapshot names. Behind `Warehouse`."""

import re
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import ArrowScan, PyArrowFileIO, parquet_files_to_data_files
from pyiceberg.manifest import ManifestFile
from pyiceberg.table import ALWAYS_TRUE, FileScanTask, Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AssertRefSnapshotId, AssertTableUUID, RemoveSnapshotsUpdate

from pipeline.warehouse.snapshots import PUBLISH_KEY, publish_id, snapshots_to_keep

SMALL_BYTES = 8 * 2**20
"""A file below this size is small. A large night's files are above it, and are several on purpose."""
CHECKSUM = re.compile(r"\.([^/]+)\.crc$")
"""Hadoop's local file system keeps `.name.crc` beside `name`."""


@dataclass(frozen=True)
class Compacted:
    """How many small files were written anew, and as how many."""

    files: int = 0
    into: int = 0


@dataclass(frozen=True)
class Cleaned:
    """Snapshots forgotten, and files removed that no snapshot names."""

    snapshots: int = 0
    files: int = 0
    bytes: int = 0


def compact(table: Table, *, more_than: int, dry_run: bool) -> Compacted:
    """Write the small files of every partition that has `more_than` of them as one, all partitions in one commit.

    Raises:
        CommitFailedException: someone else committed meanwhile; the table is as they left it.
    """
    crowded = _crowded_partitions(table, more_than)
    done = Compacted(sum(map(len, crowded)), len(crowded))
    current = table.current_snapshot()
    if dry_run or current is None or not crowded:
        return done
    written = [_write_as_one(table, tasks) for tasks in crowded]
    # Part of the publish that it rewrites: rolling that back has to bring back what was before it.
    properties = {PUBLISH_KEY: publish_id(current)}
    try:
        with (
            table.transaction() as transaction,
            transaction.update_snapshot(snapshot_properties=properties).overwrite() as swap,
        ):
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
    """Forget snapshots that nobody needs, then remove files that none of those left names.

    Args:
        since: readers who pinned a snapshot after it keep it.
        publishes: so many of the last publishes stay, however old.
        older_than: a file written later may be staged for a commit to come, and stays.

    Raises:
        CommitFailedException: someone else committed meanwhile; nothing was forgotten or removed.
    """
    # Listed first: whatever is committed from here on is named by the snapshots that are looked at below.
    system, found = _files_below(table)
    table.refresh()
    kept = snapshots_to_keep(table, since=since, publishes=publishes)
    expired = [each.snapshot_id for each in table.snapshots() if each.snapshot_id not in kept]
    if expired and not dry_run:
        _expire(table, expired)
    named = _named_files(table, [each for each in table.snapshots() if each.snapshot_id in kept])
    unnamed = [each for each in found if each.mtime < older_than and _subject(each.path) not in named]
    for each in () if dry_run else unnamed:
        _remove(system, each)
    return Cleaned(len(expired), len(unnamed), sum(each.size for each in unnamed))


def _crowded_partitions(table: Table, more_than: int) -> list[list[FileScanTask]]:
    by_partition: dict[object, list[FileScanTask]] = {}
    for task in table.scan().plan_files():
        if task.file.file_size_in_bytes < SMALL_BYTES:
            by_partition.setdefault(task.file.partition[0], []).append(task)
    return [tasks for tasks in by_partition.values() if len(tasks) > more_than]


def _write_as_one(table: Table, tasks: Sequence[FileScanTask]) -> str:
    scan, schema = ArrowScan(table.metadata, table.io, table.schema(), ALWAYS_TRUE), table.schema().as_arrow()
    rows = pa.Table.from_batches([batch.cast(schema) for batch in scan.to_record_batches(tasks)], schema)
    path = f"{table.location()}/data/{uuid.uuid4().hex}.parquet"
    with table.io.new_output(path).create() as stream:
        # Arrow's own schema would tell its readers that strings are large ones, which those of other files are not.
        pq.write_table(rows, stream, compression="zstd", store_schema=False)
    return path


def _expire(table: Table, snapshots: Sequence[int]) -> None:
    # Through the catalog, not `table.maintenance`: that would also take away the snapshot that a rollback has made
    # current meanwhile, and the table with it. It removes no files either.
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


def _files_below(table: Table) -> tuple[FileSystem, list[FileInfo]]:
    # FileIO has no listing; PyArrow's takes the same properties as any other.
    files = PyArrowFileIO(table.io.properties)
    scheme, host, path = files.parse_location(table.location(), files.properties)
    system = files.fs_by_scheme(scheme, host)
    found = system.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return system, [each for each in found if each.type == FileType.File]


def _named_files(table: Table, snapshots: Iterable[Snapshot]) -> set[str]:
    """Paths, as the file system has them, of all that these snapshots and the table itself are made of."""
    metadata = table.metadata
    named = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    named |= {each.statistics_path for each in (*metadata.statistics, *metadata.partition_statistics)}
    manifests: dict[str, ManifestFile] = {}
    for snapshot in snapshots:
        named.add(snapshot.manifest_list)
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    for path, manifest in manifests.items():
        named.add(path)
        named |= {entry.data_file.file_path for entry in manifest.fetch_manifest_entry(table.io)}
    return {PyArrowFileIO.parse_location(path, table.io.properties)[2] for path in named}


def _subject(path: str) -> str:
    """The file that a file is about: of a checksum the one beside it, else itself."""
    return CHECKSUM.sub(r"\1", path)


def _remove(system: FileSystem, file: FileInfo) -> None:
    # Two that clear at the same time find the same files.
    with suppress(FileNotFoundError):
        system.delete_file(file.path)
