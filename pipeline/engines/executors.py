"""What Spark's executors are sent: the model, and our own Python; and what it means if they cannot run it.

Without a cluster they are threads of this machine, with this interpreter. Elsewhere they have neither our packages nor
this machine's disk: both go as archives, which Spark hands to each executor and unpacks there.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from pyspark import SparkContext, SparkFiles

from pipeline.engines.masters import is_one_process

PACKAGES = ("pipeline", "model")
"""What runs on executors, with the modules that it imports; `sql` is read on the driver alone."""
PYTHON = "spark.pyspark.python"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_NO_PROGRAM = re.compile(r'Cannot run program "([^"]+)"')
_VERSIONS = re.compile(r"PYTHON_VERSION_MISMATCH\].*?version[:)]? *(\d+\.\d+)\D.*?(\d+\.\d+)", re.DOTALL)


def send_folder(context: SparkContext, folder: Path) -> str:
    """Send a folder's files to the executors, each at most once a session.

    Returns: its name there, for `SparkFiles.get`: the folder's own, and a digest of its files.
    """
    content = _archive((path, path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
    name = f"{folder.name}-{hashlib.sha256(content).hexdigest()[:12]}"
    if (path := _keep(f"{name}.zip", content)) is not None:
        context.addArchive(f"{path.as_uri()}#{name}")
    return name


def send_code(context: SparkContext) -> None:
    """Send our packages to executors that run in other processes, at most once a session.

    They come before what is installed there, so that an executor never runs the code of another version.
    """
    if is_one_process(context.master or ""):
        return
    above = Path(__file__).resolve().parents[2]
    content = _archive(
        (path, path.relative_to(above)) for each in PACKAGES for path in sorted((above / each).rglob("*.py"))
    )
    if (path := _keep("funnelcast.zip", content)) is not None:
        context.addPyFile(str(path))


def explain_worker_error(text: str, python: str) -> str | None:
    """Say in one line why executors cannot run our Python, if an error's whole text, traces included, says so.

    Args:
        python: the interpreter that executors were told to run.

    >>> explain_worker_error("... ModuleNotFoundError: No module named 'torch'", "python3")
    "the executors' Python, python3, has no module 'torch': install it there, or name another by \
spark.pyspark.python in [spark] conf (see pipeline/README.md, On a cluster)"
    >>> explain_worker_error("IOException: Cannot run program \\"/opt/x\\": error=2", "/opt/x").partition(":")[0]
    "an executor cannot start its Python, '/opt/x'"
    >>> mismatch = "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9 than that in driver: 3.11,"
    >>> explain_worker_error(mismatch, "python3").partition(": ")[0]
    "the executors' Python, python3, is 3.9, the driver's is 3.11"
    """
    cure = f"name another by {PYTHON} in [spark] conf (see pipeline/README.md, On a cluster)"
    if found := _NO_MODULE.search(text):
        return f"the executors' Python, {python}, has no module {found[1]!r}: install it there, or {cure}"
    if found := _VERSIONS.search(text):
        return f"the executors' Python, {python}, is {found[1]}, the driver's is {found[2]}: {cure}"
    if found := _NO_PROGRAM.search(text):
        return f"an executor cannot start its Python, {found[1]!r}: {cure}"
    return None


def _archive(files: Iterable[tuple[Path, Path]]) -> bytes:
    """A zip of files, by their names in it; equal files give equal bytes."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in files:
            archive.writestr(zipfile.ZipInfo(name.as_posix(), _EPOCH), path.read_bytes())
    return buffer.getvalue()


def _keep(name: str, content: bytes) -> Path | None:
    """Write a file where it lives as long as the session, which serves it to executors; None if it was there."""
    path = Path(SparkFiles.getRootDirectory()).parent / name
    if path.exists():
        return None
    path.write_bytes(content)
    return path
