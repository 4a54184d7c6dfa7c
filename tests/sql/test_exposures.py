"""Exposures and their labels against the reference, and the rules of attribution worked by hand."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from tests.sql import frames, reference
from tests.sql.logs import MOMENT, Dice, World, autumn, random_events, spring
from tests.sql.reference import Event

CASES = [
    (11, "last_touch", True, spring("Asia/Shanghai")),
    (14, "any_in_window", False, autumn("Europe/Amsterdam")),
    # Windows need not grow along the funnel.
    (15, "last_touch", False, autumn("Europe/Amsterdam", {"open": 9, "click": 1, "register": 5, "complete": 3})),
]
MORE_CASES = [
    (12, "any_in_window", True, spring("Asia/Shanghai")),
    (13, "last_touch", True, spring("Europe/Amsterdam", {"click": 2, "register": 2, "complete": 9})),
    # A funnel may have a single stage.
    (16, "last_touch", True, spring("Europe/Amsterdam", {"click": 5})),
]


def log_with_relandings(dice: Dice, world: World, *, campaigns: bool) -> list[Event]:
    """A random log; some of its events land again, later than any look-back."""
    events = random_events(dice, world, users=200, campaigns=campaigns)
    again = [replace(each, landed_on=each.landed_on + timedelta(days=9)) for each in events if dice.chance(0.1)]
    return events + again


@pytest.mark.parametrize(
    ("seed", "attribution", "campaigns", "world"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CASES)],
)
def test_random_logs(spark_in: Callable, seed: int, attribution: str, campaigns: bool, world: World) -> None:
    dice, spark = Dice(seed), spark_in(world.zone)
    events = log_with_relandings(dice, world, campaigns=campaigns)
    as_of = world.first + timedelta(days=world.days - 1 - dice.below(14))
    # Exposures whose window ends with as_of to the microsecond, or just not.
    end = reference.midnight(as_of + timedelta(days=1), world.zone)
    for stage, days in world.windows.items():
        for moments in (-1, 0, 1):
            at = end - timedelta(days=days) + moments * MOMENT
            landed_on = reference.local_date(at, world.zone)
            events.append(Event(f"edge-{stage}{moments}", f"edge-{stage}", "exposure", at, landed_on))
    history_days = 21 + dice.below(10)
    expected = reference.exposures(
        events, as_of, windows=world.windows, attribution=attribution, history_days=history_days, zone=world.zone
    )
    found = by_id(
        frames.collected(
            frames.exposures(spark, events, as_of, world, attribution=attribution, history_days=history_days)
        )
    )
    assert {row.pop("as_of") for row in found.values()} == {as_of}
    assert found.keys() == expected.keys()
    for exposure_id, row in found.items():
        assert row == expected[exposure_id]
    for stage in world.windows:
        labels = [row[f"label_{stage}"] for row in expected.values()]
        assert min(labels.count(0), labels.count(1), labels.count(None)) > 5, f"a log that says little about {stage}"


@pytest.mark.parametrize("attribution", ["last_touch", "any_in_window"])
@pytest.mark.parametrize(
    ("seed", "by_day", "dated"), [(0, False, False), (1, False, False), (2, True, False), (3, True, True)]
)
def test_dense_logs(seed: int, attribution: str, by_day: bool, dated: bool) -> None:
    """Many events at few instants: ties of everything with everything, of one, another or no campaign.

    By day, also across the night on which clocks change; `dated` logs know nothing else.
    """
    dice, world = Dice(seed), spring("Europe/Amsterdam", {"click": 1, "register": 2, "complete": 4})
    noon = reference.midnight(date(2026, 3, 27), world.zone) + timedelta(hours=12)
    events = []
    for number in range(4_000):
        at = noon + timedelta(hours=12 * dice.below(9)) + dice.pick((-1, 0, 0, 0, 1)) * MOMENT
        at = reference.midnight(reference.local_date(at, world.zone), world.zone) if dated else at
        kind = dice.pick(("exposure", *world.kinds))
        name = f"{dice.below(10**6):06d}-{number}"
        landed_on = reference.local_date(at, world.zone)
        events.append(Event(name, f"u{dice.below(500)}", kind, at, landed_on, dice.pick(("a", "b", None))))
    as_of = date(2026, 4, 2)
    expected = reference.exposures(
        events, as_of, windows=world.windows, attribution=attribution, history_days=7, zone=world.zone, by_day=by_day
    )
    log = frames.arrow(events, frames.EVENTS)
    labelled = frames.exposures_locally(log, as_of, world, attribution=attribution, history_days=7, by_day=by_day)
    found = by_id(labelled.to_pylist())
    assert found.keys() == expected.keys()
    columns = [f"{kind}_{stage}" for kind in ("observed", "mature", "label") for stage in world.windows]
    for exposure_id, row in found.items():
        assert {name: row[name] for name in columns} == {name: expected[exposure_id][name] for name in columns}


def test_the_work_grows_with_a_user_s_events_and_not_with_their_square() -> None:
    """A placeholder id: messages of 20,000 people, of whom half click before the next message."""
    sent = np.datetime64("2026-03-15T09:00:00", "us") + np.arange(20_000) * np.timedelta64(2, "s")
    times = np.concatenate([sent, sent[::2] + np.timedelta64(1, "s")])
    events = pa.table(
        {
            "landed_on": pa.array([date(2026, 3, 15)] * len(times)),
            "event_id": [f"e{number}" for number in range(len(times))],
            "user_id": ["0"] * len(times),
            "event": ["exposure"] * len(sent) + ["click"] * (len(times) - len(sent)),
            "event_time": pa.array(times, pa.timestamp("us", "UTC")),
            "campaign_id": pa.nulls(len(times), pa.string()),
            "context": pa.nulls(len(times), frames.CONTEXT),
        }
    )
    labelled = frames.exposures_locally(
        events, date(2026, 3, 20), spring("UTC", {"click": 3}), attribution="last_touch", history_days=30
    )
    assert (labelled.num_rows, pc.sum(labelled["label_click"]).as_py()) == (20_000, 10_000)


def by_id(rows: list[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {row["exposure_id"]: dict(row) for row in rows}
    assert len(found) == len(rows), "an exposure came out twice"
    return found


class AnnsLog:
    """One user's events by day and hour of March 2026, UTC, each landing on its day."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, name: str, kind: str, day: int, hour: int = 12, **changes: Any) -> "AnnsLog":
        at = datetime(2026, 3, day, hour, tzinfo=UTC)
        self.events.append(replace(Event(name, "ann", kind, at, at.date()), **changes))
        return self

    def labels(
        self,
        spark: SparkSession,
        as_of: int,
        *,
        kind: str = "observed",
        attribution: str = "last_touch",
        by_day: bool = False,
    ) -> dict[str, list[int | None]]:
        world = spring("UTC")
        rows = frames.exposures(
            spark,
            self.events,
            date(2026, 3, as_of),
            world,
            attribution=attribution,
            history_days=30,
            by_day=by_day,
        )
        return {
            row["exposure_id"]: [row[f"{kind}_{stage}"] for stage in world.windows] for row in frames.collected(rows)
        }


@pytest.fixture
def spark(spark_in: Callable) -> SparkSession:
    return spark_in(spring("UTC").zone)


def test_an_event_is_credited_to_the_latest_exposure_only_under_last_touch(spark: SparkSession) -> None:
    log = AnnsLog().add("x1", "exposure", 1).add("x2", "exposure", 2).add("c", "click", 3)
    assert log.labels(spark, 25) == {"x1": [0, 0, 0], "x2": [1, 0, 0]}
    assert log.labels(spark, 25, attribution="any_in_window") == {"x1": [1, 0, 0], "x2": [1, 0, 0]}


def test_an_event_that_names_a_campaign_is_credited_to_that_campaign(spark: SparkSession) -> None:
    log = (
        AnnsLog()
        .add("x1", "exposure", 1, campaign_id="a")
        .add("x2", "exposure", 2, campaign_id="b")
        .add("c", "click", 3, campaign_id="a")
        .add("r", "register", 3, campaign_id=None)
        .add("d", "complete", 3, campaign_id="elsewhere")
    )
    assert log.labels(spark, 25) == {"x1": [1, 0, 0], "x2": [0, 1, 0]}


def test_a_later_stage_implies_the_earlier_ones_once_it_is_mature(spark: SparkSession) -> None:
    log = AnnsLog().add("x", "exposure", 1).add("d", "complete", 2)
    assert log.labels(spark, 14, kind="label") == {"x": [0, 0, None]}
    assert log.labels(spark, 15, kind="label") == {"x": [1, 1, 1]}
    assert log.labels(spark, 15, kind="observed") == {"x": [0, 0, 1]}


def test_an_early_positive_does_not_count_before_its_window_has_passed(spark: SparkSession) -> None:
    log = AnnsLog().add("x", "exposure", 1, hour=0).add("c", "click", 1, hour=1)
    assert log.labels(spark, 2) == {"x": [None, None, None]}
    assert log.labels(spark, 3) == {"x": [1, None, None]}


def test_an_event_counts_from_the_night_it_landed(spark: SparkSession) -> None:
    log = AnnsLog().add("x", "exposure", 1).add("c", "click", 2, landed_on=date(2026, 3, 6))
    assert log.labels(spark, 5) == {"x": [0, None, None]}
    assert log.labels(spark, 6) == {"x": [1, None, None]}


def test_where_only_dates_are_known_an_outcome_follows_the_exposures_of_its_own_day(spark: SparkSession) -> None:
    log = (
        AnnsLog()
        .add("x1", "exposure", 1, hour=0)
        .add("x2", "exposure", 1, hour=0)
        .add("c1", "click", 1, hour=0)
        .add("x3", "exposure", 5, hour=0)
        .add("r", "register", 4, hour=0)
        .add("c2", "click", 8, hour=0)
    )
    assert log.labels(spark, 25) == {"x1": [0, 0, 0], "x2": [0, 1, 0], "x3": [1, 0, 0]}
    assert log.labels(spark, 25, by_day=True) == {"x1": [0, 0, 0], "x2": [1, 1, 0], "x3": [1, 0, 0]}
    assert log.labels(spark, 25, by_day=True, attribution="any_in_window")["x1"] == [1, 1, 0]
    # The third day after the exposure's still counts, so the window ends with it.
    assert log.labels(spark, 7, by_day=True)["x3"] == [None, None, None]
    assert log.labels(spark, 8, by_day=True)["x3"] == [1, None, None]


def test_windows_are_24_hours_a_day_when_clocks_change(spark_in: Callable) -> None:
    # From noon before the change to noon three days later: 71 hours in March, 73 in October.
    changes = {date(2026, 3, 28): spring("Europe/Amsterdam"), date(2026, 10, 24): autumn("Europe/Amsterdam")}
    for first, world in changes.items():
        sent = reference.midnight(first, world.zone) + timedelta(hours=12)
        events = []
        for name, delay in (("in", timedelta(hours=72)), ("out", timedelta(hours=72) + MOMENT)):
            at = sent + delay
            events += [
                Event(f"x-{name}", name, "exposure", sent, first),
                Event(f"c-{name}", name, "click", at, reference.local_date(at, world.zone)),
            ]
        rows = frames.exposures(
            spark_in(world.zone), events, first + timedelta(days=20), world, attribution="last_touch", history_days=30
        )
        found = {row["exposure_id"]: row["observed_click"] for row in frames.collected(rows)}
        assert found == {"x-in": 1, "x-out": 0}


def test_a_summer_evening_belongs_to_its_own_day(spark_in: Callable) -> None:
    world = spring("Europe/Amsterdam")
    as_of = date(2026, 4, 2)
    midnight = datetime(2026, 4, 2, 22, tzinfo=UTC)
    events = [
        Event("today", "ann", "exposure", midnight - MOMENT, as_of),
        Event("tomorrow", "ann", "exposure", midnight, as_of),
        Event("three days ago", "bob", "exposure", midnight - timedelta(days=3), date(2026, 3, 31)),
        Event("a moment less", "bob", "exposure", midnight - timedelta(days=3) + MOMENT, date(2026, 3, 31)),
    ]
    rows = frames.exposures(spark_in(world.zone), events, as_of, world, attribution="last_touch", history_days=30)
    found = {row["exposure_id"]: row["mature_click"] for row in frames.collected(rows)}
    assert found == {"today": False, "three days ago": True, "a moment less": False}
