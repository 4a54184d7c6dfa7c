"""The process's one Spark session: reads pinned snapshots, runs the SQL files, stages files for a publish."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pyspark.errors import AnalysisException
from pyspark.logger import PySparkLogger
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pipeline.config.base import reveal
from pipeline.config.settings import Settings
from pipeline.engines.executors import PYTHON
from pipeline.engines.launch import JAVA_OPTIONS, start_jvm
from pipeline.engines.masters import is_on_this_machine
from pipeline.engines.mirror import fetch_pinned, find_mirror, send_staged
from pipeline.engines.templates import render
from pipeline.errors import FunnelError
from pipeline.warehouse.schema import Table
from pipeline.warehouse.warehouse import Pinned, Warehouse

PARTITION = "_partition"
FEW_PARTITIONS = {"spark.sql.shuffle.partitions": "8"}
MERGED_PARTITIONS = {"spark.sql.optimizer.canChangeCachedPlanOutputPartitioning": "true"}
LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}


def open_session(settings: Settings, *, is_bulk: bool = False) -> SparkSession:
    """The process's Spark session, started on first use with `properties`.

    Raises:
        FunnelError: there is no Java.
    """
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        raise FunnelError("Spark needs Java 17 or newer: no `java` on the PATH and JAVA_HOME is not set")
    # A session made in Python reads the variable, spark-submit the property.
    os.environ.setdefault("PYSPARK_PYTHON", _workers_python(settings))
    if is_on_this_machine(settings.spark.master):
        # Executors that are processes of their own read no property before they listen.
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    given = properties(settings, is_bulk=is_bulk)
    start_jvm(given)
    builder = SparkSession.builder
    for key, value in given.items():
        builder = builder.config(key, value)
    # PySpark logs the Java trace of every analysis error that it raises; our one line is enough.
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).disabled = True
    return builder.getOrCreate()


def properties(settings: Settings, *, is_bulk: bool) -> dict[str, str]:
    """Spark's properties: ours, overridden by those of the configuration.

    Args:
        is_bulk: let the driver's JVM optimise its code fully. A night of few users runs most code only a few times,
            see `context.MANY_USERS`.
    """
    log_config = (Path(__file__).parent / "log4j2.properties").as_uri()
    conf = reveal(settings.spark.conf)
    java_options = [
        f"-Dlog4j2.configurationFile={log_config}",
        # The one compiler has 48 MiB for its code by default: a demo, which does all in one JVM, fills it.
        *([] if is_bulk else ["-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=240m"]),
        conf.get(JAVA_OPTIONS, ""),
    ]
    return {
        "spark.app.name": "funnelcast",
        "spark.master": settings.spark.master,
        # Without a cluster nobody else has to reach the driver, and what it caches are the users.
        **(LOOPBACK if is_on_this_machine(settings.spark.master) else {}),
        PYTHON: os.environ.get("PYSPARK_PYTHON") or _workers_python(settings),
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": settings.funnel.timezone,
        # An unparsable value becomes null, and its row is quarantined; in ANSI mode it would stop the night.
        "spark.sql.ansi.enabled": "false",
        # Types that other writers use. Nanoseconds become times, see `ingest/schemas.py`.
        "spark.sql.legacy.parquet.nanosAsLong": "true",
        "spark.sql.timeType.enabled": "true",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(settings.scoring.score_batch_rows),
        # On a cluster, Spark's own 200, of which it merges the small ones, in what is cached as well.
        **(FEW_PARTITIONS if is_on_this_machine(settings.spark.master) else MERGED_PARTITIONS),
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        **settings.storage.spark,
        **conf,
        JAVA_OPTIONS: " ".join(java_options).strip(),
    }


def _workers_python(settings: Settings) -> str:
    """The interpreter of Spark's workers: here this one, not whatever `python3` is on the PATH; elsewhere theirs."""
    usual = sys.executable if is_on_this_machine(settings.spark.master) else "python3"
    return reveal(settings.spark.conf).get(PYTHON, usual)


def read_pinned(spark: SparkSession, pinned: Pinned) -> DataFrame:
    """The rows of a pinned snapshot, with all of the table's columns; those that old files lack are null."""
    schema = from_arrow_schema(pinned.schema)
    if not pinned.files:
        return spark.createDataFrame([], schema)
    fetch_pinned(spark, pinned)
    return _reader(spark).schema(schema).parquet(*pinned.files)


def _reader(spark: SparkSession) -> DataFrameReader:
    """A reader that takes paths for what they are.

    Staged files lie in `_partition=…` folders; a recursive look-up keeps Spark from turning these into a column. With
    wildcards in paths, a folder called `[1]` would be a pattern, which matches nothing.
    """
    return spark.read.options(recursiveFileLookup="true", __globPaths__="false")


def run_sql(spark: SparkSession, name: str, views: Mapping[str, DataFrame], **parameters: Any) -> DataFrame:
    """Run `sql/spark/<name>.sql` over data frames, by the names that the file reads."""
    for view, frame in views.items():
        frame.createOrReplaceTempView(view)
    return spark.sql(render(f"spark/{name}", **parameters))


@contextmanager
def cached(frame: DataFrame) -> Iterator[DataFrame]:
    """Keep a frame's rows from when they are first computed to the end of the block; no other frame is released."""
    kept = frame.persist()
    try:
        yield kept
    finally:
        kept.unpersist()


def stage(frame: DataFrame, warehouse: Warehouse, name: str, *, sort: Sequence[str] = ("user_id",)) -> Pinned:
    """Write a frame as Parquet files in a fresh directory, each of one partition; readers do not see them yet.

    Columns take the table's order and types. The partition column stays in the files, where Iceberg reads it.
    """
    table = warehouse.tables[name]
    directory = warehouse.staging(name)
    rows = frame.select(*_conform(table), F.col(table.partition).alias(PARTITION))
    # Rebalancing keeps a small day in one file and splits a large one.
    spread = rows.hint("rebalance", PARTITION).sortWithinPartitions(PARTITION, *sort)
    find_mirror(frame.sparkSession, directory)
    spread.write.partitionBy(PARTITION).parquet(directory)
    staged = _find_staged(frame.sparkSession, warehouse, name, directory)
    if not staged.files:
        # Spark has made the folder all the same.
        warehouse.discard_staged(directory)
    return staged


def stage_one_partition(frame: DataFrame, warehouse: Warehouse, name: str, day: date, *, files: int) -> Pinned:
    """Write a frame of one date as at most `files` files; rows keep their order, nothing is shuffled."""
    table = warehouse.tables[name]
    directory = warehouse.staging(name)
    find_mirror(frame.sparkSession, directory)
    frame.select(*_conform(table)).coalesce(files).write.parquet(f"{directory}/{PARTITION}={day}")
    return _find_staged(frame.sparkSession, warehouse, name, directory)


def _conform(table: Table) -> list[Column]:
    """The columns of a frame in the table's order and types."""
    return [
        F.col(field.name).cast(field.dataType).alias(field.name) for field in from_arrow_schema(table.schema).fields
    ]


def read_as_written(spark: SparkSession, staged: Pinned) -> DataFrame:
    """Read staged files for the audit, with the columns and types that they really have."""
    if not staged.files:
        return read_pinned(spark, staged)
    fetch_pinned(spark, staged)
    return _reader(spark).parquet(*staged.files)


def _find_staged(spark: SparkSession, warehouse: Warehouse, name: str, directory: str) -> Pinned:
    """What Spark has staged, once it is where the table's files are."""
    staged = warehouse.staged(name, _list_staged(spark, directory))
    send_staged(spark, staged)
    return staged


def _list_staged(spark: SparkSession, directory: str) -> tuple[str, ...]:
    # Listed by Spark, which surely knows the file system. An empty frame leaves no folder.
    try:
        found = _reader(spark).schema("_ string").parquet(directory).inputFiles()
    except AnalysisException:
        return ()
    # Spark lists escaped URIs; readers take plain paths.
    return tuple(sorted(unquote(path) for path in found))
