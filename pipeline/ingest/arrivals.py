"""Whether a night can start: its partition of the source has arrived, and the nights before it have landed."""

import glob
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.runs.context import Context
from pipeline.runs.landed import describe_days, find_first_landed, find_not_landed, find_without_activity
from pipeline.stores import explain_store_error, is_s3, open_location

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
        if not has_path(settings, settings.resolve_pattern(path, ds, escape=glob.escape), key):
            return f"{key}: nothing at {settings.resolve(path, ds)}"
    return None


def require_landed(context: Context, nights: Sequence[date]) -> None:
    """Refuse to go on after earlier nights whose runs failed, unless their days have landed since in another way.

    Days before the first that landed do not count, nor those that the source does not have.

    Raises:
        FunnelError: a day has not landed or is without its activity, and `audit.missed_nights` is `stop`.
    """
    first = find_first_landed(context)
    if not nights or first is None or context.settings.audit.missed_nights != "stop":
        return
    span = DateRange(min(nights), max(nights))
    incomplete = {*find_not_landed(context, span), *find_without_activity(context, span)}
    missed = [
        night
        for night in sorted(nights)
        if night >= first and night in incomplete and find_missing(context.settings, night) is None
    ]
    if missed:
        raise FunnelError(
            f"{describe_days(missed)} never landed, since {'its run' if len(missed) == 1 else 'their runs'} failed, so "
            "that events and withdrawals of consent are not known: clear the failed tasks, or run funnel backfill "
            f"--start {missed[0]} --end {missed[-1]}, and then clear this one"
        )


def days_delivered(settings: Settings) -> list[date]:
    """The days in the event source's folder, on this machine or on S3, oldest first; empty for any other source.

    Raises:
        FunnelError: the object store does not answer, or refuses.
    """
    path = settings.source.events.path
    if path is None or "{ds}" not in path or ("://" in path and not is_s3(path)):
        return []
    before, after = settings.resolve(path).split("{ds}", 1)
    # The path up to the folder or file that has the date in its name.
    pattern = re.compile(re.escape(before) + r"(\d{4}-\d{2}-\d{2})" + re.escape(after.split("/")[0]))
    days = []
    for each in _list_folder(settings, (before + "x").rpartition("/")[0]):
        # 2026-02-30 looks like a date, but is not a day.
        with suppress(ValueError):
            if found := pattern.fullmatch(each):
                days.append(date.fromisoformat(found[1]))
    return sorted(days)


def _list_folder(settings: Settings, folder: str) -> list[str]:
    """The paths or addresses of what is in a folder; none if it is not there."""
    if not is_s3(folder):
        return [str(each) for each in Path(folder).glob("*")]
    from pyarrow.fs import FileSelector

    try:
        system, inner = open_location(folder, settings.storage.iceberg)
        found = system.get_file_info(FileSelector(inner, allow_not_found=True))
    except OSError as error:
        raise explain_store_error(error) or FunnelError(f"{folder} cannot be looked at: {error}") from None
    return [f"{folder}/{each.base_name}" for each in found]


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


def has_path(settings: Settings, path: str, key: str) -> bool:
    """Whether a file or a complete folder is at an absolute path or an address.

    Args:
        key: the key of the configuration that names it.

    Raises:
        FunnelError: its file system cannot be looked at.
    """
    if "://" not in path:
        found = glob.glob(path) if glob.has_magic(path) else [path]  # noqa: PTH207  # Path's takes no absolute pattern
        return any(_is_complete(Path(each)) for each in found)
    import pyarrow as pa
    from pyarrow.fs import FileSelector, FileType

    # A pattern is reduced to the folder it starts in.
    folder = re.split(r"[*?\[{]", path, maxsplit=1)[0].rstrip("/")
    try:
        system, inner = open_location(folder, settings.storage.iceberg)
        found = system.get_file_info(inner)
        if found.type != FileType.Directory:
            return bool(found.type == FileType.File)
        names = [each.base_name for each in system.get_file_info(FileSelector(inner))]
    except (pa.ArrowException, OSError, ValueError) as error:
        of_store = explain_store_error(error)
        kind = type(of_store) if of_store else FunnelError
        raise kind(f"{key}: {path} cannot be looked at: {of_store or str(error).splitlines()[0]}") from None
    return _holds_data(names)


def _is_complete(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and _holds_data([each.name for each in path.iterdir()]))


def _holds_data(names: list[str]) -> bool:
    return IN_PROGRESS not in names and any(not name.startswith((".", "_")) for name in names)
