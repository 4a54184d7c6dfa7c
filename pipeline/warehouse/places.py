"""Locations as Iceberg writes them down: absolute, and not URI-escaped."""

from pathlib import Path


def as_path(location: str) -> Path | None:
    """The local path of a location; None if it lies on another file system.

    >>> as_path("file:///data/warehouse")
    PosixPath('/data/warehouse')
    >>> as_path("s3://bucket/warehouse") is None
    True
    """
    if location.startswith("file:"):
        return Path("/" + location.removeprefix("file:").lstrip("/"))
    return None if "://" in location else Path(location)


def is_same_place(one: str, other: str) -> bool:
    """Whether two locations are one folder, by name or, on this machine, through a link or a mount."""
    if one.rstrip("/") == other.rstrip("/"):
        return True
    here, there = as_path(one), as_path(other)
    if here is None or there is None:
        return False
    return here == there or (here.exists() and there.exists() and here.samefile(there))
