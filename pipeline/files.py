"""Atomic writes of files for people and other programs, on any file system Arrow supports."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pyarrow.fs import FileType, LocalFileSystem

from pipeline.errors import FunnelError, describe_error
from pipeline.stores import explain_store_error, is_s3, open_location


def write_atomically(
    path: str, content: bytes, *, what: str, see: str, storage: Mapping[str, str], is_private: bool = False
) -> None:
    """Write a file so that a reader sees the previous one or the whole new one.

    Args:
        path: an absolute path or a URI; its folder is created.
        what: what the error message calls the file.
        see: the setting the error message points to.
        storage: PyIceberg's properties of the object store, if the path may be on one.
        is_private: on this machine, only the owner may read the file, whatever the umask.

    Raises:
        FunnelError: the file cannot be written.
    """
    try:
        filesystem, inner = open_location(path, storage)
        if is_s3(path):
            # An object appears once it is whole; a folder needs no making, nor the right to make a bucket.
            with filesystem.open_output_stream(inner, compression=None) as stream:
                stream.write(content)
            return
        folder, _, name = inner.rpartition("/")
        filesystem.create_dir(folder, recursive=True)
        draft = f"{folder}/.{name}.{uuid4().hex}"
        try:
            if is_private and isinstance(filesystem, LocalFileSystem):
                Path(draft).touch(mode=0o600)
            # By default Arrow compresses a file named *.gz.
            with filesystem.open_output_stream(draft, compression=None) as stream:
                stream.write(content)
            filesystem.move(draft, inner)
        except OSError:
            with suppress(OSError):
                filesystem.delete_file(draft)
            raise
    except (OSError, ValueError) as error:
        raise _explain(f"{what} cannot be written", error, see) from None


def read_whole(path: str, *, see: str, storage: Mapping[str, str]) -> bytes | None:
    """A file's content; None if the file does not exist.

    Args:
        path, see, storage: as for `write_atomically`.

    Raises:
        FunnelError: the file cannot be read.
    """
    try:
        filesystem, inner = open_location(path, storage)
        if filesystem.get_file_info(inner).type == FileType.NotFound:
            return None
        with filesystem.open_input_stream(inner, compression=None) as stream:
            return bytes(stream.readall())
    except (OSError, ValueError) as error:
        raise _explain(f"{path} cannot be read", error, see) from None


def _explain(what: str, error: Exception, see: str) -> FunnelError:
    of_store = explain_store_error(error)
    kind = type(of_store) if of_store else FunnelError
    return kind(f"{what}: {of_store or describe_error(error)}; see {see}")
