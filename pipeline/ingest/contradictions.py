"""Several profiles of a user on one landing day: what holds where they differ, and whom that concerns.

The newest by `updated_at` holds; without one, or where it ties, they hold together. Of profiles that hold together, a
withdrawal of consent wins, and an attribute on which they contradict each other is unknown, whatever its spelling and
whatever the order of the rows. A profile that is silent on an attribute contradicts none.
"""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from pipeline.engines.templates import quote
from pipeline.ingest.values import Mapped, Reading, Steps, reads_a_column
from pipeline.runs.record import StageWarning

EXAMPLE_ROWS = 100
BARE_TIME = r"^\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?$"
DECIMAL = "decimal(38,6)"
MICROSECONDS = ((10**11, 1_000_000), (10**14, 1_000), (10**17, 1))
"""Of a number below the first: since 1970 in seconds, milliseconds, microseconds; from the last on, nanoseconds."""


@reads_a_column
def read_updated_at(steps: Steps, mapped: Mapped, landed_on: Column) -> Reading:
    """Read when a profile was changed.

    A number counts as seconds, milliseconds, microseconds or nanoseconds since 1970, by its size; a version that grows
    with each change will do as well. A time of day without a date is one of the landing day.
    """
    text = steps.keep(F.nullif(steps.keep_text(mapped.column.try_cast("string")), F.lit("")))
    number = steps.keep(text.try_cast(DECIMAL))
    micros = number / 1_000
    for below, factor in reversed(MICROSECONDS):
        micros = F.when(F.abs(number) < below, number * factor).otherwise(micros)
    of_that_day = F.concat_ws(" ", landed_on.cast("string"), text).try_cast("timestamp")
    changed = steps.keep(
        F.when(number.isNotNull(), F.timestamp_micros(micros.try_cast("bigint")))
        .when(text.rlike(BARE_TIME), of_that_day)
        .otherwise(mapped.column.try_cast("timestamp"))
    )
    value = F.when(F.year(changed) <= 9999, changed)
    lost = F.when(value.isNull(), F.make_valid_utf8(text))
    return Reading(mapped.name, value, lost, "no time", "they do not say which profile is the newest")


def settle(users: DataFrame, names: Sequence[str]) -> DataFrame:
    """Give all profiles of a user and landing day the content that holds.

    Args:
        users: `landed_on`, `reason` (rejected rows are among themselves), `updated_at` (null: unknown) and `profile`,
            a struct with `user_id` and `names`.
        names: consent, time_zone if it is mapped, and the attributes.

    Returns: the rows, with `profile` as it holds, and: `consent_at`, the newest `updated_at` of those that give the
        consent that holds (null: unknown); `given`, the profile as it was; `differs`, whether those of the day do;
        `is_settled`, whether `updated_at` says which of them is the newest.
    """
    group = Window.partitionBy("profile.user_id", "landed_on", "reason")
    changed = F.col("updated_at")
    values = {name: F.col(f"profile.{quote(name)}") for name in names}
    content = F.struct(*values.values())

    def is_newest_of(condition: Column) -> Column:
        """Whether a row is the newest of those that meet the condition; each is if none of these has a time."""
        return changed.eqNullSafe(F.max(F.when(condition, changed)).over(group))

    def span(value: Column, among: Column) -> tuple[Column, Column]:
        """The lowest and the highest value of these rows of the group; both null where they give none."""
        lowest, highest = (pick(F.when(among, value)).over(group) for pick in (F.min, F.max))
        return lowest, highest

    def agree(value: Column, among: Column) -> Column:
        lowest, highest = span(value, among)
        return F.when(lowest == highest, lowest)

    every_row = F.lit(True)
    is_newest = is_newest_of(every_row)
    held = {name: agree(value, is_newest) for name, value in values.items()}
    # As across days, a newer profile's silence undoes neither a withdrawal nor a time zone.
    if "time_zone" in values:
        held["time_zone"] = agree(values["time_zone"], is_newest_of(values["time_zone"].isNotNull()))
    # A withdrawal whose time is unknown may be the last word.
    is_last_word = is_newest_of(values["consent"].isNotNull()) | changed.isNull()
    held["consent"] = F.min(F.when(is_last_word, values["consent"])).over(group)
    given_at, withdrawn_at = (
        F.max(F.when(is_last_word & (values["consent"] == F.lit(word)), changed)).over(group) for word in (True, False)
    )
    withdrawn_some_time = F.max((values["consent"] == F.lit(False)) & changed.isNull()).over(group)
    consent_at = F.when(held["consent"], given_at).when(~F.coalesce(withdrawn_some_time, F.lit(False)), withdrawn_at)
    lowest, highest = span(content, every_row)
    lowest_newest, highest_newest = span(content, is_newest)
    return users.select(
        *(name for name in users.columns if name != "profile"),
        F.struct(F.col("profile.user_id"), *(held[name].alias(name) for name in names)).alias("profile"),
        consent_at.alias("consent_at"),
        F.col("profile").alias("given"),
        (lowest != highest).alias("differs"),
        ((F.max(changed.isNull()).over(group) == F.lit(False)) & (lowest_newest == highest_newest)).alias("is_settled"),
    )


def describe_contradictions(
    fates: DataFrame, names: Sequence[str], *, is_timed: bool
) -> tuple[list[StageWarning], list[str]]:
    """What there is to tell of the users whose profiles of one day differ.

    Args:
        fates: the rows of `settle`, with `fate`.
        names: as for `settle`.
        is_timed: whether the source maps `updated_at`.

    Returns: warnings of those that nothing settles, with an example; notes on those that `updated_at` settles.
    """
    differing = fates.where("differs AND reason IS NULL")
    counted = differing.groupBy("is_settled").agg(F.count_distinct("profile.user_id"), F.min("profile.user_id"))
    found = {is_settled: (users, example) for is_settled, users, example in counted.collect()}
    settled, _ = found.get(True, (0, None))
    notes = (
        [f"{settled:,} users have profiles of one day that differ; the newest by updated_at holds"] if settled else []
    )
    if False not in found:
        return [], notes
    users, user_id = found[False]
    example = _describe_example(differing.where((F.col("profile.user_id") == user_id) & ~F.col("is_settled")), names)
    why = " and whose updated_at is missing, unreadable or the same" if is_timed else ""
    cure = "" if is_timed else "; map updated_at in [source.users] columns to say which profile is the newest"
    warning = (
        f"{users:,} users have profiles of one day that differ{why}, such as {user_id!r} {example}: a withdrawal wins, "
        f"other attributes that differ are left empty{cure}"
    )
    return [StageWarning("users contradict themselves", warning)], notes


def _describe_example(rows: DataFrame, names: Sequence[str]) -> str:
    """The first day on which this user's profiles differ, and in what: `on 2026-03-01 (consent: false, true)`."""
    read = rows.orderBy("landed_on").select("landed_on", *(F.col(f"given.{quote(name)}") for name in names))
    # Two rows may agree on nearly everything; a few more show what differs.
    days, *columns = zip(*read.take(EXAMPLE_ROWS), strict=True)
    of_day = [position for position, day in enumerate(days) if day == days[0]]
    differing = []
    for name, column in zip(names, columns, strict=True):
        values = {column[position] for position in of_day} - {None}
        if len(values) > 1:
            differing.append(f"{name}: {', '.join(sorted(map(_show, values)))}")
    return f"on {days[0]} ({'; '.join(differing)})"


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
