"""Exports of target lists, for whatever sends the messages: the ids of the users to text, and nothing else."""

import csv
import hashlib
import io
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, FileType

from pipeline.analyst.connection import connect
from pipeline.campaigns.rules import find_campaign
from pipeline.errors import FunnelError, describe_error
from pipeline.files import write_atomically
from pipeline.runs.context import Context

Format = Literal["csv", "parquet"]


@dataclass(frozen=True)
class Export:
    """A file with the targets of one version of a list."""

    campaign: str
    ds: date
    version: int
    path: str
    users: int
    sha256: str
    is_new: bool
    """False: the file existed, with the same content."""


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

    Args:
        version: the newest unless given.
        format: CSV, or Parquet if `out` ends in .parquet, unless given.
        out: a path or a URI; by default `<[targeting] path>/<campaign>-<ds>-v<version>.<format>`.

    Raises:
        FunnelError: no such list, a file with other content is in the way, or the file cannot be written.
    """
    with connect(context.settings, "targets, exports") as connection:
        version = _find_version(context, connection, ds, campaign, version)
        key = {"ds": ds, "campaign": campaign, "version": version}
        ids = connection.sql(
            "SELECT user_id FROM targets WHERE ds = $ds AND campaign_id = $campaign AND version = $version "
            "AND arm = 'target' ORDER BY rank",
            params=key,
        ).to_arrow_table()
        earlier = connection.execute(
            "SELECT path, sha256 FROM exports WHERE ds = $ds AND campaign_id = $campaign AND version = $version", key
        ).fetchall()
    format = format or ("parquet" if out and out.endswith(".parquet") else "csv")
    content = _encode_csv(ids) if format == "csv" else _encode_parquet(ids)
    folder = context.settings.resolve(context.settings.targeting.path).rstrip("/")
    path = out or f"{folder}/{campaign}-{ds}-v{version}.{format}"
    if "://" not in path:
        path = str(Path(path).resolve())
    recorded = {sha256 for its_path, sha256 in earlier if its_path == path}
    present = _hash_file(path)
    done = Export(campaign, ds, version, path, len(ids), hashlib.sha256(content).hexdigest(), present is None)
    if present is None:
        write_atomically(path, content, what=path, see="[targeting] path or --out")
    # Another release of Arrow may write the same ids as different bytes: a recorded file is this list's as well.
    elif present not in {done.sha256, *recorded}:
        raise FunnelError(f"{path} holds something other than version {version} of {campaign!r}: choose another --out")
    if not recorded:
        # After the file: if a run dies in between, the next one finds the file and records it.
        row = {
            "ds": ds,
            "campaign_id": campaign,
            "version": version,
            "path": path,
            "users": done.users,
            "sha256": done.sha256,
            "exported_at": datetime.now(UTC),
            "run_id": context.run_id,
        }
        context.warehouse.append("exports", [row])
    unchanged = "" if done.is_new else "; it was already there, unchanged"
    context.notify(f"export    {ds}  {done.users:,} users of {campaign} version {version} in {path}{unchanged}")
    return done


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
    text = io.StringIO()
    # Quoted only if an id needs it, such as one with a comma; no id is altered to suit a spreadsheet.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ids.column_names)
    writer.writerows((user_id,) for user_id in ids["user_id"].to_pylist())
    return text.getvalue().encode()


def _encode_parquet(ids: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(ids, stream)
    return stream.getvalue()


def _hash_file(path: str) -> str | None:
    """SHA-256 of a file's content; None if the file does not exist."""
    try:
        filesystem, inner = FileSystem.from_uri(path)
        kind = filesystem.get_file_info(inner).type
        if kind == FileType.NotFound:
            return None
        with filesystem.open_input_stream(inner, compression=None) as stream:
            return hashlib.sha256(stream.readall()).hexdigest()
    except (OSError, pa.ArrowInvalid) as error:
        raise FunnelError(f"{path} cannot be read: {describe_error(error)}; see [targeting] path or --out") from None
