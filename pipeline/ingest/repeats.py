"""Events that share an id, and repeats of an event that differ from it: what a night tells of them."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.runs.record import StageWarning

KEPT = (
    "{n:,} events share an event_id with an event of another user, kind or time, such as {example!r}: all are kept; "
    'source.events.same_id = "keep" says that this is right, "drop" keeps the first of each id'
)
DROPPED = (
    "{n:,} rows share an event_id with an event of another user, kind or time, such as {example!r}: the first of each "
    "id is kept (source.events.same_id)"
)
OTHER_DETAILS = (
    "{n:,} repeats differ in campaign or context from the event that they repeat, such as {example!r}: what came first "
    "is kept"
)


def describe_repeats(fates: DataFrame, same_id: str) -> list[StageWarning]:
    """Warn of rows whose id is another event's, unless they are to be kept, and of repeats that differ.

    Args:
        fates: the rows of `sql/spark/classify.sql`.
        same_id: `source.events.same_id`.
    """
    is_kept, is_repeat = F.col("fate") == "kept", F.col("fate") == "duplicate"
    conditions = {
        KEPT: is_kept & F.col("shares_id") & F.lit(same_id == "warn"),
        DROPPED: is_repeat & F.col("shares_id") & F.lit(same_id == "drop"),
        OTHER_DETAILS: is_repeat & F.col("has_other_details") & ~(F.col("shares_id") & F.lit(same_id == "drop")),
    }
    figures = [
        figure
        for condition in conditions.values()
        for figure in (F.count_if(condition), F.min(F.when(condition, F.col("event_id"))))
    ]
    found = fates.agg(*(figure.alias(str(number)) for number, figure in enumerate(figures))).collect()[0]
    return [
        StageWarning("repeats that differ", f"events: {text.format(n=rows, example=example)}")
        for text, rows, example in zip(conditions, found[::2], found[1::2], strict=True)
        if rows
    ]
