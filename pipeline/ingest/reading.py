"""Reads the company's own data with any Spark reader: each row with the day it landed.

A column that a day lacks, and other days have, is null on that day.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from pipeline.config.funnel import Reader
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.templates import quote
from pipeline.errors import FunnelError
from pipeline.ingest.parts import Part, declared_columns, read_neighbours, read_parts
from pipeline.ingest.source import analyze, describe_misfit, find_column, guess_options
from pipeline.runs.record import StageWarning

REQUIRED = {f"source.events.columns.{name}" for name in ("user_id", "event", "event_time", "landed_on")} | {
    f"source.users.columns.{name}" for name in ("user_id", "landed_on", "consent")
}
"""Keys whose column is never taken as null: without it, a day's rows say nothing, or text those who withdrew."""
UNRESOLVED = ("UNRESOLVED_COLUMN", "FIELD_NOT_FOUND")
"""How Spark begins to say that a name means nothing."""
_WORD = re.compile(r"\w+")


@dataclass
class SourceRows:
    """The source's own rows, in frames that differ in their columns or these columns' types.

    Args:
        absent: of a column that the mapping names and that is taken as null, the days that lack it.
    """

    frames: list[DataFrame] = field(default_factory=list)
    absent: dict[str, set[date | None]] = field(default_factory=lambda: defaultdict(set))

    def describe_absent(self, name: str) -> list[StageWarning]:
        """One warning a column that days lack.

        Args:
            name: "events" or "users".
        """
        warnings = []
        for column, days in self.absent.items():
            dated = sorted(day for day in days if day is not None)
            more = f" and {len(dated) - 1} more days" if len(dated) > 1 else ""
            when = f"on {dated[0]}{more}" if dated else "in some files"
            line = f"{name}: no column {column!r} {when}, though the source has it elsewhere; it is taken as null"
            warnings.append(StageWarning(f"{name} without {column}", line))
        return warnings


def read_source(
    spark: SparkSession, settings: Settings, name: str, dates: DateRange, mapping: Mapping[str, str]
) -> SourceRows:
    """Read the source's own rows of a date range, with `LANDED` where its path or options name the date.

    Args:
        name: "events" or "users", as under `[source]`.
        mapping: every expression over the source's columns, by its key in the configuration.

    Returns: the rows; no frame where the days are there but hold no row.

    Raises:
        FunnelError: a path is missing, the reader fails, or a column that the mapping needs is not there or cannot be
            read; names the key and the file.
    """
    reader: Reader = getattr(settings.source, name)
    key = f"source.{name}.where"
    if reader.where is not None:
        mapping = {**mapping, key: reader.where}
    parts = read_parts(spark, settings, name, dates)
    declared = declared_columns(reader, name)
    known = KnownColumns(declared, parts, read_neighbours(spark, settings, name, dates))
    rows = SourceRows()
    for part in parts:
        frame = part.rows
        for each, expression in mapping.items():
            _require_readable(part, each, expression)
        for each, expression in mapping.items():
            frame, absent = _complete(frame, part, each, expression, known)
            for column in absent:
                if find_column(declared.names, column.split(".")[0]) is None:
                    rows.absent[column].update(part.days)
        rows.frames.append(frame if reader.where is None else _filter(frame, reader.where, key))
    return rows


class KnownColumns:
    """The columns of a source on the days that are read and, where these do not suffice, on those around them.

    Args:
        declared: those of the configuration.
        parts: of the days that are read.
        others: of the days around them, read one by one as they are asked for.
    """

    def __init__(self, declared: StructType, parts: Sequence[Part], others: Iterator[Part]) -> None:
        self._declared, self._parts, self._others = declared, list(parts), others

    def types(self, name: str) -> Iterator[DataType]:
        """The types that a column has: as declared, then by part."""
        for columns in self._all():
            column = find_column(columns.names, name)
            if column is not None:
                yield columns[column].dataType

    def declares(self, name: str) -> bool:
        return find_column(self._declared.names, name) is not None

    def _all(self) -> Iterator[StructType]:
        yield self._declared
        yield from (part.rows.schema for part in self._parts)
        for part in self._others:
            self._parts.append(part)
            yield part.rows.schema


def _filter(frame: DataFrame, condition: str, key: str) -> DataFrame:
    return analyze(lambda: frame.where(condition), key, condition, frame)


def _require_readable(part: Part, key: str, expression: str) -> None:
    for column, why in part.unreadable.items():
        if _reads(expression, column):
            raise FunnelError(f"{key} = {expression!r}: column {column!r} of {part.example} cannot be read: {why}")
    for column, find_example in part.hidden.items():
        if _reads(expression, column) and (example := find_example()):
            raise FunnelError(
                f"{key} = {expression!r}: {column!r} is a column of the files and a folder of the path, and they "
                f"differ: {example}; name the folder in the path, {column}={{ds}}, or call one of them otherwise"
            )


def _reads(expression: str, column: str) -> bool:
    return column == expression or column.lower() in _WORD.findall(expression.lower())


def _complete(
    frame: DataFrame, part: Part, key: str, expression: str, known: KnownColumns
) -> tuple[DataFrame, list[str]]:
    """Add as nulls what an expression asks for and other days have; also return the names of what was added.

    Raises:
        FunnelError: no day has it, or the rows are nothing without it.
    """
    added: list[str] = []
    while (error := _find_unresolved(frame, expression)) is not None:
        if error.getCondition() == "FIELD_NOT_FOUND":
            complete, name = _add_field(frame, error, known)
        else:
            complete, name = _add_column(frame, error, expression, known)
        if name is None and not (error.getCondition() or "").startswith(UNRESOLVED):
            # The mapping tells what is wrong with the expression.
            break
        is_bare = name is not None and name.lower() == expression.strip("`").lower()
        if name is None or name in added or (is_bare and key in REQUIRED and not known.declares(name)):
            section = ".".join(key.split(".")[:2])
            shown = re.sub("^`([^`]*)`$", r"\1", expression)
            raise FunnelError(
                f"{key} = {shown!r} does not fit the source ({describe_misfit(error)}); the source has: "
                f"{', '.join(part.columns)}{_show_example(part)}{guess_options(part.columns)}; a column that a day may "
                f"lack is declared in {section}.schema"
            )
        frame = complete
        added.append(name)
    return frame, added


def _show_example(part: Part) -> str:
    return f" (in {part.example})" if part.example else ""


def _find_unresolved(frame: DataFrame, expression: str) -> PySparkException | None:
    """What Spark says of an expression that it cannot make sense of; None if it can."""
    if find_column(frame.columns, re.sub("^`([^`]*)`$", r"\1", expression)) is not None:
        return None
    try:
        frame.select(F.expr(expression))
    except PySparkException as error:
        return error
    return None


def _add_column(
    frame: DataFrame, error: PySparkException, expression: str, known: KnownColumns
) -> tuple[DataFrame, str | None]:
    """Add the column that an expression lacks; None if it is nowhere."""
    unresolved = re.match(r"`((?:[^`]|``)*)`", _parameter(error, "objectName"))
    for name in [*([unresolved[1].replace("``", "`")] if unresolved else []), expression]:
        for kind in known.types(name):
            return frame.withColumn(name, F.lit(None).cast(kind)), name
    return frame, None


def _add_field(frame: DataFrame, error: PySparkException, known: KnownColumns) -> tuple[DataFrame, str | None]:
    """Add the field that a struct lacks and other days have; None if it is nowhere."""
    name = _parameter(error, "fieldName").strip("`")
    for column in frame.schema.fields:
        for kind in known.types(column.name) if isinstance(column.dataType, StructType) else ():
            if found := _find_field(column.dataType, kind, name):
                path, of_field = found
                value = F.col(quote(column.name)).withField(".".join(map(quote, path)), F.lit(None).cast(of_field))
                return frame.withColumn(column.name, value), ".".join((column.name, *path))
    return frame, None


def _parameter(error: PySparkException, name: str) -> str:
    return (error.getMessageParameters() or {}).get(name, "")


def _find_field(own: DataType, other: DataType, name: str) -> tuple[tuple[str, ...], DataType] | None:
    """The path and the type of a field of this name that one struct has and another lacks."""
    if not isinstance(own, StructType) or not isinstance(other, StructType):
        return None
    for each in other.fields:
        if each.name not in own.names:
            if each.name.lower() == name.lower():
                return (each.name,), each.dataType
        elif found := _find_field(own[each.name].dataType, each.dataType, name):
            return (each.name, *found[0]), found[1]
    return None
