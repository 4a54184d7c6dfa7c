"""Keeps the warehouse small: many small files become one, old snapshots are forgotten, orphans removed.

Never what a reader or a rollback still needs: a snapshot that was current within `keep_days`, the states of the last
`keep_publishes`, and files younger than `orphan_hours`, which a run may have staged and not yet committed.
"""

from datetime import UTC, date, datetime, timedelta

from pipeline.runs.context import Context
from pipeline.warehouse.upkeep import Cleared, Compacted

MADE_FROM = ("activity", "users")
"""A state of `known_users` holds while these tables' files are what it was made from; written anew, they would make
the next night read all history again. Spark writes their days in few files as it is."""
KEPT_NIGHTS = 90
"""States of `known_users` and samples of features older than so many nights before the newest are dropped: a state has
a row a user, and a backfill further back reads the history before it once, as the first night did. A sample has told
its night's monitoring, and the model trained as of it, what they needed."""


def maintain(context: Context, *, dry_run: bool = False, now: datetime | None = None) -> None:
    """Compact, expire and clear every table; tells a line of each that changed.

    Args:
        dry_run: only tell what would be done.
        now: the moment that ages are counted from; the present if it is not given.

    Raises:
        FunnelError: the warehouse cannot be written, or others commit too often to come between.
    """
    warehouse, options = context.warehouse, context.settings.maintenance
    now = now or datetime.now(UTC)
    # The newest of the old states stays: the nights after it start from it.
    changed = _drop_old(context, "known_users", "states", spared=1, dry_run=dry_run)
    changed |= _drop_old(context, "feature_samples", "samples", spared=0, dry_run=dry_run)
    for name in warehouse.tables:
        compacted = Compacted()
        if name not in MADE_FROM:
            compacted = warehouse.compact(name, more_than=options.compact_files, dry_run=dry_run)
        cleared = warehouse.clear(
            name,
            since=now - timedelta(days=options.keep_days),
            publishes=options.keep_publishes,
            older_than=now - timedelta(hours=options.orphan_hours),
            dry_run=dry_run,
        )
        if line := _describe(compacted, cleared, dry_run=dry_run):
            changed = True
            context.notify(f"{name:<11} {line}")
    if not changed:
        context.notify("nothing to clear away")


def _drop_old(context: Context, name: str, what: str, *, spared: int, dry_run: bool) -> bool:
    """Drop a table's partitions of long ago, but for the newest few of them; whether there were any."""
    days = sorted(context.warehouse.row_counts(name, first=date.min, last=date.max))
    old = [day for day in days if day <= days[-1] - timedelta(days=KEPT_NIGHTS)]
    old = old[: len(old) - spared]
    if not old:
        return False
    if not dry_run:
        context.warehouse.publish(name, (), first=old[0], last=old[-1], summary={"funnel.run_id": context.run_id})
    context.notify(f"{name:<11} {len(old)} {what} until {old[-1]} {_verb('dropped', dry_run)}")
    return True


def _describe(compacted: Compacted, cleared: Cleared, *, dry_run: bool) -> str:
    parts = []
    if compacted.files:
        parts.append(f"{compacted.files:,} files {_verb('compacted', dry_run)} into {compacted.into:,}")
    if cleared.snapshots:
        parts.append(f"{cleared.snapshots:,} snapshots {_verb('expired', dry_run)}")
    if cleared.files:
        parts.append(f"{cleared.files:,} orphans {_verb('removed', dry_run)} ({_size(cleared.bytes)})")
    return ", ".join(parts)


def _verb(done: str, dry_run: bool) -> str:
    return f"would be {done}" if dry_run else done


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} GB"
