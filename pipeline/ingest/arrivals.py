"""Whether the source's partition of a night has arrived, which a night waits for."""

import glob
import re
from contextlib import suppress
from datetime import date
from pathlib import Path

from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError

IN_PROGRESS = "_temporary"
"""The folder that Hadoop's committers, Spark's among them, keep until a write is complete."""


def find_missing(settings: Settings, ds: date) -> str | None:
    """The first key of the configuration whose partition of `ds` has not arrived, with its path; None once all have.

    A reader waits for its `ready` if it has one, else for its `path`, unless a missing day is an empty one. A path
    without `{ds}` is not waited for, nor is a source without files.

    Raises:
        FunnelError: a path's file system cannot be looked at.
    """
    for key, path in _list_awaited(settings):
        if not _exists(settings.resolve_pattern(path, ds, escape=glob.escape), key):
            return f"{key}: nothing at {settings.resolve(path, ds)}"
    return None


def days_delivered(settings: Settings) -> list[date]:
    """The days in the event source's local folder, oldest first; empty for any other source."""
    path = settings.source.events.path
    if path is None or "{ds}" not in path or "://" in path:
        return []
    before, after = settings.resolve(path).split("{ds}", 1)
    # The path up to the folder or file that has the date in its name.
    pattern = re.compile(re.escape(before) + r"(\d{4}-\d{2}-\d{2})" + re.escape(after.split("/")[0]))
    days = []
    for each in Path(before + "x").parent.glob("*"):
        # 2026-02-30 looks like a date, but is not a day.
        with suppress(ValueError):
            if found := pattern.fullmatch(str(each)):
                days.append(date.fromisoformat(found[1]))
    return sorted(days)


def _list_awaited(settings: Settings) -> list[tuple[str, str]]:
    sources: list[tuple[str, Reader | None]] = [("events", settings.source.events), ("users", settings.source.users)]
    awaited = []
    for name, reader in sources:
        if reader is None:
            continue
        if reader.ready is not None:
            awaited.append((f"source.{name}.ready", reader.ready))
        elif reader.path is not None and reader.is_partitioned and reader.missing_day == "stop":
            awaited.append((f"source.{name}.path", reader.path))
    return awaited


def _exists(path: str, key: str) -> bool:
    if "://" not in path:
        found = glob.glob(path) if glob.has_magic(path) else [path]  # noqa: PTH207  # Path's takes no absolute pattern
        return any(_is_complete(Path(each)) for each in found)
    import pyarrow as pa
    from pyarrow.fs import FileSelector, FileSystem, FileType

    # Spark's s3a is S3 to other tools. A pattern is reduced to the folder it starts in.
    uri = re.sub(r"^s3[an]://", "s3://", re.split(r"[*?\[{]", path, maxsplit=1)[0].rstrip("/"))
    try:
        system, inner = FileSystem.from_uri(uri)
        found = system.get_file_info(inner)
        if found.type != FileType.Directory:
            return bool(found.type == FileType.File)
        names = [each.base_name for each in system.get_file_info(FileSelector(inner))]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise FunnelError(f"{key}: {path} cannot be looked at: {str(error).splitlines()[0]}") from None
    return _holds_data(names)


def _is_complete(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and _holds_data([each.name for each in path.iterdir()]))


def _holds_data(names: list[str]) -> bool:
    return IN_PROGRESS not in names and any(not name.startswith((".", "_")) for name in names)
