"""One Spark session a process, reading pinned snapshots and staging files for a publish."""

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
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from pipeline.config.settings import Settings
from pipeline.engines.templates import render
from pipeline.errors import FunnelError
from pipeline.warehouse.schema import Table
from pipeline.warehouse.warehouse import Pinned, Warehouse

PARTITION = "_partition"


def open_session(settings: Settings, *, is_bulk: bool = False) -> SparkSession:
    """The process's Spark session, made on first use with `properties`.

    Raises:
        FunnelError: no Java, or Spark did not start.
    """
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        raise FunnelError("Spark needs Java 17 or newer: no `java` on the PATH and JAVA_HOME is not set")
    # Workers would otherwise take whatever `python3` the PATH has; a session made in Python reads the variable,
    # spark-submit the property.
    os.environ.setdefault("PYSPARK_PYTHON", settings.spark.conf.get("spark.pyspark.python", sys.executable))
    builder = SparkSession.builder.appName("funnelcast").master(settings.spark.master)
    for key, value in properties(settings, is_bulk=is_bulk).items():
        builder = builder.config(key, value)
    # PySpark logs the Java trace of every analysis error beside raising it; the one line that we make of it is enough.
    PySparkLogger.getLogger("SQLQueryContextLogger").disabled = True
    return builder.getOrCreate()


def properties(settings: Settings, *, is_bulk: bool) -> dict[str, str]:
    """Spark's properties: ours, then those of the configuration, which win.

    Args:
        is_bulk: let the driver's JVM optimise its code in full. Most of what a night of few users runs, it runs a few
            times only, see `context.MANY_USERS`. To load 1.3 million events took the same with and without.
    """
    log_config = (Path(__file__).parent / "log4j2.properties").as_uri()
    java_options = [
        f"-Dlog4j2.configurationFile={log_config}",
        *([] if is_bulk else ["-XX:TieredStopAtLevel=1"]),
        settings.spark.conf.get("spark.driver.extraJavaOptions", ""),
    ]
    return {
        "spark.pyspark.python": os.environ.get("PYSPARK_PYTHON", sys.executable),
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": settings.funnel.timezone,
        # A value that does not parse becomes null and is quarantined with its row; ANSI mode would stop the night.
        "spark.sql.ansi.enabled": "false",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(settings.scoring.score_batch_rows),
        "spark.sql.shuffle.partitions": "8",
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        **settings.spark.conf,
        "spark.driver.extraJavaOptions": " ".join(java_options).strip(),
    }


def frame_of(spark: SparkSession, pinned: Pinned) -> DataFrame:
    """The rows of a pinned snapshot, with the table's columns even where old files lack some."""
    schema = from_arrow_schema(pinned.schema)
    if not pinned.files:
        return spark.createDataFrame([], schema)
    # Staged files lie in `_partition=…` folders; the recursive look-up keeps Spark from making a column of them.
    return spark.read.schema(schema).option("recursiveFileLookup", "true").parquet(*pinned.files)


def run_sql(spark: SparkSession, name: str, views: Mapping[str, DataFrame], **parameters: Any) -> DataFrame:
    """Run `sql/spark/<name>.sql` over named data frames."""
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
    """Write a frame as Parquet files of one partition each, in a fresh directory, invisible to readers.

    The frame's columns are put in the table's order and types. The partition's column stays inside the files:
    Iceberg reads a file's partition from it.
    """
    table = warehouse.tables[name]
    directory = warehouse.staging(name)
    rows = _as_in(table, frame).withColumn(PARTITION, F.col(table.partition))
    # Rebalancing keeps a small day in one file and cuts a large one into several.
    spread = rows.hint("rebalance", PARTITION).sortWithinPartitions(PARTITION, *sort)
    spread.write.partitionBy(PARTITION).parquet(directory)
    return Pinned(name, None, _staged_files(frame.sparkSession, directory), table.schema)


def stage_one_partition(frame: DataFrame, warehouse: Warehouse, name: str, day: date, *, files: int) -> Pinned:
    """Write a frame of one date as at most `files` files, its rows in the order they have: nothing is shuffled."""
    table = warehouse.tables[name]
    directory = warehouse.staging(name)
    _as_in(table, frame).coalesce(files).write.parquet(f"{directory}/{PARTITION}={day}")
    return Pinned(name, None, _staged_files(frame.sparkSession, directory), table.schema)


def _as_in(table: Table, frame: DataFrame) -> DataFrame:
    """The frame's columns in the table's order and types."""
    return frame.select(*(F.col(field.name).cast(field.dataType) for field in from_arrow_schema(table.schema).fields))


def read_as_written(spark: SparkSession, staged: Pinned) -> DataFrame:
    """Staged files with the columns and types they really have, for the audit."""
    if not staged.files:
        return frame_of(spark, staged)
    return spark.read.option("recursiveFileLookup", "true").parquet(*staged.files)


def _staged_files(spark: SparkSession, directory: str) -> tuple[str, ...]:
    # Spark lists the files, since only it is sure to know the file system; an empty frame leaves no folder.
    try:
        found = spark.read.schema("_ string").option("recursiveFileLookup", "true").parquet(directory).inputFiles()
    except AnalysisException:
        return ()
    # Spark lists escaped URIs, and nobody reads by them.
    return tuple(sorted(unquote(path) for path in found))
