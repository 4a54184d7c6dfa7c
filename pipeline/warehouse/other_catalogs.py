"""Metadata in a table's folder that its catalog does not know: of lost commits, or of another catalog's table.

A catalog that was restored from an old copy, or made anew, lies over files that a later or an earlier one has
committed. They look like orphans, and are somebody's rows.
"""

from collections.abc import Iterable, Iterator

from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from pipeline.warehouse.damage import version_of
from pipeline.warehouse.places import is_same_place


def metadata_of_others(table: Table, orphans: Iterable[str]) -> Iterator[tuple[str, TableMetadata]]:
    """The metadata files among a table's orphans that another catalog may have committed, with their content.

    Args:
        orphans: locations of files that the table's own metadata does not name.
    """
    for location in orphans:
        if not location.endswith(".metadata.json"):
            continue
        try:
            metadata = FromInputFile.table_metadata(table.io.new_input(location))
        except Exception:
            # Not to be read, so nobody's: half written by a killed run.
            continue
        if _is_of_another(table, location, metadata):
            yield location, metadata


def _is_of_another(table: Table, location: str, metadata: TableMetadata) -> bool:
    if not is_same_place(metadata.location, table.location()):
        # From before a relocation: what it names lies elsewhere.
        return False
    if metadata.table_uuid != table.metadata.table_uuid:
        return True
    if version_of(location) > version_of(table.metadata_location):
        return True
    # A commit that lost its race is a dead end: nothing was committed upon it. A commit of long ago is our own.
    known = {entry.metadata_file for entry in table.metadata.metadata_log} | {table.metadata_location}
    remembered_ms = min((entry.timestamp_ms for entry in table.metadata.metadata_log), default=0)
    return metadata.last_updated_ms >= remembered_ms and any(
        entry.metadata_file not in known and entry.timestamp_ms >= remembered_ms for entry in metadata.metadata_log
    )
