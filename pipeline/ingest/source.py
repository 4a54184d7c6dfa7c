"""Reads the company's own data with any Spark reader: each row with the day it landed, mapped to our columns."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.templates import quote
from pipeline.errors import FunnelError, describe_error
from pipeline.ingest.values import OWN, Mapped

LANDED = f"{OWN}landed_on"
"""Our one column among the source's own as they are read."""


def read_source(spark: SparkSession, settings: Settings, name: str, dates: DateRange) -> DataFrame | None:
    """Read the source's own rows of a date range, with `LANDED` where its path or options name the date.

    Args:
        name: "events" or "users", as under `[source]`.

    Returns: the rows; None where the days are there but hold no file.

    Raises:
        FunnelError: a path is missing, or the reader fails; names the key and the path.
    """
    reader: Reader = getattr(settings.source, name)
    where = f"source.{name}"
    frames = [_load(spark, settings, reader, where, days) for days in _split_by_read(reader, dates)]
    present = [frame for frame in frames if frame is not None]
    if not present:
        return None
    rows = reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), present)
    if reader.where is None:
        return rows
    return analyze(lambda: rows.where(reader.where or ""), f"{where}.where", reader.where, rows)


def map_columns(rows: DataFrame, mapping: Mapping[str, str], key: str) -> dict[str, Mapped]:
    """Find what is mapped in the source, by our column.

    Args:
        mapping: the source's column or a Spark SQL expression, by our column.
        key: the mapping's key in the configuration, for errors.

    Raises:
        FunnelError: an expression does not fit the source.
    """
    return {name: map_column(rows, expression, f"{key}.{name}", name) for name, expression in mapping.items()}


def map_column(rows: DataFrame, expression: str, key: str, name: str, *, is_name: bool = False) -> Mapped:
    """Find a column or a Spark SQL expression over `rows`, checked now rather than inside a job.

    A name may have dots, blanks and backticks. As everywhere in Spark, its case need not match.

    Args:
        is_name: the expression is a column's name, never a word of SQL such as `null`.
    """
    named = find_column(rows.columns, expression)
    if named is None and is_name:
        named = expression
    column = F.col(quote(named)) if named is not None else F.expr(expression)
    checked = analyze(lambda: rows.select(column), key, expression, rows)
    return Mapped(name, key, expression, column, checked.schema[0].dataType)


def find_column(columns: Sequence[str], name: str) -> str | None:
    """The column of this name, or else the only one of this name in another case.

    >>> find_column(["Campaign ID", "uid", "UID"], "campaign id")
    'Campaign ID'
    >>> find_column(["Campaign ID", "uid", "UID"], "Uid") is None
    True
    """
    if name in columns:
        return name
    alike = [column for column in columns if column.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


def analyze(make: Callable[[], DataFrame], key: str, expression: str, rows: DataFrame) -> DataFrame:
    """Make a frame; an expression that Spark's analyser rejects becomes a FunnelError that names the key."""
    try:
        return make()
    except PySparkException as error:
        names = ", ".join(column for column in rows.columns if column != LANDED)
        raise FunnelError(
            f"{key} = {expression!r} does not fit the source ({describe_error(error)}); the source has: {names}"
        ) from None


def _split_by_read(reader: Reader, dates: DateRange) -> list[DateRange]:
    """One read for the whole range, or one a day where days differ: in a database's query or a CSV file's header."""
    by_day = reader.format == "csv" and reader.is_partitioned
    if by_day or _dated_options(reader):
        return [DateRange(day, day) for day in dates]
    return [dates]


def _dated_options(reader: Reader) -> bool:
    return any("{ds}" in value for value in reader.options.values())


def _load(spark: SparkSession, settings: Settings, reader: Reader, where: str, dates: DateRange) -> DataFrame | None:
    options = {key: value.replace("{ds}", dates.first.isoformat()) for key, value in reader.options.items()}
    paths = _paths(settings, reader, dates)
    if paths:
        _require(spark, paths, where)
    if reader.format == "csv":
        # All columns as text, cast by the mapping: one broken row would change an inferred type. Columns go by
        # position, so within a read, headers that differ must be an error.
        options = {"header": "true", "enforceSchema": "false", **options}
    elif reader.format in ("parquet", "orc"):
        # A column that some of the files lack is null there.
        options = {"mergeSchema": "true", **options}
    try:
        frame = spark.read.format(reader.format).options(**options).load(list(paths) or None)
    except (PySparkException, Py4JJavaError) as error:
        has_no_file = isinstance(error, AnalysisException) and error.getCondition() == "UNABLE_TO_INFER_SCHEMA"
        if has_no_file and (reader.is_partitioned or _dated_options(reader)):
            return None
        cure = ""
        if isinstance(error, PySparkException) and error.getCondition() == "COLUMN_ALREADY_EXISTS":
            cure = '; under [spark], conf."spark.sql.caseSensitive" = "true" tells names apart that differ only in case'
        raise FunnelError(f"{where} cannot be read as {reader.format}: {describe_error(error)}{cure}") from None
    if not frame.columns:
        # Empty files, which a day without events may leave.
        return None
    for column in frame.columns:
        if column.lower().startswith(OWN):
            raise FunnelError(
                f"{where}: the source has a column {column!r}; names that begin with {OWN} are kept for Funnelcast: "
                "rename it there"
            )
    if reader.path is not None and "{ds}" in reader.path:
        return frame.withColumn(LANDED, _landing_from_path(frame, settings.resolve(reader.path)))
    if _dated_options(reader):
        return frame.withColumn(LANDED, F.lit(dates.first))
    return frame


def _paths(settings: Settings, reader: Reader, dates: DateRange) -> tuple[str, ...]:
    if reader.path is None:
        return ()
    if "{ds}" not in reader.path:
        return (settings.resolve(reader.path),)
    return tuple(settings.resolve(reader.path, day) for day in dates)


def _require(spark: SparkSession, paths: Sequence[str], where: str) -> None:
    """Raise for missing paths, looked for in the file system that Spark would read."""
    jvm, conf = spark._jvm, spark._jsparkSession.sessionState().newHadoopConf()

    def missing(path: str) -> bool:
        hadoop_path = jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
        found = hadoop_path.getFileSystem(conf).globStatus(hadoop_path)
        return found is None or len(found) == 0

    absent = [path for path in paths if missing(path)]
    if absent:
        more = f" (and {len(absent) - 1} more of {len(paths)} days)" if len(absent) > 1 else ""
        raise FunnelError(f"{where}.path: nothing at {absent[0]}{more}; has the source delivered this date?")


def _landing_from_path(frame: DataFrame, template: str) -> Column:
    before, *after = (re.escape(part).replace(r"\*", "[^/]*") for part in template.split("{ds}"))
    pattern = before + r"(\d{4}-\d{2}-\d{2})" + r"\d{4}-\d{2}-\d{2}".join(after)
    # Spark escapes the path as a URI, in which a plus sign is literal; `url_decode` would turn it into a space.
    # `metadataColumn` finds Spark's own `_metadata` where the source has a column of that name, too.
    file = frame.metadataColumn("_metadata").getField("file_path")
    path = F.url_decode(F.replace(file, F.lit("+"), F.lit("%2B")))
    return F.to_date(F.regexp_extract(path, pattern, 1))
