"""What happens or lands after `as_of` does not change a row; what was known by then does.

Every user lives in several worlds at once, told apart by a prefix of the ids. The first is the log as it is; in
each other one, each user's log differs by one change.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import partial

import pytest
from pyspark.sql import SparkSession

from tests.sql import frames
from tests.sql.logs import MOMENT, Dice, World, autumn, events_of_user, random_profiles, spring
from tests.sql.reference import Event, Profile, Row, is_visible, local_date, midnight

USERS = 120
HISTORY_DAYS = 25
WINDOWS_DAYS = (1, 7, 30)

Log = tuple[list[Event], list[Profile]]
"""One user's events and profiles."""
Change = Callable[[Dice, World, date, Log], Log]


def hidden_event(dice: Dice, world: World, as_of: date, like: Event) -> Event:
    """An event that has not happened by `as_of`, or has not landed, or neither."""
    later = as_of + timedelta(days=1 + dice.below(5))
    earlier = as_of - timedelta(days=dice.below(20))
    happened, landed_on = dice.pick(((later, later), (later, as_of), (later, earlier), (earlier, later)))
    # The first instant of the day after as_of is hidden as well.
    at = midnight(happened, world.zone) + timedelta(hours=dice.pick((0, 1, 20)))
    kind = dice.pick(world.kinds)
    return replace(like, event=kind, event_time=at, landed_on=landed_on, campaign_id=dice.pick(("a", "b", None)))


def add_hidden(dice: Dice, world: World, as_of: date, log: Log) -> Log:
    events, profiles = log
    user_id = events[0].user_id
    new = Event(f"{user_id}-new{dice.below(2)}", user_id, "", midnight(as_of, world.zone), as_of)
    return [*events, hidden_event(dice, world, as_of, new)], profiles


def land_again(dice: Dice, world: World, as_of: date, log: Log) -> Log:
    events, profiles = log
    return [*events, replace(dice.pick(events), landed_on=as_of + timedelta(days=1 + dice.below(5)))], profiles


def remove_hidden(dice: Dice, world: World, as_of: date, log: Log) -> Log:
    events, profiles = log
    return [each for each in events if is_visible(each, as_of, world.zone) or dice.chance(0.5)], profiles


def change_hidden(dice: Dice, world: World, as_of: date, log: Log) -> Log:
    events, profiles = log
    changed = [
        each if is_visible(each, as_of, world.zone) else hidden_event(dice, world, as_of, each) for each in events
    ]
    return changed, profiles


def change_later_profiles(dice: Dice, world: World, as_of: date, log: Log) -> Log:
    events, profiles = log
    known = [each for each in profiles if each.landed_on <= as_of]
    new = Profile(events[0].user_id, as_of + timedelta(days=1), consent=False, city_tier="new", age=99.0)
    return events, [*known, new] if dice.chance(0.7) else known


HIDDEN: tuple[Change, ...] = (add_hidden, land_again, remove_hidden, change_hidden, change_later_profiles)


def user_logs(dice: Dice, world: World, as_of: date) -> dict[str, Log]:
    """Logs in which every user has at least one visible and one hidden event."""
    profiles = random_profiles(dice, world, users=USERS)
    logs: dict[str, Log] = {}
    while len(logs) < USERS:
        user_id = f"u{len(logs)}"
        events = events_of_user(dice, world, user_id, campaigns=True)
        if len({is_visible(each, as_of, world.zone) for each in events}) == 2:
            logs[user_id] = events, [each for each in profiles if each.user_id == user_id]
    return logs


def in_worlds(logs: dict[str, Log], changes: tuple[Callable[[Log], Log], ...]) -> Log:
    """All worlds' events and profiles, ids prefixed by the world's number; world 0 is the unchanged log."""
    events: list[Event] = []
    profiles: list[Profile] = []
    for number, change in enumerate((lambda log: log, *changes)):
        for log in logs.values():
            of_user, of_profiles = change(log)
            events += [
                replace(each, event_id=f"{number}/{each.event_id}", user_id=f"{number}/{each.user_id}")
                for each in of_user
            ]
            profiles += [replace(each, user_id=f"{number}/{each.user_id}") for each in of_profiles]
    return events, profiles


def by_world(rows: list[Row], worlds: int, key: str) -> list[dict[str, Row]]:
    """Each world's rows by `key`, without the prefixes."""
    found: list[dict[str, Row]] = [{} for _ in range(worlds)]
    for row in rows:
        number = int(row["user_id"].partition("/")[0])
        plain = row | {name: row[name].partition("/")[2] for name in {"user_id", key}}
        found[number][plain[key]] = plain
    return found


def feature_rows(
    spark: SparkSession, world: World, as_of: date, logs: dict[str, Log], changes: tuple[Callable[[Log], Log], ...]
) -> list[dict[str, Row]]:
    """Each world's features as of a date, by user."""
    events, profiles = in_worlds(logs, changes)
    worlds = 1 + len(changes)
    spine = frames.spine_of(spark, [(f"{number}/{user_id}", as_of) for number in range(worlds) for user_id in logs])
    rows = frames.features(spark, spine, events, profiles, kinds=world.kinds, windows_days=WINDOWS_DAYS)
    return by_world(frames.collected(rows), worlds, "user_id")


def example_rows(
    spark: SparkSession,
    world: World,
    as_of: date,
    logs: dict[str, Log],
    changes: tuple[Callable[[Log], Log], ...],
    attribution: str,
) -> list[dict[str, Row]]:
    """Each world's examples as of a date, by exposure: labels, masks, context, and features of the day before."""
    events, profiles = in_worlds(logs, changes)
    exposed = frames.exposures(
        spark, events, as_of, world, attribution=attribution, history_days=HISTORY_DAYS
    ).persist()
    spine = exposed.selectExpr("user_id", "feature_as_of AS as_of").distinct()
    known = frames.features(spark, spine, events, profiles, kinds=world.kinds, windows_days=WINDOWS_DAYS)
    rows = exposed.join(known.withColumnRenamed("as_of", "feature_as_of"), ["user_id", "feature_as_of"])
    found = by_world(frames.collected(rows), 1 + len(changes), "exposure_id")
    assert sum(map(len, found)) == exposed.count()
    exposed.unpersist()
    return found


WORLDS = [spring("Asia/Shanghai"), spring("Europe/Amsterdam"), autumn("Europe/Amsterdam")]


@pytest.mark.parametrize(("seed", "world"), list(enumerate(WORLDS, 51)))
def test_features_ignore_what_comes_after_as_of(spark_in: Callable, seed: int, world: World) -> None:
    dice, spark = Dice(seed), spark_in(world.zone)
    as_of = world.first + timedelta(days=22 + dice.below(8))
    changes = tuple(partial(change, dice, world, as_of) for change in HIDDEN)
    before, *after = feature_rows(spark, world, as_of, user_logs(dice, world, as_of), changes)
    for change, rows in zip(HIDDEN, after, strict=True):
        assert rows == before, change.__name__


@pytest.mark.parametrize(
    ("seed", "world", "attribution"),
    [
        (61, WORLDS[0], "last_touch"),
        pytest.param(62, WORLDS[1], "last_touch", marks=pytest.mark.slow),
        pytest.param(63, WORLDS[2], "any_in_window", marks=pytest.mark.slow),
    ],
)
def test_examples_ignore_what_comes_after_as_of(spark_in: Callable, seed: int, world: World, attribution: str) -> None:
    dice, spark = Dice(seed), spark_in(world.zone)
    as_of = world.first + timedelta(days=22 + dice.below(8))
    changes = tuple(partial(change, dice, world, as_of) for change in HIDDEN)
    before, *after = example_rows(spark, world, as_of, user_logs(dice, world, as_of), changes, attribution)
    assert len(before) > USERS
    for change, rows in zip(HIDDEN, after, strict=True):
        assert rows == before, change.__name__


def test_features_follow_what_was_known_by_as_of(spark_in: Callable) -> None:
    world = spring("Europe/Amsterdam")
    dice, spark, as_of = Dice(54), spark_in(world.zone), world.first + timedelta(days=25)
    logs = user_logs(dice, world, as_of)

    def remove_one(log: Log) -> Log:
        events, profiles = log
        gone = dice.pick([each for each in events if is_visible(each, as_of, world.zone)])
        return [each for each in events if each is not gone], profiles

    def add_last_moment(log: Log) -> Log:
        events, profiles = log
        at = midnight(as_of + timedelta(days=1), world.zone) - MOMENT
        user_id = events[0].user_id
        return [*events, Event(f"{user_id}-new", user_id, dice.pick(world.kinds), at, as_of)], profiles

    def land_on_as_of(log: Log) -> Log:
        events, profiles = log
        earlier = [each for each in profiles if each.landed_on < as_of]
        return events, [*earlier, Profile(events[0].user_id, as_of, city_tier="new")]

    changes = (remove_one, add_last_moment, land_on_as_of)
    before, *after = feature_rows(spark, world, as_of, logs, changes)
    for change, rows in zip(changes, after, strict=True):
        same = [user_id for user_id in logs if rows[user_id] == before[user_id]]
        assert not same, change.__name__


def test_examples_follow_what_was_known_by_as_of(spark_in: Callable) -> None:
    world = spring("Europe/Amsterdam")
    dice, spark, as_of = Dice(55), spark_in(world.zone), world.first + timedelta(days=25)
    first = as_of - timedelta(days=HISTORY_DAYS - 1)

    def is_example(event: Event) -> bool:
        recent = local_date(event.event_time, world.zone) >= first
        return event.event == "exposure" and recent and is_visible(event, as_of, world.zone)

    logs = {
        user_id: log
        for user_id, log in user_logs(dice, world, as_of).items()
        if any(is_example(each) for each in log[0])
    }
    assert len(logs) > 50

    def with_latest(log: Log, changed: Callable[[Event], list[Event]]) -> Log:
        events, profiles = log
        latest = max((each for each in events if is_example(each)), key=lambda each: each.event_time)
        return [new for each in events for new in (changed(each) if each is latest else [each])], profiles

    def with_click(exposure: Event, *, moments: int) -> list[Event]:
        """A click just before or just after the exposure's day begins."""
        at = midnight(local_date(exposure.event_time, world.zone), world.zone) + moments * MOMENT
        new = Event(f"{exposure.event_id}+", exposure.user_id, "click", at, local_date(at, world.zone))
        return [exposure, new]

    changes: dict[str, Callable[[Event], list[Event]]] = {
        "an exposure removed": lambda exposure: [],
        "its context changed": lambda exposure: [replace(exposure, context={"offer": "other"})],
        "an event of the evening before added": partial(with_click, moments=-1),
        "an event of its own day added": partial(with_click, moments=0),
    }
    changed = tuple(partial(with_latest, changed=change) for change in changes.values())
    before, *after, own_day = example_rows(spark, world, as_of, logs, changed, "last_touch")
    for name, rows in zip(changes, after, strict=False):
        assert {row["user_id"] for key, row in before.items() if rows.get(key) != row} == logs.keys(), name
    # Features end with the day before the exposure, though labels may follow the day's own events.
    for key, row in before.items():
        columns = [column for column in row if "_n_" in column or column.endswith("_days_since")]
        assert [own_day[key][column] for column in columns] == [row[column] for column in columns]
