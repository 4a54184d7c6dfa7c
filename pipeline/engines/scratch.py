"""Spark's scratch folders: for the owner alone, and gone when their JVM is.

A JVM removes its files when it ends, unless it is killed. So each session gets folders of its own, which are locked for
as long as this process or the JVM lives; the next session to start removes those that nobody locks.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "funnelcast-spark-"


@dataclass(frozen=True)
class Scratch:
    """A folder of this process, and the lock on it, which a child process that inherits `lock` holds as well."""

    folder: Path
    lock: int


def open_scratch(parents: Sequence[Path]) -> list[Scratch]:
    """Make a locked folder in each of these, after removing those that killed processes have left there."""
    for parent in parents:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
    return [_make(parent) for parent in parents]


def _make(parent: Path) -> Scratch:
    while True:
        # Only the owner may enter.
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Before it was locked, another process may have taken it for abandoned.
            if folder.exists():
                return Scratch(folder, lock)
            os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        # Removed meanwhile, or somebody else's.
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
