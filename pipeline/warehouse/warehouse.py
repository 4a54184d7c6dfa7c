"""The one facade over Iceberg: pin what is read, swap what is written in one commit.

A partition is published in three steps: stage, audit, commit. This module holds the first and the last: a fresh
directory to stage files in, and one transaction that deletes a date range and adds the staged files. Readers see the
old rows or the new ones, never a state in between.
"""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyiceberg.expressions import BooleanExpression
from pyiceberg.io import FileIO, load_file_io
from pyiceberg.table import ALWAYS_TRUE, FileScanTask
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Snapshot

from pipeline.config.base import reveal
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.stores import explain_store_error
from pipeline.warehouse.catalog import OwnCatalog
from pipeline.warehouse.commits import commit_once
from pipeline.warehouse.damage import Damage, data_damage, describe, files_at, find_damage, names_damage
from pipeline.warehouse.evolution import create_table, update_table
from pipeline.warehouse.places import as_path
from pipeline.warehouse.retries import as_one_line_error, retry_lost_races, retry_until_answered
from pipeline.warehouse.schema import Table
from pipeline.warehouse.snapshots import (
    find_property,
    first_commit,
    lasting_properties,
    snapshot_at,
    state_before_last_publish,
)
from pipeline.warehouse.tables import all_tables

if TYPE_CHECKING:
    from pipeline.warehouse.erasure import Erased, Scanned, Sought
    from pipeline.warehouse.upkeep import Cleaned, Compacted


@dataclass(frozen=True)
class Pinned:
    """One snapshot's data files, within a date range, the schema to read them by, and what opens them."""

    table: str
    snapshot_id: int | None
    files: tuple[str, ...]
    schema: pa.Schema
    io: FileIO | None = field(default=None, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The files by their paths within the table: the same after the warehouse was moved."""
        return tuple(path.rsplit("/data/", 1)[-1] for path in self.files)


@dataclass(frozen=True)
class TableState:
    """A table's size and last commit: one line of `funnel tables`."""

    name: str
    rows: int
    files: int
    partitions: int
    newest: str
    snapshot_id: int
    committed_at: datetime


class Warehouse:
    """Iceberg tables of one funnel.

    Args:
        location: local path of the default SQLite catalog and its files.
        catalog: PyIceberg properties of another catalog; empty for the default.
        namespace: the Iceberg namespace of the tables.
        tables: the tables by name.
        read_only: for `pin`, `row_counts` and `states`; makes the default catalog open much faster.
    """

    def __init__(
        self,
        *,
        location: str,
        catalog: Mapping[str, str],
        namespace: str,
        tables: Mapping[str, Table],
        read_only: bool = False,
    ) -> None:
        self.namespace = namespace
        self.tables = tables
        self._catalog = OwnCatalog(location, catalog, namespace, tables, read_only=read_only)
        self._staged: dict[str, str] = {}

    @classmethod
    def of(cls, settings: Settings, *, read_only: bool = False) -> "Warehouse":
        """The warehouse that a configuration names.

        Raises:
            FunnelError: the catalog cannot be reached or written.
        """
        options = settings.warehouse
        return cls(
            location=settings.resolve(options.path),
            catalog={**settings.storage.iceberg, **reveal(options.catalog)} if options.catalog else {},
            namespace=options.namespace,
            tables=all_tables(settings),
            read_only=read_only,
        )

    @names_damage
    def pin(
        self, name: str, *, first: date | None = None, last: date | None = None, at: datetime | None = None
    ) -> Pinned:
        """The current snapshot's files whose partition lies in [first, last]; none if the table does not exist yet.

        Args:
            at: use the snapshot that was current at this time.

        Raises:
            FunnelError: that snapshot has expired; the message names the oldest time that can be read.
        """
        table = self._load(name)
        schema = self.tables[name].schema
        snapshot = None
        if table is not None:
            snapshot = table.current_snapshot() if at is None else snapshot_at(table, at)
        if table is None or snapshot is None:
            return Pinned(name, None, (), schema)
        scan = table.scan(row_filter=self._between(name, first, last), snapshot_id=snapshot.snapshot_id)
        files = [task.file for task in scan.plan_files()]
        # Elsewhere each look would be a request.
        if as_path(table.location()):
            for damage in data_damage(files, files_at(table.location(), table.io), deep=False):
                raise FunnelError(describe(name, damage))
        return Pinned(name, snapshot.snapshot_id, tuple(sorted(file.file_path for file in files)), schema, table.io)

    def require_writable(self) -> None:
        """Check, before work is done in vain, that tables can be written.

        Raises:
            FunnelError: a local warehouse is read-only.
        """
        self._catalog.require_writable()

    def find_root(self) -> tuple[str, FileIO] | None:
        """The location in which the tables lie, and what opens it; None where only the catalog knows, before a table.

        Raises:
            FunnelError: the catalog or the object store does not answer, or refuses.
        """
        for name in self.tables:
            if table := self._load(name):
                return table.location().rstrip("/").rpartition("/")[0], table.io
        properties = self._catalog.iceberg.properties
        root = properties.get("warehouse", "")
        # A server may take a mere name.
        is_location = "://" in root or root.startswith("/")
        return (f"{root.rstrip('/')}/{self.namespace}", load_file_io(properties, root)) if is_location else None

    def oldest_commit(self) -> datetime | None:
        """When the oldest remaining snapshot of any table was committed; None if there is no snapshot."""
        commits = (first_commit(table) for table in map(self._load, self.tables) if table)
        return min((commit for commit in commits if commit), default=None)

    def arrow(self, name: str, *, first: date, last: date) -> pa.Table:
        """The current rows of [first, last] as an Arrow table, for what fits into memory."""
        return self.read_pinned(self.pin(name, first=first, last=last))

    def read_pinned(self, pinned: Pinned) -> pa.Table:
        """The rows of a pinned snapshot's files as an Arrow table, with the columns that the table has now.

        A column that only this release knows, and no commit of it has added yet, is null.

        Raises:
            ValueError: the snapshot has expired.
        """
        from pyiceberg.io.pyarrow import ArrowScan

        table = self._load(pinned.table)
        if table is None or pinned.snapshot_id is None:
            return self.tables[pinned.table].schema.empty_table()
        files, scan = set(pinned.files), table.scan(snapshot_id=pinned.snapshot_id)
        tasks = [task for task in scan.plan_files() if task.file.file_path in files]
        rows = ArrowScan(table.metadata, table.io, table.schema(), ALWAYS_TRUE).to_table(tasks)
        for column in self.tables[pinned.table].schema:
            if column.name not in rows.column_names:
                rows = rows.append_column(column, pa.nulls(len(rows), column.type))
        return rows

    @names_damage
    def row_counts(self, name: str, *, first: date, last: date) -> dict[date, int]:
        """Rows of each current partition in [first, last], from metadata alone."""
        table = self._load(name)
        counts: dict[date, int] = {}
        for task in table.scan(row_filter=self._between(name, first, last)).plan_files() if table else ():
            day = _partition_date(task)
            counts[day] = counts.get(day, 0) + task.file.record_count
        return counts

    @names_damage
    def last_property(self, name: str, key: str) -> str | None:
        """The value of a property in the newest snapshot that has it, of those that lead to the current one."""
        table = self._load(name)
        return find_property(table, key) if table else None

    @as_one_line_error()
    @retry_until_answered
    def staging(self, name: str) -> str:
        """The path of a fresh directory in the table; files in it are invisible until they are published.

        `discard_staged` removes those of which nothing was published.
        """
        directory = f"{self._ensure(name).location()}/data/{uuid.uuid4().hex}"
        self._staged[directory] = name
        return directory

    def staged(self, name: str, files: Sequence[str]) -> Pinned:
        """Files that were written to a directory of `staging`, as what the audit reads."""
        table = self._load(name) if files else None
        return Pinned(name, None, tuple(files), self.tables[name].schema, table.io if table else None)

    @as_one_line_error()
    @names_damage
    def publish(
        self, name: str, files: Sequence[str], *, first: date, last: date, summary: Mapping[str, str]
    ) -> int | None:
        """Replace the partitions [first, last] by the staged files in one transaction.

        No concurrent commit is lost: after a lost race the table is reloaded and the swap repeated.

        Returns: the snapshot id that readers now see; None if the table was empty and still is.
        """
        # Whether a commit that fails was made after all is not always known, so its files are left to `clean`.
        self._staged = {each: its for each, its in self._staged.items() if not _holds_any(each, files)}
        swapped = self._between(name, first, last)

        def swap(table: IcebergTable, mark: Mapping[str, str]) -> bool:
            properties = {**lasting_properties(table), **summary, **mark}
            has_rows = any(True for _ in table.scan(row_filter=swapped).plan_files())
            with table.transaction() as transaction:
                if has_rows:
                    transaction.delete(swapped, snapshot_properties=properties)
                if files:
                    transaction.add_files(list(files), snapshot_properties=properties, check_duplicate_files=False)
            return True

        commit_once(lambda: self._ensure(name), swap)
        table = self._load(name)
        snapshot = table.current_snapshot() if table else None
        return snapshot.snapshot_id if snapshot else None

    @as_one_line_error()
    @names_damage
    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a few records (runs, metrics), small enough to pass through Python."""
        records = pa.Table.from_pylist(list(rows), schema=self.tables[name].schema)

        def add(table: IcebergTable, mark: Mapping[str, str]) -> bool:
            table.append(records, snapshot_properties=dict(mark))
            return True

        commit_once(lambda: self._ensure(name), add)

    @as_one_line_error()
    @names_damage
    def append_to(self, name: str, records: pa.Table, *, snapshot_id: int | None) -> bool:
        """Add records in one commit, provided the table is still at the snapshot they were made from.

        Returns: whether it was, and the records were added.
        """
        cast = records.cast(self.tables[name].schema)

        def add(table: IcebergTable, mark: Mapping[str, str]) -> bool:
            found = table.current_snapshot()
            if (found and found.snapshot_id) != snapshot_id:
                return False
            table.append(cast, snapshot_properties=dict(mark))
            return True

        return commit_once(lambda: self._ensure(name), add)

    @as_one_line_error()
    @names_damage
    def replace(self, name: str, rows: Sequence[Mapping[str, Any]], *, where: str) -> None:
        """Replace the records that a filter such as `ds = '2026-01-31'` matches by a few others, in one commit."""
        records = pa.Table.from_pylist(list(rows), schema=self.tables[name].schema)

        def swap(table: IcebergTable, mark: Mapping[str, str]) -> bool:
            table.overwrite(records, overwrite_filter=where, snapshot_properties=dict(mark))
            return True

        commit_once(lambda: self._ensure(name), swap)

    def discard_staged(self, directory: str | None = None) -> None:
        """Remove one or all of the directories that were staged here and not published; failures are left to clean."""
        from pipeline.warehouse.upkeep import remove_folder

        for each in [directory] if directory else [*self._staged]:
            with suppress(Exception):
                if table := self._load(self._staged.pop(each)):
                    remove_folder(table, each)

    @as_one_line_error()
    @retry_lost_races
    @names_damage
    def compact(self, name: str, *, more_than: int, dry_run: bool) -> "Compacted":
        """Rewrite the small files of each partition that has more than `more_than` of them as one, in one commit.

        No concurrent commit is lost: after a lost race the partitions are chosen again.
        """
        from pipeline.warehouse.upkeep import Compacted, compact

        table = self._load(name)
        return compact(table, more_than=more_than, dry_run=dry_run) if table else Compacted()

    @as_one_line_error()
    @retry_lost_races
    @names_damage
    def clean(self, name: str, *, since: datetime, publishes: int, older_than: datetime, dry_run: bool) -> "Cleaned":
        """Expire snapshots replaced before `since`, except the last publishes; remove orphans older than `older_than`.

        An orphan is a file that no snapshot refers to. A younger one may be staged for a commit.
        """
        from pipeline.warehouse.upkeep import Cleaned, clean

        table = self._load(name)
        if table is None:
            return Cleaned()
        return clean(table, since=since, publishes=publishes, older_than=older_than, dry_run=dry_run)

    @as_one_line_error()
    @retry_lost_races
    @names_damage
    def erase(self, name: str, sought: "Sought") -> "Erased":
        """Take what is sought out of a table's rows, snapshots and files, while nobody else writes to it."""
        from pipeline.warehouse.erasure import Erased, erase

        table = self._load(name)
        return erase(table, sought) if table else Erased()

    @names_damage
    def scan(self, name: str, sought: "Sought") -> "Scanned":
        """Read every file in a table's folder, and tell in which of them there is something sought."""
        from pipeline.warehouse.erasure import Scanned, scan

        table = self._load(name)
        return scan(table, sought) if table else Scanned()

    @as_one_line_error()
    @retry_lost_races
    @names_damage
    def rollback(self, name: str) -> int:
        """Make the state before the last publish current again, and return its snapshot id.

        Raises:
            FunnelError: the table does not exist, or nothing was published before.
        """
        table = self._load(name)
        if table is None or table.current_snapshot() is None:
            raise FunnelError(f"table {name!r} has nothing to roll back; {self._known()}")
        before = state_before_last_publish(table)
        if before is None:
            snapshot_id = _current(table).snapshot_id
            raise FunnelError(f"table {name!r} has no state before snapshot {snapshot_id} to roll back to")
        table.manage_snapshots().rollback_to_snapshot(before.snapshot_id).commit()
        return before.snapshot_id

    def states(self) -> list[TableState]:
        """The state of each table that has a snapshot."""
        return [state for name in self.tables if (state := self._state(name))]

    @names_damage
    def _state(self, name: str) -> TableState | None:
        table = self._load(name)
        if table is None or table.current_snapshot() is None:
            return None
        snapshot = _current(table)
        tasks = list(table.scan().plan_files())
        partitions = {_partition_date(task) for task in tasks}
        return TableState(
            name=name,
            rows=sum(task.file.record_count for task in tasks),
            files=len(tasks),
            partitions=len(partitions),
            newest=max(partitions).isoformat() if partitions else "-",
            snapshot_id=snapshot.snapshot_id,
            committed_at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000).astimezone(),
        )

    def damage_of(self, name: str, *, deep: bool = False) -> Damage | None:
        """The first file of a table's current snapshot that is missing or damaged.

        Args:
            deep: also read the footer of each data file.

        Raises:
            FunnelError: the metadata itself is missing or damaged.
        """
        table = self._load(name)
        snapshot = table.current_snapshot() if table else None
        if table is None or snapshot is None:
            return None
        return next(find_damage(table.metadata, files_at(table.location(), table.io), [snapshot], deep=deep), None)

    def damages_of(self, name: str) -> tuple[int, list[Damage]]:
        """How many snapshots a table has, and all of their files that are missing or damaged, footers read."""
        table = self._load(name)
        if table is None:
            return 0, []
        snapshots = table.snapshots()
        return len(snapshots), list(
            find_damage(table.metadata, files_at(table.location(), table.io), snapshots, deep=True)
        )

    def _load(self, name: str) -> IcebergTable | None:
        if name not in self.tables:
            raise FunnelError(f"no table {name!r}; {self._known()}")
        try:
            return self._catalog.load(name)
        except FileNotFoundError as error:
            raise FunnelError(
                f"table {name!r} is in the catalog, but its metadata is not where it says: {error}; has its bucket or "
                "its folder been removed?"
            ) from error
        except OSError as error:
            raise explain_store_error(error) or error from None

    def _ensure(self, name: str) -> IcebergTable:
        """The table, created if it is new, with the columns and docs of the configuration."""
        wanted = self.tables[name]
        table = self._load(name)
        if table is None:
            return create_table(self._catalog.iceberg, (self.namespace, name), wanted)
        update_table(table, wanted)
        return table

    def _between(self, name: str, first: date | None, last: date | None) -> str | BooleanExpression:
        if first is None and last is None:
            # A filter that every file passes would still be evaluated for each file.
            return ALWAYS_TRUE
        column = self.tables[name].partition
        return f"{column} >= '{first or date.min}' AND {column} <= '{last or date.max}'"

    def _known(self) -> str:
        return f"the tables are {', '.join(self.tables)}"


def _partition_date(task: FileScanTask) -> date:
    # Iceberg stores a date as days since 1970.
    return date(1970, 1, 1) + timedelta(days=task.file.partition[0])


def _holds_any(directory: str, files: Sequence[str]) -> bool:
    # By its name, which is unique: engines spell the addresses of files in several ways.
    name = f"/{directory.rsplit('/', 1)[-1]}/"
    return any(name in file for file in files)


def _current(table: IcebergTable) -> Snapshot:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot
