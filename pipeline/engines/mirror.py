"""A local mirror of an object store, for a Spark that has no file system for it.

PyPI's Spark brings none for S3. Hadoop's view file system then shows Spark a folder of this machine under the store's
own addresses: files are fetched there before Spark reads them, and sent from there once it has written them. Every
process of Spark has to see the folder, so this works on one machine only.
"""

import atexit
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from pipeline.engines.launch import LOCAL_FOLDERS
from pipeline.engines.scratch import open_scratch
from pipeline.errors import FunnelError
from pipeline.stores import explain_store_error, is_s3
from pipeline.warehouse.warehouse import Pinned

VIEW = "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme"
TRANSFERS = 8
"""Files on their way at once."""
T = TypeVar("T")
_mirrors: dict[tuple[str, str], Path | None] = {}
"""By Spark's application and scheme: the folder that stands for the store; None where Spark reaches it itself."""


def find_mirror(spark: SparkSession, location: str) -> Path | None:
    """The folder that Spark sees in place of a location; None if it reaches the location itself.

    Raises:
        FunnelError: it does not, and runs on other machines, too.
    """
    if not is_s3(location):
        return None
    scheme, _, rest = location.partition("://")
    key = spark.sparkContext.applicationId or "", scheme
    if key not in _mirrors:
        _mirrors[key] = _make_mirror(spark, scheme)
    folder, bucket = _mirrors[key], rest.partition("/")[0]
    if folder is None:
        return None
    (folder / bucket).mkdir(parents=True, exist_ok=True)
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    conf.set(f"fs.viewfs.mounttable.{bucket}.linkFallback", (folder / bucket).as_uri())
    return folder / rest


def fetch_pinned(spark: SparkSession, pinned: Pinned) -> None:
    """Let Spark see a snapshot's files. They never change, so one that was fetched stays.

    Raises:
        FunnelError: as `transfer`.
    """
    missing = [(each, here) for each in pinned.files if (here := find_mirror(spark, each)) and not here.exists()]

    def fetch(file: tuple[str, Path]) -> None:
        assert pinned.io is not None
        with pinned.io.new_input(file[0]).open() as source:
            write_whole(file[1], source)

    transfer(missing, fetch)


def send_staged(spark: SparkSession, staged: Pinned) -> None:
    """Put the files that Spark has staged where their addresses say.

    Raises:
        FunnelError: as `transfer`.
    """
    staged_here = [(each, here) for each in staged.files if (here := find_mirror(spark, each))]

    def send(file: tuple[str, Path]) -> None:
        assert staged.io is not None
        with file[1].open("rb") as source, staged.io.new_output(file[0]).create(overwrite=True) as target:
            shutil.copyfileobj(source, target, 2**23)

    transfer(staged_here, send)


def transfer(files: Iterable[T], move: Callable[[T], None]) -> None:
    """Move files, several at once.

    Raises:
        TransientError: the store does not answer.
        FunnelError: it refuses or has no such file, or there is no room for it here.
    """
    with ThreadPoolExecutor(TRANSFERS) as pool:
        try:
            for _ in pool.map(move, files):
                pass
        except OSError as error:
            pool.shutdown(cancel_futures=True)
            raise explain_store_error(error) or FunnelError(
                f"a file of the object store cannot be copied: {error}; copies lie below [spark] "
                f'conf."{LOCAL_FOLDERS}", by default the folder for temporary files'
            ) from error


def write_whole(path: Path, source: Any) -> None:
    """Copy a stream to a file, which appears once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**23)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _make_mirror(spark: SparkSession, scheme: str) -> Path | None:
    context = spark.sparkContext
    hadoop, conf = spark._jvm.org.apache.hadoop, context._jsc.hadoopConfiguration()  # type: ignore[union-attr]
    try:
        hadoop.fs.FileSystem.getFileSystemClass(scheme, conf)
        return None
    except Py4JJavaError:
        pass
    if not re.fullmatch(r"local(\[.*\])?", context.master or ""):
        raise FunnelError(
            f"Spark on {context.master} has no file system for {scheme}:// addresses: under [spark], set "
            f'conf."spark.jars.packages" = "org.apache.hadoop:hadoop-aws:{hadoop.util.VersionInfo.getVersion()}"; only '
            "a Spark on one machine, such as local[*], does without"
        )
    conf.set(f"fs.{scheme}.impl", VIEW)
    conf.set("fs.viewfs.overload.scheme.target.file.impl", "org.apache.hadoop.fs.LocalFileSystem")
    scratch = context.getConf().get(LOCAL_FOLDERS)
    assert scratch is not None
    return _open_folder(Path(scratch.split(",")[0]).parent) / scheme


@cache
def _open_folder(parent: Path) -> Path:
    """A folder of this process beside Spark's own, gone when the process is."""
    (scratch,) = open_scratch([parent])
    atexit.register(shutil.rmtree, scratch.folder, ignore_errors=True)
    return scratch.folder
