"""Runs on one machine that land days at the same time take turns: a later day waits for those before it.

A run announces its days by a locked file in the warehouse's folder; the lock goes with the process, however it ends.
Runs on several machines are the DAG's to order.
"""

import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

from pipeline.config.features import longest_window
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.runs.context import Context

FOLDER = ".landing"
POLL_SECONDS = 0.5
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})_(\d{4}-\d{2}-\d{2})_[0-9a-f]+")


@contextmanager
def take_turn(context: Context, dates: DateRange) -> Iterator[None]:
    """Announce that a run lands these days, and wait until those before them that are being landed have landed.

    A catalog that is not the default one has no folder of its own: nothing is announced there, nor in a folder that
    cannot be written, which the warehouse itself will tell.
    """
    folder = _find_folder(context.settings)
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    if folder is None or not os.access(folder, os.W_OK):
        yield
        return
    path = folder / f"{dates.first}_{dates.last}_{uuid.uuid4().hex}"
    draft = path.with_suffix(".draft")
    with draft.open("x") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Only now by its name: nobody sees it unlocked.
        draft.rename(path)
        try:
            wait_for_earlier(context, dates)
            yield
        finally:
            path.unlink(missing_ok=True)


def wait_for_earlier(context: Context, dates: DateRange) -> None:
    """Wait while other runs land days that these look back on. A run never waits for one that starts on its own day."""
    reach = max(longest_window(context.settings), context.settings.source.events.lookback_days)
    told: set[Path] = set()
    while landing := _find_landing(context.settings, dates, reach):
        for path, days in landing.items():
            if path not in told:
                context.notify(f"waiting for another run that is landing {days}")
                told.add(path)
        time.sleep(POLL_SECONDS)


def _find_landing(settings: Settings, dates: DateRange, reach: int) -> dict[Path, DateRange]:
    """The files of runs that are landing earlier days, up to `reach` days before, with their days."""
    folder, found = _find_folder(settings), {}
    for path in sorted(folder.iterdir()) if folder is not None and folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        days = DateRange(date.fromisoformat(match[1]), date.fromisoformat(match[2]))
        if days.first < dates.first and days.last >= dates.first - timedelta(days=reach) and _is_locked(path):
            found[path] = days
    return found


def _is_locked(path: Path) -> bool:
    """Whether the run that made the file is alive; the file of one that was killed is removed."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
    return False


def _find_folder(settings: Settings) -> Path | None:
    return None if settings.warehouse.catalog else Path(settings.resolve(settings.warehouse.path)) / FOLDER
