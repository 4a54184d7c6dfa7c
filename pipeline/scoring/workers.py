"""One task on one of Spark's executors: whether they can do what a night asks of them."""

import os

from pyspark.errors import PySparkException
from pyspark.sql.pandas.types import from_arrow_schema

from pipeline.config.base import reveal
from pipeline.engines.executors import explain_worker_error, send_code
from pipeline.errors import FunnelError, describe_error
from pipeline.runs.context import Context
from pipeline.scoring.predict import WORKER, describe_worker
from pipeline.warehouse.places import as_path


def check_executor(context: Context) -> str:
    """Import what scores on an executor, and look from there for the warehouse; the executor, in one line.

    Raises:
        FunnelError: no executor can, and why.
        TransientError: no master answers.
    """
    settings, spark = context.settings, context.spark
    send_code(spark.sparkContext)
    catalog = reveal(settings.warehouse.catalog)
    folder = as_path(catalog.get("warehouse", "") if catalog else settings.resolve(settings.warehouse.path))
    task = describe_worker(str(folder) if folder and folder.is_dir() else None)
    try:
        (seen,) = spark.range(1).repartition(1).mapInArrow(task, from_arrow_schema(WORKER)).collect()
    except PySparkException as error:
        python = os.environ.get("PYSPARK_PYTHON", "python3")
        raise FunnelError(explain_worker_error(str(error), python) or describe_error(error)) from None
    if not seen["sees"]:
        raise FunnelError(
            f"the executor on {seen['host']} has no folder {folder}: executors need the warehouse on a disk that all "
            "share, or in an object store"
        )
    return f"{settings.spark.master}: an executor on {seen['host']} has Python {seen['python']}, torch {seen['torch']}"
