"""Which Iceberg snapshots one publish made, and which of a table's snapshots somebody may still need."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise, zip_longest

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from pipeline.dates import epoch_micros
from pipeline.errors import FunnelError

PUBLISH_KEY = "funnel.publish"
"""Snapshot property shared by all snapshots of one publish (a swap writes two: the delete and the append)."""


def publish_id(snapshot: Snapshot) -> str:
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


def state_before_last_publish(table: Table) -> Snapshot | None:
    """The state that the last publish found."""
    current, *ancestors = history(table)
    return next((each for each in ancestors if publish_id(each) != publish_id(current)), None)


def snapshot_at(table: Table, at: datetime) -> Snapshot | None:
    """The snapshot that readers saw at a time, rollbacks included; none before the table's first commit.

    Raises:
        FunnelError: it may have been one that has expired since; names the oldest time that can be read.
    """
    at_ms = epoch_micros(at) // 1000
    known_from_ms = _known_from_ms(table)
    if at_ms < known_from_ms:
        oldest = _instant(known_from_ms).astimezone(at.tzinfo).isoformat(" ", "milliseconds")
        raise FunnelError(
            f"table {table.name()[-1]!r} is no longer kept as it stood at {at.isoformat(' ', 'seconds')}: "
            f"the oldest time that can be read is {oldest}"
        )
    seen = [snapshot for timestamp_ms, snapshot in _seen(table) if timestamp_ms <= at_ms]
    return seen[-1] if seen else None


def first_commit(table: Table) -> datetime | None:
    """When the table's oldest snapshot was committed, of those it still knows."""
    stamps = [snapshot.timestamp_ms for snapshot in table.snapshots()]
    return _instant(min(stamps)) if stamps else None


def _seen(table: Table) -> Iterator[tuple[int, Snapshot]]:
    """What readers saw, and from when on: all but the first half of a swap, which nobody saw by itself."""
    logged = [(entry.timestamp_ms, table.snapshot_by_id(entry.snapshot_id)) for entry in table.history()]
    known = [(timestamp_ms, snapshot) for timestamp_ms, snapshot in logged if snapshot]
    for (timestamp_ms, snapshot), after in zip_longest(known, (snapshot for _, snapshot in known[1:])):
        if after is None or publish_id(after) != publish_id(snapshot) or not _appends(after):
            yield timestamp_ms, snapshot


def _appends(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation == Operation.APPEND


def _known_from_ms(table: Table) -> int:
    """Since when every state is there still. Snapshots are numbered one by one, so that a gap tells of expired ones."""
    known_from_ms = number = 0
    for snapshot in sorted(table.snapshots(), key=_number):
        if _number(snapshot) > number + 1:
            known_from_ms = snapshot.timestamp_ms
        number = _number(snapshot)
    if table.last_sequence_number > number:
        # The newest has expired: a rollback had made another one current.
        known_from_ms = max((entry.timestamp_ms for entry in table.history()), default=0)
    return known_from_ms


def _number(snapshot: Snapshot) -> int:
    return snapshot.sequence_number or 0


def _instant(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)


def snapshots_to_keep(table: Table, *, since: datetime, publishes: int) -> set[int]:
    """Snapshots that a reader who came `since` then may have pinned, and the states of the last publishes."""
    since_ms = int(since.timestamp() * 1000)
    kept = {ref.snapshot_id for ref in table.refs().values()}
    kept |= {each.snapshot_id for each in table.snapshots() if each.timestamp_ms >= since_ms}
    # A snapshot's own age is not what counts: a table that was last published a month ago is read to this day.
    log = table.history()
    kept |= {entry.snapshot_id for entry, until in pairwise(log) if until.timestamp_ms >= since_ms}
    found: set[str] = set()
    for snapshot in history(table):
        found.add(publish_id(snapshot))
        if len(found) > publishes:
            break
        kept.add(snapshot.snapshot_id)
    return kept
