"""`funnel erase`: removes users from everything the company keeps, proves it, and names the models that knew them.

First who is erased is written down; then the tables, the reports; then every file is read again. Only if none names one
of them is the erasure done. Killed anywhere in between, the next `funnel erase` goes on, since each step finds what is
left for it in the files themselves.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.erasure.models import find_trained_on, scan_models
from pipeline.erasure.places import find_exports, rewrite_reports, scan_reports, scan_rest_of_warehouse
from pipeline.erasure.sought import SoughtUsers
from pipeline.errors import FunnelError
from pipeline.runs.context import Context
from pipeline.runs.erasures import (
    Pending,
    drop_pending,
    read_erased,
    read_pending,
    write_pending,
)
from pipeline.warehouse.erasure import Scanned
from pipeline.warehouse.exclusion import alone

SHOWN = 5


def erase(context: Context, user_ids: Collection[str]) -> None:
    """Erase users, or finish an erasure that was broken off; report each step in one line.

    Args:
        user_ids: as the tables have them; none, to finish an erasure only.

    Raises:
        TransientError: something else is writing to the warehouse; nothing changed.
        FunnelError: nobody is to be erased, or files still name somebody at the end; names them.
    """
    settings = context.settings
    with alone(settings):
        pending = read_pending(settings)
        if pending:
            context.notify(f"finishing {pending}")
        elif not user_ids:
            raise FunnelError("nobody to erase: name a user with --user, or a file of ids with --file")
        if settings.warehouse.catalog:
            context.notify("warning: runs on other machines are not seen from here: make sure that none is under way")
        begun = _plan(context, pending, user_ids)
        if begun is None:
            return
        pending, tables = begun
        write_pending(settings, pending)
        _record(context, pending, "begun")
        sought = SoughtUsers(pending.user_ids)
        _erase_from_tables(context, sought, tables)
        for path in rewrite_reports(settings, sought):
            context.notify(f"erase     {path}: their ids are replaced")
        proof = _prove(context, sought)
        _record(context, pending, "done", proof)
        drop_pending(settings)
        _tell_end(context, pending, sought, proof)


def _plan(context: Context, pending: Pending | None, user_ids: Collection[str]) -> tuple[Pending, list[str]] | None:
    """Whom to erase, and from which tables; None if nobody is there."""
    asked = sorted({*user_ids, *(pending.user_ids if pending else ())})
    sought = SoughtUsers(asked)
    scans = {name: context.warehouse.scan(name, sought) for name in context.warehouse.tables}
    others = scan_reports(context.settings, sought)
    there = {*sought.seen, *(pending.user_ids if pending else ())}
    if absent := [each for each in asked if each not in there]:
        more = f" and {len(absent) - SHOWN:,} more" if len(absent) > SHOWN else ""
        files = sum(others.files.values()) + sum(sum(each.files.values()) for each in scans.values())
        named = ", ".join(map(repr, absent[:SHOWN]))
        context.notify(f"not there: {named}{more}; none of {files:,} files has them, and nothing is done about them")
    if not there:
        return None
    trained_on, perhaps = find_trained_on(context, there)
    if pending is None:
        pending = Pending(context.run_id, datetime.now(UTC).isoformat(), ())
    # What an erasure that was broken off has found is no longer there to be found.
    pending = replace(
        pending,
        user_ids=tuple(sorted(there)),
        models=tuple(sorted({*pending.models, *trained_on})),
        perhaps=tuple(sorted({*pending.perhaps, *perhaps})),
    )
    return pending, [name for name, scanned in scans.items() if scanned.hits or scanned.unreadable]


def _erase_from_tables(context: Context, sought: SoughtUsers, tables: Iterable[str]) -> None:
    for name in tables:
        erased = context.warehouse.erase(name, sought)
        context.notify(
            f"erase     {name:<18} {erased.rows:,} rows gone, {erased.rewritten:,} files written anew, "
            f"{erased.snapshots:,} old snapshots and {erased.files:,} old files removed"
        )


def _prove(context: Context, sought: SoughtUsers) -> Scanned:
    """Read every file again.

    Raises:
        FunnelError: one still names somebody, or cannot be read.
    """
    proof = Scanned()
    for name in context.warehouse.tables:
        proof += context.warehouse.scan(name, sought)
    proof += scan_rest_of_warehouse(context.settings, sought, list(context.warehouse.tables))
    proof += scan_models(context, sought)
    proof += scan_reports(context.settings, sought)
    if left := [*proof.hits, *proof.unreadable]:
        more = f" and {len(left) - SHOWN:,} more" if len(left) > SHOWN else ""
        raise FunnelError(
            f"the erasure is not finished: {len(proof.hits):,} files still name a user, {len(proof.unreadable):,} "
            f"cannot be read: {'; '.join(left[:SHOWN])}{more}; remove or mend them, then run `funnel erase` again"
        )
    return proof


def _record(context: Context, pending: Pending, status: str, proof: Scanned | None = None) -> None:
    """Write one row a user to `erasures`, unless a run that was killed has."""
    erased = read_erased(context.warehouse)
    now = datetime.now(context.settings.zone)
    known = context.warehouse.arrow("erasures", first=datetime.min.date(), last=datetime.max.date()).to_pylist()
    has = {row["user_hash"] for row in known if (row["erasure_id"], row["status"]) == (pending.erasure_id, status)}
    rows = [
        {
            "erasure_id": pending.erasure_id,
            "status": status,
            "salt": erased.salt,
            "user_hash": user_hash,
            "models": ", ".join((*pending.models, *pending.perhaps)) if proof else None,
            "files_scanned": sum(proof.files.values()) if proof else None,
            "recorded_at": now.astimezone(UTC),
            "ds": now.date(),
        }
        for user_hash in map(erased.hash, pending.user_ids)
        if user_hash not in has
    ]
    if rows:
        context.warehouse.append("erasures", rows)


def _tell_end(context: Context, pending: Pending, sought: SoughtUsers, proof: Scanned) -> None:
    count = len(pending.user_ids)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in proof.files.items())
    context.notify(f"proof     {sum(proof.files.values()):,} files read ({kinds}): 0 hits")
    if plain := sorted(sought.ids - sought.distinctive):
        context.notify(
            f"warning: {len(plain):,} ids, such as {plain[0]!r}, could as well be words or numbers: in texts they "
            "counted in quotes only, in models not at all"
        )
    if pending.models:
        context.notify(f"models trained on them: {', '.join(pending.models)}; train again for one that is not")
    if pending.perhaps:
        context.notify(f"models perhaps trained on them, their examples being gone: {', '.join(pending.perhaps)}")
    if not pending.models and not pending.perhaps:
        context.notify("no model was trained on them")
    for path in find_exports(context, sought):
        context.notify(f"warning: {path} still lists them, and is left as it is: export the list again, or remove it")
    context.notify("what the source delivers of them from now on is left out at ingest; the source is not changed")
    context.notify("backups made earlier still have them; the next night reads all history once for known_users")
    context.notify(f"erased    {count:,} user{'s' * (count != 1)}")
