"""Atomic writes of files for people and other programs, on any file system Arrow supports."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
from pyarrow.fs import FileSystem, LocalFileSystem

from pipeline.errors import FunnelError, describe_error


def write_atomically(path: str, content: bytes, *, what: str, see: str, is_private: bool = False) -> None:
    """Write to a temporary name, then rename: a reader sees the previous file or the whole new one.

    Args:
        path: an absolute path or a URI; its folder is created.
        what: what the error message calls the file.
        see: the setting the error message points to.
        is_private: on this machine, only the owner may read the file, whatever the umask.

    Raises:
        FunnelError: the file cannot be written.
    """
    try:
        filesystem, inner = FileSystem.from_uri(path)
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
    except (OSError, pa.ArrowInvalid) as error:
        raise FunnelError(f"{what} cannot be written: {describe_error(error)}; see {see}") from None
