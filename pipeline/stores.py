"""Object stores: how a location is opened, and what their errors mean to whoever has to mend something."""

import re
from collections.abc import Mapping
from functools import lru_cache

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from pipeline.errors import FunnelError, TransientError

S3 = ("s3", "s3a", "s3n")
"""Schemes of S3: those that begin with `s3a` and `s3n` are Hadoop's names for it."""
_FAILED = re.compile(
    r"When (?P<doing>.*?): AWS Error (?P<code>[A-Z_]+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<operation>\w+) "
    r"operation: (?P<said>.*?)(?: \(Request ID.*|$)",
    re.DOTALL,
)
_WRONG_KEYS = {"INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT"}
_PASSING = {"NETWORK_CONNECTION", "SLOW_DOWN", "THROTTLING", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE"} | {
    "REQUEST_TIMEOUT",
    "REQUEST_TIMED_OUT",
}


def is_s3(location: str) -> bool:
    """Whether a location is an address on S3.

    >>> is_s3("s3a://bucket/folder"), is_s3("gs://bucket/folder"), is_s3("/data/s3://x")
    (True, False, False)
    """
    return location.partition("://")[0] in S3


def open_location(location: str, properties: Mapping[str, str]) -> tuple[FileSystem, str]:
    """The file system of an address, and its path there.

    Args:
        properties: PyIceberg's, which say where an object store is and who asks.

    Raises:
        OSError, ValueError: there is no such file system.
    """
    if not is_s3(location):
        system, path = FileSystem.from_uri(location)
        return system, path
    scheme, _, rest = location.partition("://")
    return _open_s3(scheme, tuple(sorted(properties.items())), rest.partition("/")[0]), rest


def list_below(location: str, properties: Mapping[str, str]) -> list[FileInfo]:
    """All files and folders below a folder, and the folder's own, or the one file at a location; none if there is none.

    Raises:
        OSError, ValueError: the file system cannot be looked at.
    """
    system, path = open_location(location, properties)
    found = system.get_file_info(path)
    if found.type == FileType.NotFound:
        return []
    below = system.get_file_info(FileSelector(path, recursive=True)) if found.type == FileType.Directory else []
    return [found, *below]


@lru_cache(16)
def _open_s3(scheme: str, properties: tuple[tuple[str, str], ...], bucket: str) -> FileSystem:
    # Imported late: what stays on this machine needs none of what it imports.
    from pyiceberg.io.pyarrow import PyArrowFileIO

    return PyArrowFileIO(dict(properties)).fs_by_scheme(scheme, bucket)


def explain_store_error(error: BaseException) -> FunnelError | None:
    """What an error of an object store means, in one line with what to do; None if it is no such error.

    One that may pass by itself is a TransientError.
    """
    failed = _FAILED.search(str(error))
    if failed is None:
        return None
    doing, code, said = failed["doing"], failed["code"], " ".join(failed["said"].split()).rstrip(".")
    where = f"{failed['operation']} {re.sub('^.*?(for|under) ', '', doing)}"
    if code in _PASSING or (failed["status"] or "").startswith("5"):
        return TransientError(
            f"the object store does not answer ({where}): {said}; try again later, and see [storage] endpoint"
        )
    if "xpired" in said or "EXPIRED" in code:
        return FunnelError(f"the object store's credentials have expired ({where}): {said}; renew those of [storage]")
    if code in _WRONG_KEYS:
        return FunnelError(
            f"the object store does not accept the credentials ({where}): {said}; see [storage] access_key and "
            "secret_key"
        )
    if code == "NO_SUCH_BUCKET":
        return FunnelError(f"the object store has no such bucket ({where}); make it, or correct the address")
    if code == "ACCESS_DENIED":
        return FunnelError(
            f"the object store refuses this access ({where}): either [storage] access_key and secret_key are wrong, or "
            "the key may not do this"
        )
    return FunnelError(f"the object store fails ({where}): {code}: {said}; see [storage]")
