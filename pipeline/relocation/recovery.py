"""Puts tables back into the catalog from their own metadata, after the catalog or a file of theirs was lost or damaged.

Every commit writes a metadata file of its own, and the last hundred stay. The newest that a copy of the catalog names
and whose manifests can all be read is registered, so that a commit that lost its race does not win after all; without
copies, the newest in the table's folder. What it does not know of stays where it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError
from pyiceberg.table.metadata import TableMetadata

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.relocation.tables import Move, OldFiles
from pipeline.relocation.warehouse import as_one_line_error, replace_entry
from pipeline.warehouse.catalog import open_catalog, read_own_entries, root_of
from pipeline.warehouse.copies import copied_entries, keep_copy
from pipeline.warehouse.damage import Damage, find_damage, metadata_files, read_metadata
from pipeline.warehouse.local_catalog import CATALOG, DATABASE, Entry

DRAFT = "catalog.db.recovered"


@dataclass(frozen=True)
class State:
    """A table's metadata file that can be read, with what it lists."""

    path: Path
    metadata: TableMetadata
    damages: tuple[Damage, ...]

    @property
    def is_whole(self) -> bool:
        """Whether everything but data files can be read: these can be made again by running their nights."""
        return all(damage.kind == "data file" for damage in self.damages)

    def is_after(self, other: "State") -> bool:
        return self.metadata.last_updated_ms > other.metadata.last_updated_ms

    def __str__(self) -> str:
        current = self.metadata.current_snapshot()
        rows = current.summary.additional_properties.get("total-records", "0") if current and current.summary else "0"
        committed = datetime.fromtimestamp(self.metadata.last_updated_ms / 1000, UTC)
        return f"{int(rows):,} rows, committed {committed:%Y-%m-%d %H:%M} UTC, {self.path.name}"


@as_one_line_error()
def recover(settings: Settings, metadata: Path | None = None) -> None:
    """Register the newest good metadata of each table that the catalog has lost or cannot read; print a line for each.

    Args:
        metadata: register this file for its table instead, whatever the catalog has; other tables are left alone.

    Raises:
        FunnelError: a table has no metadata that can be read, or there are no tables.
    """
    if settings.warehouse.catalog:
        raise FunnelError("[warehouse] catalog is set: only the default catalog can be made anew from its files")
    warehouse = Path(settings.resolve(settings.warehouse.path))
    folders = sorted(path.parent for path in warehouse.glob("*/*/metadata"))
    if not folders:
        raise FunnelError(f"{warehouse} has no tables: there is nothing to recover")
    if metadata is not None:
        metadata = metadata.resolve()
        folders = [folder for folder in folders if metadata.parent.parent == folder]
        if not folders:
            raise FunnelError(f"{metadata} is not a metadata file of a table in {warehouse}")
    listed = _read_catalog(warehouse)
    chosen, lost = _choose(folders, listed, _read_copies(warehouse), metadata)
    _register(warehouse, settings.warehouse.namespace, chosen, listed)
    if lost:
        raise FunnelError(f"no metadata can be read of {', '.join(lost)}: restore a backup, or move the folder away")


def _choose(
    folders: list[Path],
    listed: dict[tuple[str, str], Entry],
    copied: Mapping[tuple[str, str], list[Path]],
    metadata: Path | None,
) -> tuple[dict[tuple[str, str], Path], list[str]]:
    chosen: dict[tuple[str, str], Path] = {}
    lost = []
    for folder in folders:
        key = (folder.parent.name, folder.name)
        current = _state(folder, folder / "metadata" / Path(listed[key].metadata).name) if key in listed else None
        if metadata is None and isinstance(current, State) and current.is_whole:
            _tell(folder.name, "as it was", current)
            continue
        newest = _first_whole(folder, [metadata] if metadata else _newest_first(folder))
        committed = None if metadata else _first_whole(folder, copied.get(key, ()))
        state = newest if committed is None or _is_behind(committed, newest) else committed
        if state is None:
            lost.append(folder.name)
            continue
        chosen[key] = state.path
        _tell(folder.name, "registered", state)
        if newest and newest is not state and newest.path != state.path and newest.is_after(state):
            print(
                f"{'':<16} not registered, since no copy of the catalog names it: {newest}; if it is the right one: "
                f"funnel warehouse recover --metadata {newest.path}"
            )
    return chosen, lost


def _read_copies(warehouse: Path) -> dict[tuple[str, str], list[Path]]:
    """The metadata files that copies of the catalog name for each table, the newest copy's first, each once."""
    copied: dict[tuple[str, str], list[Path]] = {}
    for entry in copied_entries(warehouse):
        # Under the table's folder as it is now, which may have been moved.
        path = warehouse / entry.namespace / entry.name / "metadata" / Path(entry.metadata).name
        paths = copied.setdefault((entry.namespace, entry.name), [])
        if path not in paths:
            paths.append(path)
    return copied


def _first_whole(folder: Path, paths: Iterable[Path]) -> State | None:
    return next((found for path in paths if (found := _state(folder, path)) and found.is_whole), None)


def _is_behind(committed: State, newest: State | None) -> bool:
    """Whether more was committed after the copies: what the newest state was itself built upon."""
    before = [Path(entry.metadata_file).name for entry in newest.metadata.metadata_log] if newest else []
    return committed.path.name in before[:-1]


def _tell(table: str, what: str, state: State) -> None:
    print(f"{table:<16} {what}: {state}")
    for damage in state.damages:
        print(f"{'':<16} warning: {damage}: put it back, or run that night again")


def _newest_first(folder: Path) -> list[Path]:
    found = [(path, read_metadata(str(path))) for path in metadata_files(folder)]
    # By time, not by number: a table that was made anew counts from 0.
    good = [(each.last_updated_ms, path) for path, each in found if not isinstance(each, str) and each.snapshots]
    return [path for _, path in sorted(good, key=lambda each: each[0], reverse=True)] or [
        path for path, each in found if not isinstance(each, str)
    ]


def _state(folder: Path, path: Path) -> State | None:
    metadata = read_metadata(str(path))
    if isinstance(metadata, str):
        return None
    move = Move(folder.name, metadata.location, root_of(str(folder)), folder)
    return State(path, metadata, tuple(_damages(metadata, OldFiles(move))))


def _damages(metadata: TableMetadata, files: OldFiles) -> Iterator[Damage]:
    current = metadata.current_snapshot()
    return find_damage(metadata, files, [current] if current else [], deep=False)


def _read_catalog(warehouse: Path) -> dict[tuple[str, str], Entry]:
    """The tables of the catalog; one that cannot be read is put aside."""
    database = warehouse / DATABASE
    try:
        return {(entry.namespace, entry.name): entry for entry in read_own_entries(database)}
    except FunnelError as error:
        if "damaged" not in str(error):
            raise
        aside = database.with_name(f"{DATABASE}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        database.rename(aside)
        print(f"the damaged catalog is kept as {aside}")
        return {}


def _register(
    warehouse: Path, namespace: str, chosen: dict[tuple[str, str], Path], listed: dict[tuple[str, str], Entry]
) -> None:
    database, draft = warehouse / DATABASE, warehouse / DRAFT
    draft.unlink(missing_ok=True)
    if listed:
        catalog = open_catalog(str(warehouse), {}, namespace)
    else:
        # Nobody finds half a catalog.
        uri = f"sqlite:///{quote(str(draft))}"
        catalog = load_catalog(CATALOG, type="sql", uri=uri, warehouse=root_of(str(warehouse)))
    for key, path in chosen.items():
        address = root_of(str(path))
        if key in listed:
            replace_entry(database, listed[key], address)
            continue
        with suppress(NamespaceAlreadyExistsError):
            catalog.create_namespace(key[0])
        catalog.register_table(key, address)
    catalog.close()
    if not listed and chosen:
        draft.rename(database)
    if chosen:
        keep_copy(database)
