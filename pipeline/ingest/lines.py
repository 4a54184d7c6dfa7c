"""Finds the lines of CSV and JSON files that hold more than their file's columns, or less, or nothing that can be read.

Spark reads what it can of such a line and is silent on the rest, so it is asked for the line itself.
"""

from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipeline.engines.templates import quote
from pipeline.ingest.values import OWN, Reading

LINE = f"{OWN}line"
"""The column with the line that did not fit the columns; null where it did."""
DAMAGE = f"{OWN}damage"
"""The column that says, as a reason of the quarantine, why such a line is no row; null where it is one."""
KEEPS_LINE = "columnNameOfCorruptRecord"
SURPLUS = 50
"""How many fields beyond the columns are looked at."""


def can_keep_lines(file_format: str, options: Mapping[str, str], declared: StructType) -> bool:
    """Whether Spark can be asked for the lines: unless the configuration itself says what becomes of them."""
    chosen = {name.lower() for name in options} & {"mode", KEEPS_LINE.lower()}
    return file_format in ("csv", "json") and not chosen and "_corrupt_record" not in declared.names


def with_line(columns: StructType) -> StructType:
    """The columns with `LINE`, which Spark fills if `KEEPS_LINE` names it."""
    return StructType([*columns.fields, StructField(LINE, StringType())])


def mark_damage(rows: DataFrame, file_format: str, options: Mapping[str, str], names: Sequence[str]) -> DataFrame:
    """Add `DAMAGE`, and leave `LINE` only where something is lost.

    Args:
        rows: a file's rows with `LINE`.
        options: of the reader.
        names: the file's columns.
    """
    line = F.col(LINE)
    if file_format == "json":
        read = F.to_json(F.struct(*(F.col(quote(name)) for name in names)), {"ignoreNullFields": "true"})
        damage, is_lossy = F.when(read == "{}", F.lit("malformed JSON")), F.lit(True)
    else:
        damage, is_lossy = _find_csv_damage({name.lower(): value for name, value in options.items()}, len(names))
    marked = rows.withColumn(DAMAGE, F.when(line.isNotNull(), damage))
    return marked.withColumn(LINE, F.when(line.isNotNull() & (is_lossy | F.col(DAMAGE).isNotNull()), line))


def show_line(*, is_kept: bool) -> Column:
    """A line as it is written, or if it may not be kept, its length."""
    return F.col(LINE) if is_kept else F.concat(F.length(LINE).cast("string"), F.lit(" characters, not kept"))


def read_lines(rows: DataFrame, lands_anyway: Column | None, *, is_kept: bool) -> Reading | None:
    """What lands of a row that could not be read whole; None if the source's lines are not known.

    Args:
        is_kept: whether an example may be a line as it is written.
        lands_anyway: of a row with damage, whether it lands; None: it never does.
    """
    if LINE not in rows.columns:
        return None
    lands = F.col(DAMAGE).isNull()
    lost = F.when(lands if lands_anyway is None else lands | lands_anyway, show_line(is_kept=is_kept))
    effect = "what they lack, or have of another type than is declared, counts as missing"
    return Reading("(row)", F.lit(True), lost, "not complete", effect)


def _find_csv_damage(options: Mapping[str, str], columns: int) -> tuple[Column, Column]:
    """Of a line with more or fewer fields than columns: why it is no row, and whether it has fewer.

    Args:
        options: their names in lower case.
    """
    separator = options.get("sep", options.get("delimiter", ",")).replace(r"\t", "\t")
    fields = StructType([StructField(f"_{place}", StringType()) for place in range(columns + SURPLUS)])
    # A field of ours at the end of the line says how many there are before it: an empty one and none read alike.
    marked = F.concat(F.col(LINE), F.lit(f"{separator}{OWN}"))
    split = F.from_csv(marked, F.lit(fields.toDDL()), dict(options))
    values = F.array(*(split[name] for name in fields.names))
    place = F.array_position(values, OWN)
    # A separator at the end of each line is a habit of some programs.
    surplus = F.slice(values, columns + 1, SURPLUS)
    has_surplus = F.exists(surplus, lambda value: F.trim(value).isNotNull() & ~F.trim(value).isin("", OWN))
    damage = F.when(has_surplus, F.lit("more fields than columns"))
    mark = options.get("quote", '"')
    if mark and mark == options.get("escape"):
        marks = F.length(LINE) - F.length(F.replace(F.col(LINE), F.lit(mark), F.lit("")))
        # Each half of a text that goes on in the next line has one mark of the two.
        damage = F.when(marks % 2 == 1, F.lit('quote not closed (multiLine = "true" reads on)')).otherwise(damage)
    # 0: our field is nowhere, since an unclosed quote has swallowed it.
    return damage, place.between(0, columns)
