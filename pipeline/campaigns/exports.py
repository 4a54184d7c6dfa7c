"""Exports of target lists, for whatever sends the messages: the ids of the users to text, and nothing else.

A version of a list never changes. What goes out is checked again on the way: see `rechecks.py`.
"""

import csv
import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analyst.connection import connect
from pipeline.campaigns.rechecks import Recheck, describe_age, find_newest_landing, recheck_targets
from pipeline.campaigns.rules import find_campaign
from pipeline.errors import FunnelError
from pipeline.files import read_whole, write_atomically
from pipeline.runs.context import Context
from pipeline.secrets import mask
from pipeline.text import find_unsafe
from pipeline.warehouse.exclusion import writing

Format = Literal["csv", "parquet"]


@dataclass(frozen=True)
class Export:
    """A file with the targets of one version of a list who may still be texted."""

    campaign: str
    ds: date
    version: int
    path: str
    users: int
    withdrawn: int
    """Targets left out because they have withdrawn consent since the list was made."""
    completed: int
    """Other targets left out because they have reached the last stage since."""
    sha256: str
    is_new: bool
    """False: the file existed, with the same users."""


def export(
    context: Context,
    ds: date,
    campaign: str,
    *,
    version: int | None = None,
    format: Format | None = None,
    out: str | None = None,
) -> Export:
    """Write the `user_id` of a list's targets to a file, best first, and record it in `exports`.

    Consent and completion are checked against all that has landed by now: who may no longer be texted is left out and
    counted. The list stays as it is. A file that an earlier export of this version has left with other users is
    replaced, so that whoever sends from it texts nobody who has withdrawn since.

    Args:
        version: the newest unless given.
        format: CSV, or Parquet if `out` ends in .parquet, unless given.
        out: a path or a URI; by default `<[targeting] path>/<campaign>-<ds>-v<version>.<format>`.

    Raises:
        FunnelError: no such list, a file with other content is in the way, an id that is not safe in CSV, or the file
            cannot be written.
    """
    with writing(context.settings, notify=context.notify):
        return _export(context, ds, campaign, version=version, format=format, out=out)


def _export(
    context: Context, ds: date, campaign: str, *, version: int | None, format: Format | None, out: str | None
) -> Export:
    with connect(context.settings, "targets, exports, users, activity, events") as connection:
        version = _find_version(context, connection, ds, campaign, version)
        recheck = recheck_targets(connection, context.settings, ds, campaign, version)
        earlier = connection.execute(
            "SELECT path, sha256 FROM exports WHERE ds = ? AND campaign_id = ? AND version = ? ORDER BY exported_at",
            [ds, campaign, version],
        ).fetchall()
    landed_until = find_newest_landing(context)
    format = format or ("parquet" if out and out.endswith(".parquet") else "csv")
    ids = pa.table({"user_id": pa.array(recheck.user_ids, pa.string())})
    content = _encode_csv(ids) if format == "csv" else _encode_parquet(ids)
    folder = context.settings.resolve(context.settings.targeting.path).rstrip("/")
    path = out or f"{folder}/{campaign}-{ds}-v{version}.{format}"
    if "://" not in path:
        path = str(Path(path).resolve())
    # A URI may hold a password.
    shown = mask(path)
    recorded = [sha256 for its_path, sha256 in earlier if its_path == shown]
    see, storage = "[targeting] path or --out", context.settings.storage.iceberg
    present = read_whole(path, see=see, storage=storage)
    if present is not None and not _holds(present, content, ids, format) and _digest(present) not in recorded:
        raise FunnelError(f"{path} holds something other than version {version} of {campaign!r}: choose another --out")
    is_new = present is None or not _holds(present, content, ids, format)
    if is_new:
        write_atomically(path, content, what=path, see=see, storage=storage, is_private=True)
    sha256 = _digest(content if is_new or present is None else present)
    done = Export(
        campaign, ds, version, shown, len(ids), recheck.withdrawn, recheck.completed, sha256=sha256, is_new=is_new
    )
    if recorded[-1:] != [sha256]:
        # After the file: if a run dies in between, the next one finds the file and records it.
        row = {
            "ds": ds,
            "campaign_id": campaign,
            "version": version,
            "path": shown,
            "users": done.users,
            "withdrawn": done.withdrawn,
            "completed": done.completed,
            "landed_until": landed_until,
            "sha256": sha256,
            "exported_at": datetime.now(UTC),
            "run_id": context.run_id,
        }
        context.warehouse.append("exports", [row])
    if recheck.left_out:
        context.notify(f"warning: export {ds}: {_describe_left_out(recheck, done, landed_until)}")
    if age := describe_age(ds, landed_until, campaign):
        context.notify(f"warning: export {ds}: {age}")
    what_became = (
        "" if present is None else "; it replaces an earlier export" if is_new else "; it was already there, unchanged"
    )
    context.notify(f"export    {ds}  {done.users:,} users of {campaign} version {version} in {path}{what_became}")
    return done


def _describe_left_out(recheck: Recheck, done: Export, landed_until: date | None) -> str:
    reasons = [
        f"{users:,} {reason}"
        for users, reason in (
            (recheck.withdrawn, "have withdrawn consent"),
            (recheck.completed, "have completed"),
        )
        if users
    ]
    return (
        f"{recheck.left_out:,} of {recheck.targets:,} targets of {done.campaign} version {done.version} are left out: "
        f"{' and '.join(reasons)} since {done.ds}, by what landed until {landed_until}"
    )


def _holds(present: bytes, content: bytes, ids: pa.Table, format: Format) -> bool:
    """Whether a file has the wanted users; another release of Arrow may write the same ones as different bytes."""
    if present == content:
        return True
    if format == "csv":
        return False
    with suppress(pa.ArrowInvalid):
        return bool(pq.read_table(io.BytesIO(present)).equals(ids))
    return False


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _find_version(
    context: Context, connection: duckdb.DuckDBPyConnection, ds: date, campaign: str, version: int | None
) -> int:
    found = connection.execute(
        "SELECT DISTINCT version FROM targets WHERE ds = ? AND campaign_id = ? ORDER BY 1", [ds, campaign]
    ).fetchall()
    versions = [each for (each,) in found]
    if not versions:
        find_campaign(context.settings, campaign)
        raise FunnelError(
            f"no list of campaign {campaign!r} for {ds} yet: run `funnel targets --ds {ds} --campaign {campaign}` first"
        )
    if version is None:
        return int(versions[-1])
    if version not in versions:
        known = ", ".join(map(str, versions))
        raise FunnelError(f"no version {version} of campaign {campaign!r} for {ds}; its versions are {known}")
    return version


def _encode_csv(ids: pa.Table) -> bytes:
    """CSV of the ids, each as it is: quoted if it needs to be, never altered to suit a spreadsheet.

    Raises:
        FunnelError: an id would be a formula in a spreadsheet, or holds control characters.
    """
    user_ids = ids["user_id"].to_pylist()
    if unsafe := find_unsafe(user_ids):
        raise FunnelError(
            f"{len(unsafe):,} of {len(user_ids):,} user ids, such as {unsafe[0]!r}, are formulas to a spreadsheet or "
            "hold control characters, which CSV cannot carry safely: export the list with --format parquet"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ids.column_names)
    writer.writerows((user_id,) for user_id in user_ids)
    return text.getvalue().encode()


def _encode_parquet(ids: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(ids, stream)
    return stream.getvalue()
