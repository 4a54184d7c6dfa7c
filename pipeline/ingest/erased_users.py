"""Rows of users who were erased: the source may deliver them again, and they do not land."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipeline.runs.context import Context
from pipeline.runs.erasures import read_erased

HASH = "_erased"


def leave_out_erased(context: Context, rows: DataFrame, user_id: Column, table: str) -> tuple[DataFrame, list[str]]:
    """The rows of users who were not erased, and a note on how many others there are, if any.

    Args:
        rows: mapped, with `user_id` as the tables have it; nobody is erased of whom it is null.
        table: "events" or "users", for the note.
    """
    erased = read_erased(context.warehouse)
    if not erased.hashes:
        return rows, []
    hashes = context.spark.createDataFrame([(each,) for each in erased.hashes], f"{HASH} string")
    is_theirs = F.sha2(F.concat(F.lit(erased.salt), user_id), 256) == F.col(HASH)
    number = rows.join(F.broadcast(hashes), is_theirs, "left_semi").count()
    if not number:
        return rows, []
    note = f"{table}: {number:,} rows are of users who were erased; they do not land, and no figure counts them"
    return rows.join(F.broadcast(hashes), is_theirs, "left_anti"), [note]
