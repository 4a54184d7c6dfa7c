"""Files for people and other programs, on any file system that Arrow knows: whole or not there at all."""

from contextlib import suppress
from uuid import uuid4

import pyarrow as pa
from pyarrow.fs import FileSystem

from pipeline.errors import FunnelError, describe_error


def write_atomically(path: str, content: bytes, *, what: str, see: str) -> None:
    """Write a file under another name first: whoever opens it sees what was there before, or all of this.

    Args:
        path: an absolute path or a URI; its folder is made.
        what, see: how a failure calls the file, and where a person may mend it.

    Raises:
        FunnelError: it cannot be written.
    """
    try:
        filesystem, inner = FileSystem.from_uri(path)
        folder, _, name = inner.rpartition("/")
        filesystem.create_dir(folder, recursive=True)
        draft = f"{folder}/.{name}.{uuid4().hex}"
        try:
            # Arrow would compress a file that is called *.gz.
            with filesystem.open_output_stream(draft, compression=None) as stream:
                stream.write(content)
            filesystem.move(draft, inner)
        except OSError:
            with suppress(OSError):
                filesystem.delete_file(draft)
            raise
    except (OSError, pa.ArrowInvalid) as error:
        raise FunnelError(f"{what} cannot be written: {describe_error(error)}; see {see}") from None
