"""What a day shows of the rows that it rejects: unknown names of events, and, if the day is stopped, the rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.dates import DateRange
from pipeline.engines.spark import stage
from pipeline.errors import describe_error
from pipeline.runs.context import Context
from pipeline.runs.publish import publish
from pipeline.runs.record import StageRun, StageWarning

TABLE = "stopped_quarantine"
UNKNOWN = "unknown event"
MOST_NAMES = 5
MOST_CHARACTERS = 300


def count_unknown_events(fates: DataFrame) -> dict[date, dict[str, int]]:
    """The names that the configuration does not know, by landing day, and how many events have each.

    Args:
        fates: the rows of `sql/spark/classify.sql`.
    """
    found: dict[date, dict[str, int]] = {}
    unknown = fates.where(F.col("reason") == UNKNOWN).groupBy("landed_on", "unknown_event").count()
    for landed_on, name, number in unknown.collect():
        found.setdefault(landed_on, {})[name] = number
    return found


def describe_unknown_events(counts: Mapping[str, int], known: Sequence[str]) -> str:
    """The most frequent unknown names, each with its count, and with the known name that it may be.

    >>> describe_unknown_events({"Click": 340, "open": 12}, ["sms_sent", "click"])
    "'Click' 340 (is it 'click'?), 'open' 12"
    """
    alike = {_simplify(name): name for name in reversed(known)}
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    told = []
    for name, number in ordered[:MOST_NAMES]:
        meant = alike.get(_simplify(name))
        told.append(f"{name!r} {number:,}" + (f" (is it {meant!r}?)" if meant else ""))
    if len(ordered) > MOST_NAMES:
        rest = sum(number for _, number in ordered[MOST_NAMES:])
        told.append(f"{len(ordered) - MOST_NAMES:,} other names {rest:,}")
    return ", ".join(told)


def warn_of_misspelt_events(by_day: Mapping[date, Mapping[str, int]], known: Sequence[str]) -> list[StageWarning]:
    """A warning of the unknown names that differ from a known one only in case, blanks or punctuation."""
    alike = {_simplify(name) for name in known}
    misspelt: Counter[str] = Counter()
    for counts in by_day.values():
        misspelt.update({name: number for name, number in counts.items() if _simplify(name) in alike})
    if not misspelt:
        return []
    told = describe_unknown_events(misspelt, known)
    line = f"{misspelt.total():,} events are in quarantine for names that nearly are the configuration's: {told}"
    return [StageWarning("names of events", line)]


def _simplify(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def keep_evidence(run: StageRun, rejected: DataFrame) -> None:
    """Publish the rows that a stopped run rejected as `stopped_quarantine`, and tell an example of each reason.

    Args:
        rejected: reason, raw and landed_on.
    """
    context, dates = run.context, run.dates
    try:
        rows = rejected.withColumn("run_id", F.lit(context.run_id))
        publish(run, stage(rows, context.warehouse, TABLE, sort=("reason", "raw")), dates)
        _tell_examples(context, dates, rejected)
    except Exception as error:
        # The run is about to end with the cause: a failure of the evidence must not take its place.
        context.notify(f"warning: {dates}: rejected rows could not be kept in {TABLE}: {describe_error(error)}")


def _tell_examples(context: Context, dates: DateRange, rejected: DataFrame) -> None:
    counted = rejected.groupBy("reason").agg(F.count(F.lit(1)).alias("n"), F.min("raw"))
    told = counted.orderBy(F.desc("n"), "reason").collect()
    for reason, number, raw in told:
        context.notify(f"rejected on {dates}: {number:,} {reason}, such as {_shorten(raw)}")
    if told:
        days = f"BETWEEN '{dates.first}' AND '{dates.last}'" if len(dates) > 1 else f"= '{dates.first}'"
        context.notify(f'all of them: funnel sql "SELECT * FROM {TABLE} WHERE landed_on {days}"')


def drop_evidence(run: StageRun) -> None:
    """Remove what an earlier run, which was stopped, has left of the days that now are published."""
    context: Context = run.context
    if context.warehouse.row_counts(TABLE, first=run.dates.first, last=run.dates.last):
        context.warehouse.publish(TABLE, [], first=run.dates.first, last=run.dates.last, summary={})


def _shorten(raw: str) -> str:
    return raw if len(raw) <= MOST_CHARACTERS else raw[: MOST_CHARACTERS - 1] + "…"
