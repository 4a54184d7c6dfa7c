"""The fate of source rows against the reference, and a range's ingest against night after night."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipeline.engines.spark import run_sql
from tests.sql import frames, reference
from tests.sql.frames import EVENTS, SOURCE
from tests.sql.logs import MOMENT, Dice
from tests.sql.reference import Row, SourceRow

EVENT_NAMES = {"sms_sent": "exposure", "it's a \\click": "click", "register": "register"}
FIRST = date(2026, 3, 24)
DAYS = 12
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
"""Its clocks go forward on the night to March 29, within the days of these tests."""


def classify(
    spark: SparkSession,
    rows: Iterable[SourceRow],
    known: Iterable[Row] = (),
    *,
    lookback_days: int = 7,
    tolerance_hours: int = 0,
    keeps_same_id: bool = True,
) -> list[Row]:
    found = run_sql(
        spark,
        "classify",
        {
            "source": frames.frame(spark, rows, SOURCE),
            "known": spark.createDataFrame(pa.Table.from_pylist(list(known), schema=EVENTS)),
        },
        event_names=EVENT_NAMES,
        tolerance_hours=tolerance_hours,
        lookback_days=lookback_days,
        keeps_same_id=keeps_same_id,
        most_of_user=0,
    )
    return with_raw(frames.collected(found), list(rows))


def with_raw(found: list[Row], rows: list[SourceRow]) -> list[Row]:
    """Give rows that are not quarantined, and so have no raw content, that of an equal source row."""
    given = {row["raw"] for row in found if row["fate"] == "quarantined"}
    waiting: dict[str, list[str]] = {}
    for row in rows:
        if row.raw not in given:
            event_id = (row.event_id or "").strip() and row.event_id
            event = EVENT_NAMES.get(row.source_event or "")
            same = (row.landed_on, event_id, row.user_id, event, row.event_time, row.campaign_id, row.context or {})
            waiting.setdefault(repr(same), []).append(row.raw)
    for row in found:
        if row["fate"] != "quarantined":
            assert row["raw"] is None
            event_id = "" if len(row["event_id"]) == 64 else row["event_id"]
            names = ("user_id", "event", "event_time", "campaign_id")
            same = (row["landed_on"], event_id, *(row[name] for name in names), dict(row["context"] or ()))
            row["raw"] = waiting[repr(same)].pop()
    return found


def random_rows(dice: Dice, *, events: int, tolerance_hours: int = 0) -> list[SourceRow]:
    """Events that land up to four times on different days, with and without ids, and invalid rows."""
    rows: list[SourceRow] = []
    for n in range(events):
        landed_on = FIRST + timedelta(days=dice.below(DAYS))
        # Few users and times, so that events without an id meet others of almost the same content.
        row = SourceRow(
            raw="",
            landed_on=landed_on,
            event_id=f"e{n}" if dice.chance(0.5) else dice.pick((None, "", " ")),
            user_id=f"u{dice.below(5)}",
            source_event=dice.pick(list(EVENT_NAMES)),
            event_time=reference.midnight(landed_on - timedelta(days=dice.below(2)), AMSTERDAM),
            campaign_id=dice.pick(("a", None)),
            context=dice.pick(({"offer": "cash"}, {"offer": "rate"}, {})),
        )
        for _ in range(1 + dice.below(4)):
            rows.append(broken(dice, row, tolerance_hours) if dice.chance(0.2) else row)
            row = replace(row, landed_on=row.landed_on + timedelta(days=dice.pick((0, 0, 1, 2, 3, 4, 5))))
            if (row.event_id or "").strip() and dice.chance(0.2):
                row = replace(row, user_id=f"u{dice.below(5)}")
    return [replace(row, raw=str(n)) for n, row in enumerate(rows) if row.landed_on < FIRST + timedelta(days=DAYS)]


def as_event(row: SourceRow) -> Row:
    """The event that a row with an id becomes."""
    event = EVENT_NAMES[row.source_event or ""]
    return {name: getattr(row, name) for name in EVENTS.names if name not in ("event", "context")} | {
        "event": event,
        "context": list((row.context or {}).items()),
    }


def broken(dice: Dice, row: SourceRow, tolerance_hours: int) -> SourceRow:
    """The row with one or two faults; its time may be the last valid one."""
    end = reference.midnight(row.landed_on + timedelta(days=1), AMSTERDAM) + timedelta(hours=tolerance_hours)
    changes: tuple[dict[str, Any], ...] = (
        {"user_id": None},
        {"user_id": dice.pick(("", "  "))},
        {"source_event": None},
        {"source_event": dice.pick(("", "SMS_SENT", "unsubscribe"))},
        {"event_time": None},
        {"event_time": end + dice.pick((-1, 0, 1)) * MOMENT},
        {"event_time": end + timedelta(hours=dice.pick((-1, 1)))},
    )
    return replace(row, **(dice.pick(changes) | (dice.pick(changes) if dice.chance(0.3) else {})))


@pytest.mark.parametrize(
    ("seed", "lookback_days", "tolerance_hours"), [(21, 7, 0), (22, 3, 5), (23, 0, 0), (24, 1, 24)]
)
def test_fates_of_random_rows(spark_in: Callable, seed: int, lookback_days: int, tolerance_hours: int) -> None:
    dice = Dice(seed)
    rows = random_rows(dice, events=400, tolerance_hours=tolerance_hours)
    with_id = [row for row in rows if (row.event_id or "").strip() and row.source_event in EVENT_NAMES]
    known: dict[object, SourceRow] = {}
    for _ in range(60 if lookback_days else 0):
        row = replace(dice.pick(with_id), landed_on=FIRST - timedelta(days=1 + dice.below(lookback_days)))
        known[reference.key_of(row)] = row
    found = classify(
        spark_in(AMSTERDAM),
        rows,
        [as_event(row) for row in known.values()],
        lookback_days=lookback_days,
        tolerance_hours=tolerance_hours,
    )

    by_raw = {row.raw: row for row in rows}
    assert sorted(by_raw) == sorted(row["raw"] for row in found), "every row has one fate"
    reasons = {
        row.raw: reference.rejection(row, event_names=EVENT_NAMES, tolerance_hours=tolerance_hours, zone=AMSTERDAM)
        for row in rows
    }
    assert {row["raw"]: row["reason"] for row in found} == reasons
    assert all((row["fate"] == "quarantined") == (row["reason"] is not None) for row in found)
    sound = [row for row in rows if reasons[row.raw] is None]
    kept = Counter((row["landed_on"], reference.key_of(by_raw[row["raw"]])) for row in found if row["fate"] == "kept")
    # Exactly one of a day's rows of one key is kept, no matter which.
    first_kept = {key: row.landed_on for key, row in known.items()}
    assert kept == Counter(reference.kept_keys(sound, first_kept, lookback_days=lookback_days))
    for row in found:
        theirs = by_raw[row["raw"]]
        assert row["user_id"] == theirs.user_id
        assert row["event"] == EVENT_NAMES.get(theirs.source_event or "")
        assert row["event_time"] == theirs.event_time
        assert row["campaign_id"] == theirs.campaign_id
        has_id = bool((theirs.event_id or "").strip())
        assert row["event_id"] == theirs.event_id if has_id else len(row["event_id"]) == 64
    assert len(kept) > 300
    assert len(sound) - len(kept) > 100
    assert len({reason for reason in reasons.values() if reason}) == 5


def content(row: Row) -> tuple[Any, ...]:
    names = ("landed_on", "event_id", "user_id", "event", "event_time", "campaign_id")
    return (*(row[name] for name in names), repr(row["context"]))


@pytest.mark.parametrize(
    ("seed", "lookback_days"),
    [(31, 2), *(pytest.param(seed, days, marks=pytest.mark.slow) for seed, days in ((32, 7), (33, 0), (34, 1)))],
)
def test_a_range_keeps_what_its_nights_would_one_by_one(spark_in: Callable, seed: int, lookback_days: int) -> None:
    dice, spark = Dice(seed), spark_in(AMSTERDAM)
    rows = random_rows(dice, events=400)
    days = [FIRST + timedelta(days=n) for n in range(DAYS)]

    def ingested(cuts: list[int]) -> tuple[list[tuple[Any, ...]], Counter]:
        """What is kept, and the fates by day, of consecutive ranges that begin at the cuts."""
        kept: list[Row] = []
        fates: Counter = Counter()
        for start, stop in zip(cuts, [*cuts[1:], DAYS], strict=True):
            first = days[start]
            found = classify(
                spark,
                [row for row in rows if row.landed_on in days[start:stop]],
                [
                    {name: row[name] for name in EVENTS.names}
                    for row in kept
                    if first - timedelta(days=lookback_days) <= row["landed_on"] < first
                ],
                lookback_days=lookback_days,
            )
            kept += [row for row in found if row["fate"] == "kept"]
            fates += Counter((row["landed_on"], row["fate"], row["reason"]) for row in found)
        return sorted((content(row) for row in kept), key=repr), fates

    at_once = ingested([0])
    assert ingested(list(range(DAYS))) == at_once
    assert ingested([0, *sorted({1 + dice.below(DAYS - 1) for _ in range(4)})]) == at_once


def test_which_duplicate_of_a_day_is_kept_does_not_depend_on_the_order_of_the_rows(spark_in: Callable) -> None:
    # Sources send an id twice with another user, event, campaign or context.
    spark, at = spark_in(AMSTERDAM), reference.midnight(FIRST, AMSTERDAM)
    row = SourceRow("", FIRST, "", "ann", "sms_sent", at, "a", {"offer": "cash"})
    differences: list[dict[str, Any]] = [
        {"user_id": "bob"},
        {"source_event": "register"},
        {"event_time": at - MOMENT},
        {"campaign_id": "b"},
        {"context": {"offer": "rate"}},
    ]
    rows = [replace(row, event_id=f"e{n}", **change) for n, change in enumerate(differences) for change in ({}, change)]

    def kept(rows: list[SourceRow]) -> set[tuple[Any, ...]]:
        return {content(row) for row in classify(spark, rows) if row["fate"] == "kept"}

    # Those of another user, event or time are events of their own.
    assert len(kept(rows)) == len(differences) + 3
    assert kept(rows) == kept(rows[::-1])


def test_rows_of_one_id_that_differ_are_kept_or_told(spark_in: Callable) -> None:
    spark, at = spark_in(AMSTERDAM), reference.midnight(FIRST, AMSTERDAM)
    row = SourceRow("", FIRST, "17", "ann", "sms_sent", at, "a")
    changes: list[dict[str, Any]] = [
        {},
        {"user_id": "bob"},
        {"source_event": "register"},
        {"event_time": at + MOMENT},
        {"campaign_id": "b"},
        {},
    ]
    rows = [replace(row, raw=str(number), **change) for number, change in enumerate(changes)]

    def fates(known: list[Row], *, keeps_same_id: bool) -> Counter:
        found = classify(spark, rows, known, keeps_same_id=keeps_same_id)
        return Counter((each["fate"], each["shares_id"], each["has_other_details"]) for each in found)

    kept, repeat = "kept", "duplicate"
    assert fates([], keeps_same_id=True) == {
        (kept, False, False): 1,
        (kept, True, False): 3,
        (repeat, False, True): 1,
        (repeat, False, False): 1,
    }
    dropping = fates([], keeps_same_id=False)
    assert (dropping[kept, False, False], sum(dropping.values())) == (1, 6)
    assert sum(number for (fate, shares_id, _), number in dropping.items() if fate == repeat and shares_id) == 3
    # An event of the nights before has the id, too.
    known = as_event(replace(row, user_id="aaa", landed_on=FIRST - timedelta(days=1)))
    with_known = fates([known], keeps_same_id=True)
    assert (with_known[kept, True, False], with_known[kept, False, False]) == (4, 0)
    assert all(fate == repeat for fate, *_ in fates([known], keeps_same_id=False))


@pytest.mark.parametrize(("lookback_days", "kept_on"), [(0, [1, 3, 4, 6, 9]), (2, [1, 4, 9]), (3, [1, 6]), (7, [1, 9])])
def test_a_key_that_comes_back_is_kept_again_only_after_the_look_back(
    spark_in: Callable, lookback_days: int, kept_on: list[int]
) -> None:
    # Landings of March 1, 3, 4, 6 and 9: counted from the day it was last kept, not from the last landing.
    at = datetime(2026, 2, 28, 12, tzinfo=UTC)
    for event_id in ("an id", None):
        rows = [SourceRow(str(day), date(2026, 3, day), event_id, "ann", "sms_sent", at) for day in (1, 3, 4, 6, 9)]
        found = classify(spark_in(AMSTERDAM), rows, lookback_days=lookback_days)
        assert sorted(int(row["raw"]) for row in found if row["fate"] == "kept") == kept_on


def test_a_quarantined_row_does_not_use_up_its_key(spark_in: Callable) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    rows = [
        SourceRow("no user", date(2026, 3, 1), "an id", None, "sms_sent", at),
        SourceRow("too early", date(2026, 2, 28), "an id", "ann", "sms_sent", at),
        SourceRow("sound", date(2026, 3, 2), "an id", "ann", "sms_sent", at),
    ]
    found = classify(spark_in(AMSTERDAM), rows)
    assert {row["raw"]: row["fate"] for row in found} == {
        "no user": "quarantined",
        "too early": "quarantined",
        "sound": "kept",
    }
