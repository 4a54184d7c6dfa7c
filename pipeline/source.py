"""Reads the company's own data: any Spark reader, mapped to our columns, each row with the day it landed."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce

from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.config import Reader, Settings
from pipeline.dates import DateRange
from pipeline.errors import FunnelError

LANDED = "_landed_on"


def source_rows(spark: SparkSession, settings: Settings, name: str, dates: DateRange) -> DataFrame | None:
    """The source's own rows of a date range, with `_landed_on` where its path or options are cut by date.

    Args:
        name: "events" or "users", as under `[source]`.

    Returns: None where the source has the days but no file in them.

    Raises:
        FunnelError: a path that is not there, or a reader that fails; names the key and the path.
    """
    reader: Reader = getattr(settings.source, name)
    where = f"source.{name}"
    frames = [_load(spark, settings, reader, where, days) for days in _reads(reader, dates)]
    present = [frame for frame in frames if frame is not None]
    if not present:
        return None
    rows = reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), present)
    if reader.where is None:
        return rows
    return checked(lambda: rows.where(reader.where or ""), f"{where}.where", reader.where, rows)


def mapped(
    rows: DataFrame, mapping: Mapping[str, str], columns: Iterable[str], kind: str, *, key: str
) -> dict[str, Column]:
    """Our columns as expressions over the source's, cast to `kind`; a column that is not mapped is null.

    Args:
        mapping: our column = the source's column or a Spark SQL expression.
        key: the configuration key of the mapping, for errors.

    Raises:
        FunnelError: an expression names a column that the source does not have.
    """
    return {
        column: expression_over(rows, mapping[column], kind, f"{key}.{column}")
        if column in mapping
        else F.lit(None).cast(kind)
        for column in columns
    }


def expression_over(rows: DataFrame, expression: str, kind: str, key: str) -> Column:
    """A column name or a Spark SQL expression as a column of `rows`, checked now rather than inside a job."""
    name = next((column for column in rows.columns if column == expression), None)
    column = (F.col(f"`{name}`") if name else F.expr(expression)).try_cast(kind)
    checked(lambda: rows.select(column), key, expression, rows)
    return column


def checked(make: Callable[[], DataFrame], key: str, expression: str, rows: DataFrame) -> DataFrame:
    """Build a frame; what Spark's analyser rejects becomes one line that names the key."""
    try:
        return make()
    except PySparkException as error:
        has = ", ".join(column for column in rows.columns if column != LANDED)
        raise FunnelError(
            f"{key} = {expression!r} does not fit the source ({_first_line(error)}); the source has: {has}"
        ) from None


def _reads(reader: Reader, dates: DateRange) -> list[DateRange]:
    """One read for the whole range, unless the date stands in the options (a query for a database, say)."""
    if any("{ds}" in value for value in reader.options.values()):
        return [DateRange(day, day) for day in dates]
    return [dates]


def _load(spark: SparkSession, settings: Settings, reader: Reader, where: str, dates: DateRange) -> DataFrame | None:
    options = {key: value.replace("{ds}", dates.first.isoformat()) for key, value in reader.options.items()}
    paths = _paths(settings, reader, dates)
    if paths:
        _require(spark, paths, where)
    if reader.format == "csv":
        # Everything as text: a column that one broken row would turn into another type is cast by the mapping.
        options = {"header": "true", **options}
    try:
        frame = spark.read.format(reader.format).options(**options).load(list(paths) or None)
    except AnalysisException as error:
        if error.getCondition() == "UNABLE_TO_INFER_SCHEMA":
            return None
        raise FunnelError(f"{where} cannot be read as {reader.format}: {_first_line(error)}") from None
    if reader.path is not None and "{ds}" in reader.path:
        return frame.withColumn(LANDED, _landing_from_path(settings.resolve(reader.path)))
    if options != reader.options and any("{ds}" in value for value in reader.options.values()):
        return frame.withColumn(LANDED, F.lit(dates.first))
    return frame


def _paths(settings: Settings, reader: Reader, dates: DateRange) -> tuple[str, ...]:
    if reader.path is None:
        return ()
    if "{ds}" not in reader.path:
        return (settings.resolve(reader.path),)
    return tuple(settings.resolve(reader.path, day) for day in dates)


def _require(spark: SparkSession, paths: Sequence[str], where: str) -> None:
    """Raise for paths that are not there, by the file system that Spark would read them from."""
    jvm, conf = spark._jvm, spark._jsparkSession.sessionState().newHadoopConf()

    def missing(path: str) -> bool:
        hadoop_path = jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
        found = hadoop_path.getFileSystem(conf).globStatus(hadoop_path)
        return found is None or len(found) == 0

    absent = [path for path in paths if missing(path)]
    if absent:
        more = f" (and {len(absent) - 1} more of {len(paths)} days)" if len(absent) > 1 else ""
        raise FunnelError(f"{where}.path: nothing at {absent[0]}{more}; has the source delivered this date?")


def _landing_from_path(template: str) -> Column:
    before, *after = (re.escape(part).replace(r"\*", "[^/]*") for part in template.split("{ds}"))
    pattern = before + r"(\d{4}-\d{2}-\d{2})" + r"\d{4}-\d{2}-\d{2}".join(after)
    return F.to_date(F.regexp_extract(F.url_decode(F.col("_metadata.file_path")), pattern, 1))


def _first_line(error: PySparkException) -> str:
    return str(error).strip().splitlines()[0]
