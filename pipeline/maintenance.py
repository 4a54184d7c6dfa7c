"""Keeps the warehouse small: drops what `[retention]` no longer keeps, compacts, expires snapshots, removes orphans.

It never touches what a reader or a rollback may still need: snapshots that were current within `keep_days`, the last
`keep_publishes` publishes, and files younger than `orphan_hours`, which a run may have staged but not yet committed.
"""

from datetime import UTC, date, datetime, timedelta

from pipeline.runs.context import Context
from pipeline.warehouse.exclusion import writing
from pipeline.warehouse.upkeep import Cleaned, Compacted

NEVER_COMPACTED = ("activity", "users")
"""A state of `known_users` is valid only for the files it was made from: rewriting these tables would make the next
night read all history again. Spark writes few files a day to them anyway."""
KEPT_NIGHTS = 90
"""States of `known_users` and feature samples are dropped at this age, counted from the newest. A state has one row per
user, and a backfill further back rebuilds it from history once, as the first night did. A sample is no longer needed
once its night is monitored and the model as of that night is trained."""


def maintain(context: Context, *, dry_run: bool = False, now: datetime | None = None) -> None:
    """Compact, expire and clean up every table; report each changed table in one line.

    Args:
        dry_run: only report what would be done.
        now: the time ages are counted from; the current time by default.

    Raises:
        FunnelError: the warehouse cannot be written, or other writers commit too often for this one to get a turn.
    """
    with writing(context.settings, notify=context.notify):
        _maintain(context, dry_run=dry_run, now=now)


def _maintain(context: Context, *, dry_run: bool, now: datetime | None) -> None:
    warehouse, options = context.warehouse, context.settings.maintenance
    now = now or datetime.now(UTC)
    changed = _drop_expired(context, now, dry_run=dry_run)
    # Keep the newest of the old states: the nights after it start from it.
    changed |= _drop_old(context, "known_users", "states", spare=1, dry_run=dry_run)
    changed |= _drop_old(context, "feature_samples", "samples", spare=0, dry_run=dry_run)
    for name in warehouse.tables:
        compacted = Compacted()
        if name not in NEVER_COMPACTED:
            compacted = warehouse.compact(name, more_than=options.compact_files, dry_run=dry_run)
        cleaned = warehouse.clean(
            name,
            since=now - timedelta(days=options.keep_days),
            publishes=options.keep_publishes,
            older_than=now - timedelta(hours=options.orphan_hours),
            dry_run=dry_run,
        )
        if line := _describe(compacted, cleaned, dry_run=dry_run):
            changed = True
            context.notify(f"{name:<11} {line}")
    if not changed:
        context.notify("nothing to clear away")


def _drop_expired(context: Context, now: datetime, *, dry_run: bool) -> bool:
    """Drop the partitions that `[retention]` no longer keeps; return whether there were any."""
    today = now.astimezone(context.settings.zone).date()
    changed = False
    for name, days in context.settings.retention.model_dump(exclude_none=True).items():
        last = today - timedelta(days=days + 1)
        old = context.warehouse.row_counts(name, first=date.min, last=last)
        if not old:
            continue
        changed = True
        if not dry_run:
            summary = {"funnel.run_id": context.run_id}
            context.warehouse.publish(name, (), first=min(old), last=last, summary=summary)
        would = "would be " if dry_run else ""
        context.notify(
            f"{name:<11} {sum(old.values()):,} rows of {len(old):,} days until {max(old)} {would}dropped: "
            f"retention.{name} = {days}"
        )
    return changed


def _drop_old(context: Context, name: str, what: str, *, spare: int, dry_run: bool) -> bool:
    """Drop a table's old partitions except the newest `spare` of them; return whether there were any to drop."""
    days = sorted(context.warehouse.row_counts(name, first=date.min, last=date.max))
    old = [day for day in days if day <= days[-1] - timedelta(days=KEPT_NIGHTS)]
    old = old[: len(old) - spare]
    if not old:
        return False
    if not dry_run:
        context.warehouse.publish(name, (), first=old[0], last=old[-1], summary={"funnel.run_id": context.run_id})
    would = "would be " if dry_run else ""
    context.notify(f"{name:<11} {len(old)} {what} until {old[-1]} {would}dropped")
    return True


def _describe(compacted: Compacted, cleaned: Cleaned, *, dry_run: bool) -> str:
    would, parts = "would be " if dry_run else "", []
    if compacted.files:
        parts.append(f"{compacted.files:,} files {would}compacted into {compacted.into:,}")
    if cleaned.snapshots:
        parts.append(f"{cleaned.snapshots:,} snapshots {would}expired")
    if cleaned.files:
        parts.append(f"{cleaned.files:,} orphans {would}removed ({_format_size(cleaned.bytes)})")
    if cleaned.kept:
        # What another catalog has committed is never removed, and told each time: somebody has to decide whose it is.
        parts.append(f"{cleaned.kept:,} files kept that {cleaned.of} names, which this catalog does not know")
    if cleaned.older:
        parts.append(f"{cleaned.older:,} files kept that are older than the table, though nothing names them")
    return ", ".join(parts)


def _format_size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} GB"
