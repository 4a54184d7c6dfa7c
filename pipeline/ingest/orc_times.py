"""Times in ORC files that have no zone: Spark takes them for times of the zone that its JVM happens to be in."""

from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.types import DataType, StructType, TimestampType

from pipeline.engines.templates import quote

WRITTEN_BY_SPARK = "org.apache.spark.version"
"""Spark writes an instant as a time without a zone, in the zone of its JVM, and leaves this in the file."""


def restore_clocks(spark: SparkSession, path: str, columns: StructType) -> dict[str, str]:
    """Spark SQL over a column ({0}) for what its clock showed, by column of an ORC file; fields of structs, too.

    Raises:
        Py4JJavaError: the file cannot be opened.
    """
    jvm: Any = spark._jvm
    conf = spark._jsparkSession.sessionState().newHadoopConf()
    options = jvm.org.apache.orc.OrcFile.readerOptions(conf)
    reader = jvm.org.apache.orc.OrcFile.createReader(jvm.org.apache.hadoop.fs.Path(path), options)
    try:
        if WRITTEN_BY_SPARK in reader.getMetadataKeys():
            return {}
        zone = jvm.java.util.TimeZone.getDefault().getID()
        kinds = dict(zip(reader.getSchema().getFieldNames(), reader.getSchema().getChildren(), strict=True))
        shown = {
            field.name: _show_clock("{0}", field.dataType, kinds[field.name], zone)
            for field in columns.fields
            if field.name in kinds
        }
    finally:
        reader.close()
    return {name: expression for name, expression in shown.items() if expression is not None}


def _show_clock(value: str, kind: DataType, written: Any, zone: str) -> str | None:
    """What a value shows on the clock of its writer; None where it has no time without a zone."""
    if isinstance(kind, TimestampType) and written.getCategory().toString() == "TIMESTAMP":
        shown = f"timestampadd(MICROSECOND, unix_micros({value}), TIMESTAMP_NTZ '1970-01-01')"
        return f"convert_timezone('UTC', '{zone}', {shown})"
    if not isinstance(kind, StructType):
        return None
    fields = {each.name: f"{value}.{_braced(quote(each.name))}" for each in kind.fields}
    parts = {
        each.name: _show_clock(fields[each.name], each.dataType, child, zone)
        for each, child in zip(kind.fields, written.getChildren(), strict=True)
    }
    if not any(parts.values()):
        return None
    listed = ", ".join(f"{parts[name] or field} AS {_braced(quote(name))}" for name, field in fields.items())
    return f"if({value} IS NULL, NULL, struct({listed}))"


def _braced(name: str) -> str:
    return name.replace("{", "{{").replace("}", "}}")
