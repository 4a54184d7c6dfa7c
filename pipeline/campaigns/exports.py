"""Exports of target lists: the ids of the users to be texted, and nothing else of them, for whoever sends messages."""

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
from pipeline.campaigns.targets import campaign_named
from pipeline.errors import FunnelError, describe_error
from pipeline.files import write_atomically
from pipeline.runs.context import Context

Format = Literal["csv", "parquet"]


@dataclass(frozen=True)
class Export:
    """A file that holds the targets of one version of a list."""

    campaign: str
    ds: date
    version: int
    path: str
    users: int
    sha256: str
    is_new: bool
    """False: the file was there, with the same content."""


def export(
    context: Context,
    ds: date,
    campaign: str,
    *,
    version: int | None = None,
    format: Format | None = None,
    out: str | None = None,
) -> Export:
    """Write the `user_id` of a list's targets to a file, the best first, and note it in `exports`.

    Args:
        version: instead of the newest.
        format: instead of what `out` ends in, or CSV.
        out: a path or a URI; else `<[targeting] path>/<campaign>-<ds>-v<version>.<format>`.

    Raises:
        FunnelError: there is no such list, a file of other content is in the way, or the file cannot be written.
    """
    connection = connect(context.settings, "targets, exports")
    version = _version(context, connection, ds, campaign, version)
    of_version = {"ds": ds, "campaign": campaign, "version": version}
    ids = connection.sql(
        "SELECT user_id FROM targets WHERE ds = $ds AND campaign_id = $campaign AND version = $version "
        "AND arm = 'target' ORDER BY rank",
        params=of_version,
    ).to_arrow_table()
    format = format or ("parquet" if out and out.endswith(".parquet") else "csv")
    content = _as_csv(ids) if format == "csv" else _as_parquet(ids)
    folder = context.settings.resolve(context.settings.targeting.path).rstrip("/")
    path = out or f"{folder}/{campaign}-{ds}-v{version}.{format}"
    if "://" not in path:
        path = str(Path(path).resolve())
    noted = connection.execute(
        "SELECT sha256 FROM exports WHERE ds = $ds AND campaign_id = $campaign AND version = $version AND path = $path",
        of_version | {"path": path},
    ).fetchall()
    present = _digest_of_file(path)
    done = Export(campaign, ds, version, path, len(ids), hashlib.sha256(content).hexdigest(), present is None)
    if present is None:
        write_atomically(path, content, what=path, see="[targeting] path or --out")
    # Another release of Arrow may write the same ids as other bytes: those that were noted are this list's, too.
    elif present not in {done.sha256, *(sha256 for (sha256,) in noted)}:
        raise FunnelError(f"{path} holds something else than version {version} of {campaign!r}: name another --out")
    if not noted:
        # After the file: a run that dies in between leaves one that the next run finds and notes.
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
    was = "" if done.is_new else "; it was there, the same"
    context.notify(f"export    {ds}  {done.users:,} users of {campaign} version {version} in {path}{was}")
    return done


def _version(
    context: Context, connection: duckdb.DuckDBPyConnection, ds: date, campaign: str, version: int | None
) -> int:
    found = connection.execute(
        "SELECT DISTINCT version FROM targets WHERE ds = ? AND campaign_id = ? ORDER BY 1", [ds, campaign]
    ).fetchall()
    versions = [each for (each,) in found]
    if not versions:
        campaign_named(context.settings, campaign)
        raise FunnelError(
            f"no list of campaign {campaign!r} for {ds} yet: run `funnel targets --ds {ds} --campaign {campaign}` first"
        )
    if version is None:
        return int(versions[-1])
    if version not in versions:
        known = ", ".join(map(str, versions))
        raise FunnelError(f"no version {version} of campaign {campaign!r} for {ds}; there are {known}")
    return version


def _as_csv(ids: pa.Table) -> bytes:
    text = io.StringIO()
    # Quoted only where an id holds a comma or the like; what an id looks like is not changed for a spreadsheet.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ids.column_names)
    writer.writerows((user_id,) for user_id in ids["user_id"].to_pylist())
    return text.getvalue().encode()


def _as_parquet(ids: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(ids, stream)
    return stream.getvalue()


def _digest_of_file(path: str) -> str | None:
    """SHA-256 of a file's content; None if there is no file."""
    try:
        filesystem, inner = FileSystem.from_uri(path)
        kind = filesystem.get_file_info(inner).type
        if kind == FileType.NotFound:
            return None
        with filesystem.open_input_stream(inner, compression=None) as stream:
            return hashlib.sha256(stream.readall()).hexdigest()
    except (OSError, pa.ArrowInvalid) as error:
        raise FunnelError(f"{path} cannot be read: {describe_error(error)}; see [targeting] path or --out") from None
