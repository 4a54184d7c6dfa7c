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

LONGEST_RACE_MS = 3_600_000
"""Between two commits to the same state of a table: one that takes longer to lose its race was no race."""


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
    # What every version of this table is, and when it was committed (ms).
    ours = {entry.metadata_file: entry.timestamp_ms for entry in table.metadata.metadata_log}
    ours[table.metadata_location] = table.metadata.last_updated_ms
    since_ms = min(ours.values())
    if metadata.last_updated_ms < since_ms:
        # Of long ago, and our own: only the last hundred are remembered.
        return False
    if any(each.metadata_file not in ours and each.timestamp_ms >= since_ms for each in metadata.metadata_log):
        return True
    # A commit that lost its race: nothing was committed upon it, and another one won about then.
    rivals = (time for name, time in ours.items() if version_of(name) == version_of(location))
    return all(abs(metadata.last_updated_ms - time) > LONGEST_RACE_MS for time in rivals)
