"""Which Iceberg snapshots one publish made, and which of a table's snapshots somebody may still need."""

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

PUBLISH_KEY = "funnel.publish"
"""Snapshot property shared by all snapshots of one publish (a swap writes two: the delete and the append)."""


def publish_of(snapshot: Snapshot) -> str:
    """What snapshots of one publish have in common; an append is a publish of its own."""
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    return properties.get(PUBLISH_KEY, str(snapshot.snapshot_id))


def history(table: Table) -> Iterator[Snapshot]:
    """The current snapshot, then its ancestors as far as the table still knows them."""
    snapshot = table.current_snapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None


def before_publish(table: Table) -> Snapshot | None:
    """The state that the last publish found."""
    current, *ancestors = history(table)
    return next((each for each in ancestors if publish_of(each) != publish_of(current)), None)


def needed(table: Table, *, since: datetime, publishes: int) -> set[int]:
    """Snapshots that a reader who came `since` then may have pinned, and the states of the last publishes."""
    since_ms = int(since.timestamp() * 1000)
    kept = {ref.snapshot_id for ref in table.refs().values()}
    kept |= {each.snapshot_id for each in table.snapshots() if each.timestamp_ms >= since_ms}
    # A snapshot's own age is not what counts: a table that was last published a month ago is read to this day.
    log = table.history()
    kept |= {entry.snapshot_id for entry, until in pairwise(log) if until.timestamp_ms >= since_ms}
    found: set[str] = set()
    for snapshot in history(table):
        found.add(publish_of(snapshot))
        if len(found) > publishes:
            break
        kept.add(snapshot.snapshot_id)
    return kept
