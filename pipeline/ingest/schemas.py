"""Tells which of a source's files have the same schema: those are read at once, others apart.

Telling costs little: files whose footers or header lines are alike share a schema, which Spark infers from one of them.
Where nothing of the kind can be looked at, Spark infers each day's.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from py4j.protocol import Py4JError, Py4JJavaError
from pyarrow import orc
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import DataFrame, DataFrameReader, SparkSession
from pyspark.sql.types import BinaryType, StringType, StructField, StructType

from pipeline.config.funnel import Reader
from pipeline.errors import FunnelError, describe_error
from pipeline.ingest.jdbc import NEEDS_JAR
from pipeline.ingest.lines import KEEPS_LINE, LINE, can_keep_lines, with_line
from pipeline.ingest.listing import SourceFile
from pipeline.ingest.orc_times import WRITTEN_BY_SPARK, restore_clocks

THREADS = 8
HEADER_BYTES = 65536
NANOS_AS_LONG = "spark.sql.legacy.parquet.nanosAsLong"
SEES_CASE = "spark.sql.caseSensitive"
SPARK_SCHEMA = "org.apache.spark.sql.parquet.row.metadata"
"""Where Spark writes its own schema in a Parquet file."""
NANOSECONDS = re.compile(r"^\w+ int64 .*\(TIMESTAMP\(NANOS,(true|false)\)\)$")
UUID = re.compile(r"^\w+ fixed_len_byte_array\(16\) .*\(UUID\)$")
FROM_NANOSECONDS = {
    "true": "timestamp_micros({0} div 1000)",
    # Without a zone: what a clock on the wall shows.
    "false": "timestampadd(MICROSECOND, {0} div 1000, TIMESTAMP_NTZ '1970-01-01')",
}
FROM_UUID = "lower(regexp_replace(hex({0}), '(.{{8}})(.{{4}})(.{{4}})(.{{4}})(.{{12}})', '$1-$2-$3-$4-$5'))"


@dataclass(frozen=True)
class FileSchema:
    """What files hold.

    Args:
        columns: as Spark is told to read them; without any, the files are empty.
        converted: Spark SQL over a column ({0}) for what its file means, where Spark reads something else.
        unreadable: of a column that is left out, why.
        folders: columns that the names of folders hold, with their types.
    """

    columns: StructType
    converted: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileGroup:
    """Files that are read at once."""

    schema: FileSchema
    files: list[SourceFile]


@dataclass(frozen=True)
class FileReader:
    """Spark's reader of files.

    Args:
        key: of the reader in the configuration, for errors.
        options: the reader's, without `{ds}`.
        conf: Spark's properties in the configuration.
        declared: the columns that the configuration declares.
    """

    spark: SparkSession
    reader: Reader
    key: str
    options: Mapping[str, str]
    conf: Mapping[str, str]
    declared: StructType

    def load(self, paths: Sequence[str], schema: StructType | None = None, **options: str) -> DataFrame:
        """Load paths with the reader's options and these.

        Raises:
            FunnelError: Spark cannot read them.
        """
        if schema is not None and self.keeps_lines:
            schema, options = with_line(schema), {**options, KEEPS_LINE: LINE}
        reader = self._read(options)
        try:
            return (reader if schema is None else reader.schema(schema)).load(list(paths) or None)
        except (PySparkException, Py4JJavaError) as error:
            raise self.describe(error, paths) from None

    def _infer_by_spark(self, files: Sequence[SourceFile]) -> StructType:
        try:
            found = self._read({"__globPaths__": "false"}).load([file.path for file in files]).schema
        except (PySparkException, Py4JJavaError) as error:
            if isinstance(error, AnalysisException) and error.getCondition() == "UNABLE_TO_INFER_SCHEMA":
                return StructType()
            raise self.describe(error, [file.path for file in files]) from None
        if self.reader.format == "json":
            texts = {each.name for each in self.declared.fields if isinstance(each.dataType, StringType)}
            # Spark infers a column for lines that it cannot read; where there are others, `lines.LINE` is that.
            fields = [each for each in found.fields if each.name != "_corrupt_record"] or found.fields
            return StructType([StructField(each.name, StringType()) if each.name in texts else each for each in fields])
        if self.reader.format == "csv" and not self._has_header:
            names = [*self.declared.names, *found.names[len(self.declared.names) :]]
            return StructType(
                [StructField(name, each.dataType) for name, each in zip(names, found.fields, strict=False)]
            )
        return found

    def load_files(self, files: Sequence[SourceFile], schema: StructType | None = None) -> DataFrame:
        # Brackets in a file's name are no pattern.
        return self.load([file.path for file in files], schema, __globPaths__="false")

    def _read(self, options: Mapping[str, str]) -> DataFrameReader:
        return self.spark.read.format(self.reader.format).options(**options).options(**self.options)

    def describe(self, error: Exception, paths: Sequence[str]) -> FunnelError:
        where = f"{paths[0]} " if paths else ""
        more = f"(and {len(paths) - 1} more) " if len(paths) > 1 else ""
        described = describe_error(error)
        cure = "; if it is damaged or half written, deliver it again or take it away" if paths else ""
        if self.reader.format == "jdbc" and re.search("ClassNotFoundException|No suitable driver", described):
            cure = f"; {NEEDS_JAR}"
        elif isinstance(error, PySparkException) and error.getCondition() == "COLUMN_ALREADY_EXISTS":
            cure = f'; under [spark], conf."{SEES_CASE}" = "true" tells names apart that differ only in case'
        return FunnelError(f"{self.key}: {where}{more}cannot be read as {self.reader.format}: {described}{cure}")

    def group(self, files: Sequence[SourceFile]) -> list[FileGroup]:
        """Group files by schema and by the types of what their folders' names say; empty files are left out.

        Raises:
            FunnelError: a file cannot be read; names it.
        """
        alike: dict[str | date | None, list[SourceFile]] = {}
        with ThreadPoolExecutor(THREADS) as pool:
            signatures = pool.map(self._sign, files)
            for file, signature in zip(files, signatures, strict=True):
                alike.setdefault(file.day if signature is None else signature, []).append(file)
            schemas = list(pool.map(self._infer, alike.values(), [isinstance(key, str) for key in alike]))
        folders = _type_folders(files)
        groups: dict[str, FileGroup] = {}
        for schema, same in zip(schemas, alike.values(), strict=True):
            # A file of which no column can be read is not an empty one.
            for file in same if schema.columns.fields or schema.unreadable else ():
                of_file = replace(schema, folders={name: folders[file.day][name] for name in file.keys})
                groups.setdefault(repr(of_file), FileGroup(of_file, [])).files.append(file)
        return list(groups.values())

    def _sign(self, file: SourceFile) -> str | None:
        """What files of one schema have in common; None where only Spark can tell."""
        local = re.sub("^file:/+", "/", file.path)
        try:
            if self.reader.format == "parquet":
                return _sign_parquet(local) if local.startswith("/") else str(self._open_parquet(file.path)[0])
            if self.reader.format == "orc" and local.startswith("/"):
                return _sign_orc(local)
            if self.reader.format == "csv" and local.startswith("/") and self._has_plain_header:
                return _sign_csv(local)
        except (pa.ArrowException, OSError, Py4JError, PySparkException):
            # Spark may be able to read it, or says what is wrong with it.
            return f"only {file.path}"
        return None

    @property
    def keeps_lines(self) -> bool:
        """Whether rows that are loaded with a schema have `lines.LINE`."""
        return can_keep_lines(self.reader.format, self.options, self.declared)

    @property
    def _has_header(self) -> bool:
        return self._option("header") == "true"

    @property
    def _has_plain_header(self) -> bool:
        return self._has_header and self._option("inferSchema") != "true"

    def _option(self, name: str) -> str | None:
        return {key.lower(): value.lower() for key, value in self.options.items()}.get(name.lower())

    def _infer(self, files: Sequence[SourceFile], is_any: bool) -> FileSchema:
        """The schema of files, which is that of any if they are alike."""
        try:
            if self.reader.format == "orc":
                columns = self._infer_by_spark(files[:1] if is_any else files)
                return FileSchema(columns, restore_clocks(self.spark, files[0].path, columns))
            if self.reader.format != "parquet" or not is_any:
                return FileSchema(self._infer_by_spark(files[:1] if is_any else files))
            return self._infer_parquet(files[0])
        except (PySparkException, Py4JError) as error:
            raise self.describe(error, [files[0].path]) from None

    def _infer_parquet(self, file: SourceFile) -> FileSchema:
        message, of_spark = self._open_parquet(file.path)
        if of_spark is not None:
            return FileSchema(self._infer_by_spark([file]))
        jvm, conf = self._jvm, self.spark._jsparkSession.sessionState().conf()
        converter = jvm.org.apache.spark.sql.execution.datasources.parquet.ParquetToSparkSchemaConverter(conf)
        columns, converted, unreadable = StructType(), {}, {}
        fields = list(message.getFields())
        names = [each.getName() for each in fields]
        for name, each in zip(names, fields, strict=True):
            described = each.toString()
            nanoseconds = NANOSECONDS.match(described)
            if not self._sees_case and [other.lower() for other in names].count(name.lower()) > 1:
                unreadable[name] = (
                    f'another column has this name in another case; under [spark], conf."{SEES_CASE}" = "true" '
                    "tells them apart"
                )
            elif UUID.match(described):
                columns.add(name, BinaryType())
                converted[name] = FROM_UUID
            elif "NANOS" in described and NANOS_AS_LONG not in self.conf and nanoseconds is None:
                unreadable[name] = f"Spark cannot read {described}; write it in microseconds"
            else:
                one = jvm.java.util.ArrayList()
                one.add(each)
                try:
                    read = converter.convert(jvm.org.apache.parquet.schema.MessageType("one", one))
                except (PySparkException, Py4JJavaError) as error:
                    unreadable[name] = f"{describe_error(error)}; write it as text or a plain number"
                    continue
                columns.add(StructType.fromJson(json.loads(read.json())).fields[0])
                if nanoseconds and NANOS_AS_LONG not in self.conf:
                    converted[name] = FROM_NANOSECONDS[nanoseconds[1]]
        return FileSchema(columns, converted, unreadable)

    @property
    def _jvm(self) -> Any:
        return self.spark._jvm

    @property
    def _sees_case(self) -> bool:
        return self.spark.conf.get(SEES_CASE) == "true"

    def _open_parquet(self, path: str) -> tuple[Any, str | None]:
        """A file's schema, as a Java object, and Spark's own if it has written it."""
        jvm, conf = self._jvm, self.spark._jsparkSession.sessionState().newHadoopConf()
        only_schema = jvm.org.apache.parquet.format.converter.ParquetMetadataConverter.SKIP_ROW_GROUPS
        hadoop_path = jvm.org.apache.hadoop.fs.Path(path)
        footer = jvm.org.apache.parquet.hadoop.ParquetFileReader.readFooter(conf, hadoop_path, only_schema)
        metadata = footer.getFileMetaData()
        return metadata.getSchema(), metadata.getKeyValueMetaData().get(SPARK_SCHEMA)


def _sign_parquet(path: str) -> str:
    metadata = pyarrow.parquet.read_metadata(path)
    # Its first line is an address in memory.
    columns = str(metadata.schema).partition("\n")[2]
    return f"{columns} {(metadata.metadata or {}).get(SPARK_SCHEMA.encode())!r}"


def _sign_orc(path: str) -> str:
    file = orc.ORCFile(path)
    return f"{file.schema} {WRITTEN_BY_SPARK.encode() in (file.metadata or {})}"


def _sign_csv(path: str) -> str:
    """The header line."""
    with pa.input_stream(path) as stream:
        lines = stream.read(HEADER_BYTES).splitlines()
    return next((repr(line) for line in lines if line.strip()), "")


def _type_folders(files: Sequence[SourceFile]) -> dict[date | None, dict[str, str]]:
    """The types of the columns that folders' names hold, by day: whole numbers, dates or text."""
    values: dict[date | None, dict[str, set[str]]] = {}
    for file in files:
        of_day = values.setdefault(file.day, {})
        for name, value in file.keys.items():
            of_day.setdefault(name, set()).update([] if value is None else [value])
    return {day: {name: _type_values(given) for name, given in of_day.items()} for day, of_day in values.items()}


def _type_values(values: set[str]) -> str:
    for kind, pattern in (("bigint", r"[+-]?\d{1,18}"), ("date", r"\d{4}-\d{2}-\d{2}")):
        if values and all(re.fullmatch(pattern, value) for value in values):
            return kind
    return "string"
