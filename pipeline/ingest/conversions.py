"""Finds what an expression of the mapping converts: Spark answers null, in silence, for what it cannot convert."""

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

TYPES = ("bigint", "boolean", "date", "decimal", "double", "float", "int", "smallint", "timestamp", "tinyint")
PARSERS = ("to_date", "to_number", "to_timestamp", "to_timestamp_ltz", "to_timestamp_ntz", "to_unix_timestamp")
CONVERSIONS = (*TYPES, *PARSERS, *(f"try_{name}" for name in PARSERS), "unix_timestamp")
"""Functions that give null for a first argument that they cannot read, and for no other."""
NO_VALUE = ("", "nan")


def find_unconverted(spark: SparkSession, expression: str, column: Column) -> Column | None:
    """What an expression was given and made null, as text, null where it read all; None if it converts nothing.

    It is a conversion as a whole, such as `cast(age AS double)`, or one of another conversion, or its negation. An
    expression of any other kind means what it says: `nullif` has nothing lost.

    Args:
        column: the expression.
    """
    given = _find_input(spark, expression)
    if given is None:
        return None
    text = F.expr(given).try_cast("string")
    return F.when(column.isNull() & ~F.lower(F.trim(text)).isin(*NO_VALUE), text)


def _find_input(spark: SparkSession, expression: str) -> str | None:
    """The innermost argument of conversions, in Spark SQL."""
    node, given = spark._jsparkSession.sessionState().sqlParser().parseExpression(expression), None
    while True:
        kind = node.getClass().getSimpleName()
        if kind == "UnresolvedFunction" and node.nameParts().mkString(".").lower() in CONVERSIONS:
            node = node.arguments().apply(0)
        elif kind in ("Cast", "Not"):
            node = node.child()
        else:
            return given
        # Of a negation alone, nothing is converted.
        given = given if kind == "Not" and given is None else node.sql()
