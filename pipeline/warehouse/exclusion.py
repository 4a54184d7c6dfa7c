"""Keeps an erasure and whatever else writes to a warehouse apart: many writers at once, or one erasure alone.

The lock is on the warehouse's folder and ends with the process that holds it, however that ends. It knows nothing of
processes on machines that do not share the folder.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.config.settings import Settings
from pipeline.errors import TransientError


def state_folder(settings: Settings) -> Path:
    """The local folder of the warehouse; with another catalog, what `[warehouse] path` names all the same.

    If that is no local folder, the configuration's own.
    """
    path = settings.resolve(settings.warehouse.path)
    return settings.base if "://" in path else Path(path)


@contextmanager
def writing(settings: Settings, *, notify: Callable[[str], None]) -> Iterator[None]:
    """Write beside others; wait, and say so, as long as an erasure is under way."""
    descriptor = _open(settings)
    try:
        if descriptor is not None and not _lock(descriptor, fcntl.LOCK_SH):
            notify("waiting for a `funnel erase` to end")
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Keep everybody else from writing.

    Raises:
        TransientError: somebody is.
    """
    descriptor = _open(settings)
    try:
        if descriptor is not None and not _lock(descriptor, fcntl.LOCK_EX):
            raise TransientError(
                f"a night, a training, maintenance or another erasure is writing to {state_folder(settings)}: nothing "
                "was erased; run this again when it has ended"
            )
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(settings: Settings) -> int | None:
    """The folder, opened; None before there is one, so that nobody writes to it either."""
    try:
        return os.open(state_folder(settings), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def _lock(descriptor: int, kind: int) -> bool:
    """Whether the lock was free; a file system that has no locks always says so."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
