"""Gives a table's metadata another place: every path in its metadata file, manifest lists and manifests is rewritten.

The new metadata is written beside the old under names of its own, so the table stays as it is until the catalog names
the new. Before that, `rewrite_table` compares the two entry by entry and reads every data file's footer.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyiceberg.avro.file import AvroFile, AvroOutputFile
from pyiceberg.io import InputFile
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import ManifestEntryStatus, read_manifest_list
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.typedef import Record
from pyiceberg.types import StructType

from pipeline.errors import FunnelError
from pipeline.warehouse.damage import Damage, find_damage, read_metadata, version_of
from pipeline.warehouse.local_catalog import LocalFiles
from pipeline.warehouse.places import as_path

# Field ids of the Iceberg specification: of a manifest list, of a manifest's entry and of its data file.
MANIFEST_PATH, MANIFEST_LENGTH, MANIFEST_CONTENT = 500, 501, 517
STATUS, DATA_FILE, FILE_PATH = 0, 2, 100
REWRITTEN = re.compile(r"-r[0-9a-f]{8}(?=\.avro$)")
"""What an earlier move added to the name of a manifest."""


@dataclass(frozen=True)
class Move:
    """A table's move: the location it was written under, the one it gets, and the folder where its files are now."""

    table: str
    old: str
    new: str
    source: Path

    @property
    def target(self) -> Path:
        return as_path(self.new) or Path(self.new)

    def rename(self, location: str) -> str:
        """A file's location after the move.

        Raises:
            FunnelError: the file lies outside the table's folder.
        """
        return f"{self.new}/{self._inside(location)}"

    def find(self, location: str) -> Path:
        """Where a file that the old metadata names is now."""
        here, there = self.source / self._inside(location), as_path(location)
        # A copy that was written through before it was refused has its newest files in the original's folders.
        return there if there and not here.exists() and there.exists() else here

    def place(self, location: str) -> Path:
        """Where that file will be."""
        return self.target / self._inside(location)

    def _inside(self, location: str) -> str:
        # One folder can be written as file:///data/x and as /data/x.
        path, folder = str(as_path(location) or location), str(as_path(self.old) or self.old)
        if not path.startswith(f"{folder}/"):
            raise FunnelError(
                f"table {self.table!r} has a file outside its folder {folder}: {location}; move it by hand"
            )
        return path.removeprefix(f"{folder}/")


class OldFiles(LocalFiles):
    """Opens the files that old metadata names where they are now."""

    def __init__(self, move: Move) -> None:
        super().__init__()
        self._move = move

    def new_input(self, location: str) -> InputFile:
        return super().new_input(str(self._move.find(location)))


def rewrite_table(metadata_file: Path, move: Move) -> tuple[str, list[Path]]:
    """Write a table's metadata for its new place, and bring its files there; the old metadata stays as it is.

    Returns: the location of the new metadata file, and the files the table consists of now.

    Raises:
        FunnelError: a file is missing or damaged, or the rewritten table differs from the old one.
    """
    old = _require_metadata(move.table, str(metadata_file))
    for damage in find_damage(old, OldFiles(move), old.snapshots, deep=False):
        raise _lost(move.table, replace(damage, path=str(move.find(damage.path))))
    content = json.loads(metadata_file.read_text(encoding="utf-8"))
    files: dict[Path, None] = {}
    manifests: dict[str, tuple[str, int]] = {}
    for snapshot in content.get("snapshots", ()):
        snapshot["manifest-list"] = _rewrite_list(snapshot["manifest-list"], move, manifests, files)
    for statistics in (*content.get("statistics", ()), *content.get("partition-statistics", ())):
        files[_bring(statistics["statistics-path"], move)] = None
        statistics["statistics-path"] = move.rename(statistics["statistics-path"])
    content["location"], content["metadata-log"] = move.new, []
    # Where data and metadata go, if somebody has set it.
    for key in ("write.data.path", "write.metadata.path"):
        if key in content.get("properties", {}):
            content["properties"][key] = move.rename(content["properties"][key])
    name = f"metadata/{version_of(metadata_file.name) + 1:05d}-{uuid.uuid4()}.metadata.json"
    _write(move.target / name, json.dumps(content).encode())
    _require_same(old, _require_metadata(move.table, str(move.target / name)), move)
    return f"{move.new}/{name}", [*files, move.target / name]


def copy_verified(source: Path, target: Path) -> str:
    """Copy a file, unless the same content is there already, and return its SHA-256, computed from the copy.

    Raises:
        FunnelError: the copy differs from the original.
    """
    expected = hash_file(source)
    if not (target.exists() and hash_file(target) == expected):
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, draft)
            if hash_file(draft) != expected:
                raise FunnelError(
                    f"the copy of {source} at {target} differs from it: the disk, or a writer, changed it"
                )
            draft.rename(target)
        finally:
            draft.unlink(missing_ok=True)
    return expected


def hash_file(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _rewrite_list(location: str, move: Move, manifests: dict[str, tuple[str, int]], files: dict[Path, None]) -> str:
    def edit(entry: Record, schema: Schema) -> None:
        if _get(entry, schema.as_struct(), MANIFEST_CONTENT):
            raise FunnelError(f"table {move.table!r} has files of deleted rows, which another engine wrote: not moved")
        path = _get(entry, schema.as_struct(), MANIFEST_PATH)
        if path not in manifests:
            manifests[path] = _rewrite_manifest(path, move, files)
        _set(entry, schema.as_struct(), MANIFEST_PATH, manifests[path][0])
        _set(entry, schema.as_struct(), MANIFEST_LENGTH, manifests[path][1])

    return _rewrite_avro(location, move, edit, files)[0]


def _rewrite_manifest(location: str, move: Move, files: dict[Path, None]) -> tuple[str, int]:
    def edit(entry: Record, schema: Schema) -> None:
        struct, file = schema.as_struct(), _get(entry, schema.as_struct(), DATA_FILE)
        kind = schema.find_type(DATA_FILE)
        assert isinstance(kind, StructType)
        path = _get(file, kind, FILE_PATH)
        if _get(entry, struct, STATUS) != ManifestEntryStatus.DELETED.value:
            files[_bring(path, move)] = None
        _set(file, kind, FILE_PATH, move.rename(path))

    return _rewrite_avro(location, move, edit, files)


def _rewrite_avro(
    location: str, move: Move, edit: Callable[[Record, Schema], None], files: dict[Path, None]
) -> tuple[str, int]:
    """Write an Avro file again, with its own schema and header, after `edit` of each record.

    Returns: its new location, and its length in bytes.
    """
    with AvroFile[Record](LocalFiles().new_input(str(move.find(location)))) as reader:
        records = list(reader)
    header = dict(reader.header.meta)
    name = json.loads(header.pop("avro.schema"))["name"]
    for record in records:
        edit(record, reader.schema)
    mark = hashlib.sha256(move.new.encode()).hexdigest()[:8]
    renamed = REWRITTEN.sub("", move.rename(location)).removesuffix(".avro") + f"-r{mark}.avro"
    path = as_path(renamed)
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    output = PyArrowFileIO().new_output(renamed)
    with AvroOutputFile[Record](output, reader.schema, schema_name=name, metadata=header) as writer:
        writer.write_block(records)
    files[path] = None
    return renamed, path.stat().st_size


def _bring(location: str, move: Move) -> Path:
    """Copy a data file to the table's new folder, unless it is there already."""
    found, place = move.find(location), move.place(location)
    if found != place:
        try:
            copy_verified(found, place)
        except FileNotFoundError:
            raise _lost(move.table, Damage("data file", str(found), "is missing")) from None
    return place


def _require_metadata(table: str, path: str) -> TableMetadata:
    metadata = read_metadata(path)
    if isinstance(metadata, str):
        raise _lost(table, Damage("metadata file", path, metadata))
    return metadata


def _require_same(old: TableMetadata, new: TableMetadata, move: Move) -> None:
    """Compare two states of a table, file by file, and read every footer of the new one."""
    for damage in find_damage(new, LocalFiles(), new.snapshots, deep=True):
        raise _lost(move.table, damage)
    before = [sorted(_entries(each, OldFiles(move), move.rename)) for each in old.snapshots]
    if before != [sorted(_entries(each, LocalFiles(), str)) for each in new.snapshots]:
        raise FunnelError(f"table {move.table!r}: what was written for {move.new} is not what {move.old} has")


def _entries(snapshot: Any, io: LocalFiles, rename: Callable[[str], str]) -> Iterator[tuple[Any, ...]]:
    for manifest in read_manifest_list(io.new_input(snapshot.manifest_list)):
        for entry in manifest.fetch_manifest_entry(io, discard_deleted=False):
            file = entry.data_file
            yield (
                rename(file.file_path),
                *(entry.status, entry.snapshot_id or 0, entry.sequence_number or 0, entry.file_sequence_number or 0),
                *(file.record_count, file.file_size_in_bytes, repr(file.partition)),
                *(repr(dict(each or {})) for each in (file.lower_bounds, file.upper_bounds, file.null_value_counts)),
            )


def _lost(table: str, damage: Damage) -> FunnelError:
    return FunnelError(f"table {table!r} cannot be moved: {damage}; put it back first. Nothing was switched")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    with draft.open("wb") as stream:
        stream.write(content)
        os.fsync(stream.fileno())
    draft.rename(path)


def _position(struct: StructType, field_id: int) -> int | None:
    return next((at for at, field in enumerate(struct.fields) if field.field_id == field_id), None)


def _get(record: Record, struct: StructType, field_id: int) -> Any:
    at = _position(struct, field_id)
    return None if at is None else record[at]


def _set(record: Record, struct: StructType, field_id: int, value: object) -> None:
    at = _position(struct, field_id)
    assert at is not None
    record[at] = value
