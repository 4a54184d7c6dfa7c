"""Expresses our columns over the source's own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.engines.templates import quote
from pipeline.errors import FunnelError, describe_error
from pipeline.ingest.conversions import find_unconverted
from pipeline.ingest.values import OWN, Mapped

LANDED = f"{OWN}landed_on"
"""Our one column among the source's own as they are read."""


def map_columns(
    rows: DataFrame, mapping: Mapping[str, str], key: str, *, prefix: str = "", are_names: bool = False
) -> dict[str, Mapped]:
    """Find what is mapped in the source, by our column, checked now rather than inside a job.

    A name may have dots, blanks and backticks. As everywhere in Spark, its case need not match.

    Args:
        mapping: the source's column or a Spark SQL expression over `rows`, by our column.
        key: the mapping's key in the configuration, for errors.
        prefix: what our columns are called by begins with.
        are_names: the expressions are columns' names, never words of SQL such as `null`.

    Raises:
        FunnelError: an expression does not fit the source.
    """
    named = {name: _find_named(rows, expression, are_names) for name, expression in mapping.items()}
    columns = {
        name: F.expr(mapping[name]) if column is None else F.col(quote(column)) for name, column in named.items()
    }
    try:
        # Under names of ours, which no expression can mean: Spark would take an alias for a column that is not there.
        checked = rows.select(*(column.alias(f"{OWN}{place}") for place, column in enumerate(columns.values())))
    except PySparkException:
        # One of them does not fit, and each by itself says which.
        kinds = [
            analyze(partial(rows.select, column.alias(name)), f"{key}.{name}", mapping[name], rows).schema[0].dataType
            for name, column in columns.items()
        ]
    else:
        kinds = [field.dataType for field in checked.schema]
        if not _is_repeatable(checked):
            _refuse_random(rows, columns, mapping, key)
    return {
        name: Mapped(
            f"{prefix}{name}",
            f"{key}.{name}",
            mapping[name],
            column,
            kind,
            find_unconverted(rows.sparkSession, mapping[name], column) if named[name] is None else None,
        )
        for (name, column), kind in zip(columns.items(), kinds, strict=True)
    }


def _find_named(rows: DataFrame, expression: str, is_name: bool) -> str | None:
    """The column that an expression merely names."""
    named = find_column(rows.columns, expression)
    return expression if named is None and is_name else named


def find_columns_read(rows: DataFrame, column: Column) -> list[str]:
    """The names of the columns that an expression over `rows` reads, in their order there."""
    read = rows.select(column)._jdf.queryExecution().analyzed().references().iterator()
    names = set()
    while read.hasNext():
        names.add(read.next().name())
    return [name for name in rows.columns if name in names and not name.startswith(OWN)]


def _is_repeatable(rows: DataFrame) -> bool:
    return bool(rows._jdf.queryExecution().analyzed().deterministic())


def _refuse_random(rows: DataFrame, columns: Mapping[str, Column], mapping: Mapping[str, str], key: str) -> None:
    for name, column in columns.items():
        if not _is_repeatable(rows.select(column)):
            raise FunnelError(
                f"{key}.{name} = {mapping[name]!r} gives another value each time it is read, so that no day could be "
                "landed again"
            )


def find_column(columns: Sequence[str], name: str) -> str | None:
    """The column of this name, or else the only one of this name in another case or with blanks at its ends.

    >>> find_column(["Campaign ID", "uid", "UID"], "campaign id")
    'Campaign ID'
    >>> find_column([" uid", "UID "], " uid")
    ' uid'
    >>> find_column(["Campaign ID", "uid", "UID"], "Uid") is None
    True
    """
    if name in columns:
        return name
    alike = [column for column in columns if column.strip().lower() == name.strip().lower()]
    return alike[0] if len(alike) == 1 else None


def analyze(make: Callable[[], DataFrame], key: str, expression: str, rows: DataFrame) -> DataFrame:
    """Make a frame; an expression that Spark's analyser rejects becomes a FunnelError that names the key."""
    try:
        return make()
    except PySparkException as error:
        names = [column for column in rows.columns if not column.startswith(OWN)]
        raise FunnelError(
            f"{key} = {expression!r} does not fit the source ({describe_misfit(error)}); the source has: "
            f"{', '.join(names)}{guess_options(names)}"
        ) from None


def describe_misfit(error: PySparkException) -> str:
    """What Spark's analyser has against an expression; of a column that is not there, its name is enough."""
    is_absent = (error.getCondition() or "").startswith("UNRESOLVED_COLUMN")
    absent = (error.getMessageParameters() or {}).get("objectName") if is_absent else None
    return f"no column {absent}" if absent else describe_error(error)


def guess_options(names: Sequence[str]) -> str:
    """The reader's options that may be missing where columns are called so.

    >>> guess_options(["id;uid"])
    '; if its values are separated by ";": options = { sep = ";" }'
    >>> guess_options(["i\\0d\\0", "\\0u\\0i\\0d\\0"])
    '; if it is UTF-16: options = { encoding = "UTF-16" }'
    >>> guess_options(["PK\\x03\\x04\\x14\\0"])
    '; it is a zip archive, as .xlsx is: unpack it or save it as CSV'
    >>> guess_options(["\\x1f\\ufffd\\x08\\0"])
    '; it is compressed by gzip: give its name the ending .gz'
    """
    if names and names[0].startswith("PK\x03\x04"):
        return "; it is a zip archive, as .xlsx is: unpack it or save it as CSV"
    if names and names[0].startswith("\x1f\ufffd"):
        return "; it is compressed by gzip: give its name the ending .gz"
    if any("\0" in name for name in names):
        return '; if it is UTF-16: options = { encoding = "UTF-16" }'
    if len(names) != 1:
        return ""
    if names[0] == "_corrupt_record":
        return '; if a file is one JSON array or object over several lines: options = { multiLine = "true" }'
    separators = {";": ";", "\t": "\\t", "|": "|"}
    found = next((shown for character, shown in separators.items() if character in names[0]), None)
    return f'; if its values are separated by "{found}": options = {{ sep = "{found}" }}' if found else ""
