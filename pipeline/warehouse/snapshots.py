"""Iceberg snapshots: which ones a publish wrote, which one was current at a time, which ones must be kept."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise, zip_longest

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from pipeline.dates import epoch_micros
from pipeline.errors import FunnelError

PUBLISH_KEY = "funnel.publish"
"""Snapshot property shared by the snapshots of one publish. A swap writes two: the delete and the append."""

LANDED_WITH = "funnel.landed_with"
"""Snapshot property of what the configuration said as the newest events landed, see `runs/landed_with.py`."""


def publish_id(snapshot: Snapshot) -> str:
    """The id that the snapshots of one publish share; an append is a publish of its own."""
    return _properties(snapshot).get(PUBLISH_KEY, str(snapshot.snapshot_id))


def is_published(table: Table, publish: str) -> bool:
    """Whether a publish of this id was committed, even if it was rolled back since."""
    return any(publish_id(each) == publish for each in table.snapshots())


def find_property(table: Table, key: str) -> str | None:
    """The value of a property in the newest snapshot of the current one's lineage that has it."""
    return next((value for each in lineage(table) if (value := _properties(each).get(key)) is not None), None)


def lasting_properties(table: Table) -> dict[str, str]:
    """What a new snapshot keeps of those before it, which may expire or be erased."""
    found = find_property(table, LANDED_WITH)
    return {} if found is None else {LANDED_WITH: found}


def properties_of_rewrite(table: Table, current: Snapshot | None) -> dict[str, str]:
    """The properties of a snapshot that rewrites the current one: part of its publish, since a rollback undoes both."""
    return {} if current is None else {**lasting_properties(table), PUBLISH_KEY: publish_id(current)}


def _properties(snapshot: Snapshot) -> dict[str, str]:
    return snapshot.summary.additional_properties if snapshot.summary else {}


def lineage(table: Table) -> Iterator[Snapshot]:
    """The current snapshot, then its ancestors, as far as the table still lists them."""
    snapshot = table.current_snapshot()
    while snapshot is not None:
        yield snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = table.snapshot_by_id(parent) if parent is not None else None


def state_before_last_publish(table: Table) -> Snapshot | None:
    """The snapshot that was current before the last publish; None: there was none, or it has expired."""
    current, *ancestors = lineage(table)
    return next((each for each in ancestors if publish_id(each) != publish_id(current)), None)


def snapshot_at(table: Table, at: datetime) -> Snapshot | None:
    """The snapshot that readers saw at a time, rollbacks included; None before the table's first commit.

    Raises:
        FunnelError: the snapshot may have expired since; the message names the oldest time that can be read.
    """
    at_ms = epoch_micros(at) // 1000
    complete_since_ms = _complete_since_ms(table)
    if at_ms < complete_since_ms:
        oldest = _instant(complete_since_ms).astimezone(at.tzinfo).isoformat(" ", "milliseconds")
        raise FunnelError(
            f"table {table.name()[-1]!r} is no longer available as of {at.isoformat(' ', 'seconds')}: "
            f"the oldest time that can be read is {oldest}"
        )
    until_then = [snapshot for timestamp_ms, snapshot in _visible_snapshots(table) if timestamp_ms <= at_ms]
    return until_then[-1] if until_then else None


def first_commit(table: Table) -> datetime | None:
    """When the oldest of the table's remaining snapshots was committed."""
    stamps = [snapshot.timestamp_ms for snapshot in table.snapshots()]
    return _instant(min(stamps)) if stamps else None


def snapshots_to_keep(table: Table, *, since: datetime, publishes: int) -> set[int]:
    """Ids of the snapshots that a reader who arrived after `since` may have pinned, and of the last publishes."""
    since_ms = int(since.timestamp() * 1000)
    kept = {ref.snapshot_id for ref in table.refs().values()}
    kept |= {each.snapshot_id for each in table.snapshots() if each.timestamp_ms >= since_ms}
    # What counts is when a snapshot was replaced, not its age: a table last published a month ago is still read.
    log = table.history()
    kept |= {entry.snapshot_id for entry, until in pairwise(log) if until.timestamp_ms >= since_ms}
    found: set[str] = set()
    for snapshot in lineage(table):
        found.add(publish_id(snapshot))
        if len(found) > publishes:
            break
        kept.add(snapshot.snapshot_id)
    return kept


def _visible_snapshots(table: Table) -> Iterator[tuple[int, Snapshot]]:
    """What readers saw and since when (ms): all but the first half of a swap, which is never visible by itself."""
    logged = [(entry.timestamp_ms, table.snapshot_by_id(entry.snapshot_id)) for entry in table.history()]
    known = [(timestamp_ms, snapshot) for timestamp_ms, snapshot in logged if snapshot]
    for (timestamp_ms, snapshot), after in zip_longest(known, (snapshot for _, snapshot in known[1:])):
        if after is None or publish_id(after) != publish_id(snapshot) or not _appends(after):
            yield timestamp_ms, snapshot


def _appends(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation == Operation.APPEND


def _complete_since_ms(table: Table) -> int:
    """Since when no snapshot has expired. Snapshots are numbered consecutively, so a gap shows that some have."""
    since_ms = number = 0
    for snapshot in sorted(table.snapshots(), key=_number):
        if _number(snapshot) > number + 1:
            since_ms = snapshot.timestamp_ms
        number = _number(snapshot)
    if table.last_sequence_number > number:
        # The newest has expired, after a rollback made another one current.
        since_ms = max((entry.timestamp_ms for entry in table.history()), default=0)
    return since_ms


def _number(snapshot: Snapshot) -> int:
    return snapshot.sequence_number or 0


def _instant(timestamp_ms: int) -> datetime:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC)
