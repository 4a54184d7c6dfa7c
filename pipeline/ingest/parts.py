"""Reads a source with any Spark reader, in parts: rows whose columns and types are the same are read at once."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from pipeline.config.base import reveal
from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.templates import quote
from pipeline.errors import FunnelError, describe_error
from pipeline.ingest.found import fetch_sources, find_files
from pipeline.ingest.jdbc import complete_options
from pipeline.ingest.lines import DAMAGE, LINE, mark_damage
from pipeline.ingest.listing import escape_wildcards, folder_value, is_column, landing_day, list_files
from pipeline.ingest.schemas import FileGroup, FileReader
from pipeline.ingest.source import LANDED, find_column
from pipeline.ingest.values import OWN

FILE_FORMATS = ("parquet", "orc", "csv", "json", "text", "xml", "avro")
"""Formats whose files can be read one by one; of others, Spark alone knows what a path holds."""
NEIGHBOURS = 7
"""Days before and after a range in which a column is looked for that the range lacks."""


@dataclass(frozen=True)
class Part:
    """Rows of the same columns.

    Args:
        rows: the source's own columns, `LANDED` where a path or options name the date, and of lines of text `LINE` and
            `DAMAGE`.
        days: the landing days; None where neither names one.
        example: a file or path that the rows come from; empty for a source without files.
        unreadable: of a column that is left out, why.
        hidden: of a column that both files and the names of folders hold, how to look where the two differ; the rows
            have what the folders say. Returns an example, if there is one.
    """

    rows: DataFrame
    days: Sequence[date | None]
    example: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    hidden: Mapping[str, Callable[[], str | None]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        return [column for column in self.rows.columns if not column.startswith(OWN)]


def read_parts(spark: SparkSession, settings: Settings, name: str, dates: DateRange) -> list[Part]:
    """Read a range; no part where the days are there but hold no row.

    Args:
        name: "events" or "users", as under `[source]`.

    Raises:
        FunnelError: a path is missing, or the reader fails; names the key and the path.
    """
    reader: Reader = getattr(settings.source, name)
    is_by_day = has_dated_options(reader) or (reader.is_partitioned and reader.format not in FILE_FORMATS)
    reads = [DateRange(day, day) for day in dates] if is_by_day else [dates]
    paths = find_paths(spark, settings, name, dates)
    return [part for days in reads for part in _read(spark, settings, name, days, paths)]


def read_neighbours(spark: SparkSession, settings: Settings, name: str, dates: DateRange) -> Iterator[Part]:
    """The parts of the days around a range that have been delivered and can be read, the nearest first."""
    reader: Reader = getattr(settings.source, name)
    for distance in range(1, NEIGHBOURS + 1) if reader.is_partitioned else ():
        for day in (dates.first - timedelta(days=distance), dates.last + timedelta(days=distance)):
            try:
                yield from read_parts(spark, settings, name, DateRange(day, day))
            except FunnelError:
                continue


def find_paths(spark: SparkSession, settings: Settings, name: str, dates: DateRange) -> dict[date | None, str]:
    """The reader's paths by landing day, or one for all; none of a day without files if `missing_day` allows it.

    They are looked for in the file system that Spark would read.

    Raises:
        FunnelError: nothing is at a path.
    """
    reader: Reader = getattr(settings.source, name)
    if reader.path is None:
        return {}
    paths: dict[date | None, str] = (
        {day: settings.resolve_pattern(reader.path, day, escape=escape_wildcards) for day in dates}
        if reader.is_partitioned
        else {None: settings.resolve_pattern(reader.path, escape=escape_wildcards)}
    )
    absent = {day: path for day, path in paths.items() if not find_files(spark, settings, path)}
    if absent and not (reader.is_partitioned and reader.missing_day == "empty"):
        more = f" (and {len(absent) - 1} more of {len(paths)} days)" if len(absent) > 1 else ""
        cure = f'; source.{name}.missing_day = "empty" takes such a day as empty' if reader.is_partitioned else ""
        first = settings.resolve(reader.path, next(iter(absent)))
        raise FunnelError(f"source.{name}.path: nothing at {first}{more}; has the source delivered this date?{cure}")
    present = {day: path for day, path in paths.items() if day not in absent}
    fetch_sources(spark, settings, present.values())
    return present


def declared_columns(reader: Reader, name: str) -> StructType:
    """The columns that the reader's `schema` declares.

    Raises:
        FunnelError: Spark cannot read it.
    """
    if reader.declared is None:
        return StructType()
    wrong = f"source.{name}.schema = {reader.declared!r} is not Spark's DDL, such as 'offer STRING, amount DOUBLE'"
    try:
        columns = StructType.fromDDL(reader.declared)
    except PySparkException as error:
        raise FunnelError(f"{wrong}: {describe_error(error)}") from None
    if not isinstance(columns, StructType):
        raise FunnelError(wrong)
    return columns


def has_landing_days(reader: Reader) -> bool:
    """Whether a source says on which day a row became known: by its path, its options or a column."""
    return reader.is_partitioned or has_dated_options(reader) or "landed_on" in reader.columns


def has_dated_options(reader: Reader) -> bool:
    return any("{ds}" in value for value in reveal(reader.options).values())


def _read(
    spark: SparkSession, settings: Settings, name: str, dates: DateRange, paths: Mapping[date | None, str]
) -> Iterator[Part]:
    """Read with options that hold for all the dates."""
    reader: Reader = getattr(settings.source, name)
    options = {key: value.replace("{ds}", dates.first.isoformat()) for key, value in reveal(reader.options).items()}
    if reader.format == "csv":
        # All columns as text, cast by the mapping: one broken row would change an inferred type. Columns go by
        # position, so within a read, headers that differ must be an error. A quote within quotes is two, as RFC 4180
        # has it and spreadsheets and databases write it; Spark's own default is a backslash before it.
        options = {"header": "true", "enforceSchema": "false", "escape": '"', **options}
        # Of a line of which it needs a few columns only, Spark would not see that there are too many fields.
        options = {"columnPruning": "false", **options}
        if re.match("utf-?(16|32)", options.get("encoding", ""), re.IGNORECASE):
            # Spark would look for the ends of lines byte by byte.
            options = {"multiLine": "true", **options}
    if reader.format == "jdbc":
        options = complete_options(options)
    files = FileReader(
        spark, reader, f"source.{name}", options, reveal(settings.spark.conf), declared_columns(reader, name)
    )
    here = {day: path for day, path in paths.items() if day is None or day in dates}
    given = dates.first if has_dated_options(reader) else None
    if reader.path is not None and not here:
        return
    if reader.path is None or reader.format not in FILE_FORMATS:
        frame = files.load([*here.values()])
        if frame.columns:
            day = next(iter(here), given)
            yield Part(_finish(frame, files, F.lit(day) if day else None), [day], next(iter(here.values()), ""))
        return
    template = settings.resolve_pattern(reader.path, escape=escape_wildcards)
    listed = list_files(spark, [*here.values()], options, template)
    if strays := [file.path for file in listed if reader.is_partitioned and file.day is None]:
        raise FunnelError(
            f"source.{name}.path: {strays[0]} is not where {template} says; write the path as it is listed"
        )
    of_day = Counter(file.day for file in listed)
    for group in files.group(listed):
        days = Counter(file.day for file in group.files)
        is_whole = all(of_day[day] == count for day, count in days.items())
        frame = _load_group(files, group, [here[day] for day in days] if is_whole else [], template)
        if reader.is_partitioned:
            frame = _finish(frame, files, landing_day(frame, template))
        else:
            frame = _finish(frame, files, F.lit(given) if given else None)
        found = sorted(days, key=str) if reader.is_partitioned else [given]
        hidden = {
            name: partial(_find_hidden, files, group, template, name, own)
            for name in group.schema.folders
            if (own := find_column(group.schema.columns.names, name)) is not None
        }
        yield Part(frame, found, group.files[0].path, group.schema.unreadable, hidden)


def _load_group(files: FileReader, group: FileGroup, paths: Sequence[str], template: str) -> DataFrame:
    """Load a group by its paths, or file by file where these hold others, too."""
    schema = group.schema
    if not paths:
        frame, is_by_spark = files.load_files(group.files, schema.columns), False
    else:
        # Below one path, Spark itself finds what folders such as `hour=09` say, and reads only those asked for.
        is_nested = any(not is_column(folder) for file in group.files for folder in file.folders)
        is_by_spark = not files.reader.is_partitioned and not is_nested
        recursively = {} if is_by_spark else {"recursiveFileLookup": "true"}
        frame = files.load(paths, schema.columns, **recursively)
    if files.keeps_lines:
        frame = mark_damage(frame, files.reader.format, files.options, schema.columns.names)
    for name, kind in schema.folders.items() if not is_by_spark else ():
        frame = frame.withColumn(name, folder_value(frame, template, name, kind))
    for name, expression in schema.converted.items():
        frame = frame.withColumn(name, F.expr(expression.format(quote(name))))
    return frame


def _find_hidden(files: FileReader, group: FileGroup, template: str, name: str, own: str) -> str | None:
    """A value that a file holds in a column and that the name of its folder gives another."""
    rows = files.load_files(group.files, group.schema.columns)
    value, folder = F.col(quote(own)), folder_value(rows, template, name, "string")
    typed = folder_value(rows, template, name, group.schema.folders[name]).cast(rows.schema[own].dataType)
    differs = ~(value.cast("string").eqNullSafe(folder) | value.eqNullSafe(typed))
    found = rows.where(differs).select(value.cast("string"), folder, "_metadata.file_path").first()
    return f"{found[2]} has {found[0]!r} in a folder of {found[1]!r}" if found else None


def _finish(frame: DataFrame, files: FileReader, landed_on: Column | None) -> DataFrame:
    for column in frame.columns:
        if column.lower().startswith(OWN) and column not in (LINE, DAMAGE):
            raise FunnelError(
                f"{files.key}: the source has a column {column!r}; names that begin with {OWN} are kept for "
                "Funnelcast: rename it there"
            )
    return frame if landed_on is None else frame.withColumn(LANDED, landed_on)
