"""Tiles and features against the reference, which computes features from events instead of tiles."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest

from tests.sql import frames, reference
from tests.sql.logs import Dice, World, autumn, random_events, random_profiles, spring
from tests.sql.reference import Event, Profile

WORLDS = [spring("Asia/Shanghai"), spring("Europe/Amsterdam"), autumn("Europe/Amsterdam")]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"{world.zone.key}-{world.first}")
def test_tiles_of_random_logs(spark_in: Callable, world: World) -> None:
    dice = Dice(1)
    events = random_events(dice, world, users=100)
    # Some more at the same hour, so that a tile holds several.
    events += [dice.pick(events) for _ in range(500)]
    expected = reference.tiles(events, world.zone)
    found = frames.collected(frames.tiles(spark_in(world.zone), events))
    keys = ("user_id", "event", "event_date", "landed_on")
    assert {tuple(row.pop(key) for key in keys): row for row in found} == expected
    assert sum(tile["n"] > 1 for tile in expected.values()) > 50


@pytest.mark.parametrize(
    ("seed", "world", "windows_days", "attributes", "static"),
    [
        (2, WORLDS[0], (1, 7, 30), ("city_tier", "age"), ()),
        (3, WORLDS[1], (2,), (), ()),
        (4, WORLDS[2], (3, 14), ("age",), ("age",)),
        (5, WORLDS[0], (7,), ("city_tier", "age"), ("age",)),
    ],
)
def test_features_of_random_spines(
    spark_in: Callable,
    seed: int,
    world: World,
    windows_days: tuple[int, ...],
    attributes: tuple[str, ...],
    static: tuple[str, ...],
) -> None:
    dice, users, spark = Dice(seed), 150, spark_in(world.zone)
    events = random_events(dice, world, users=users)
    profiles = random_profiles(dice, world, users=users)
    # Ten of the users have neither events nor a profile.
    spine = {
        (f"u{user}", world.first + timedelta(days=dice.below(world.days))) for user in range(users + 10) for _ in "1234"
    }
    found = frames.collected(
        frames.features(
            spark,
            frames.spine_of(spark, spine),
            events,
            profiles,
            kinds=world.kinds,
            windows_days=windows_days,
            attributes=attributes,
            static=static,
        )
    )
    assert len(found) == len(spine)
    for row in found:
        user_id, as_of = row.pop("user_id"), row.pop("as_of")
        assert row == reference.features(
            user_id,
            as_of,
            events,
            profiles,
            kinds=world.kinds,
            windows_days=windows_days,
            attributes=attributes,
            static=static,
            zone=world.zone,
        ), f"{user_id} as of {as_of}"
    assert sum(row[f"exposure_n_{windows_days[-1]}d"] > 0 for row in found) > 20


def test_a_row_worked_by_hand(spark_in: Callable) -> None:
    world = spring("Europe/Amsterdam")
    spark = spark_in(world.zone)
    as_of = date(2026, 3, 29)

    def click(name: str, at: datetime, landed_on: date) -> Event:
        return Event(name, "ann", "click", at, landed_on)

    events = [
        # 23:30 of the 29th in summer time; a day later by winter time's clock.
        click("last hour", datetime(2026, 3, 29, 21, 30, tzinfo=UTC), as_of),
        click("next day", datetime(2026, 3, 29, 22, tzinfo=UTC), as_of),
        click("landed late", datetime(2026, 3, 28, 12, tzinfo=UTC), date(2026, 3, 30)),
        click("oldest day of seven", datetime(2026, 3, 22, 23, tzinfo=UTC), date(2026, 3, 23)),
        click("a day older", datetime(2026, 3, 22, 22, 59, tzinfo=UTC), date(2026, 3, 22)),
    ]
    profiles = [
        Profile("ann", date(2026, 3, 1), age=30.0, city_tier="one"),
        Profile("ann", as_of, age=None, city_tier="two"),
        Profile("ann", date(2026, 3, 30), age=99.0, city_tier="three"),
    ]
    spine = frames.spine_of(spark, [("ann", as_of)])
    found = frames.features(spark, spine, events, profiles, kinds=("click", "register"), windows_days=(1, 7))
    assert frames.collected(found) == [
        {
            "user_id": "ann",
            "as_of": as_of,
            "click_n_1d": 1,
            "click_n_7d": 2,
            "click_days_since": 0,
            "register_n_1d": 0,
            "register_n_7d": 0,
            "register_days_since": None,
            "city_tier": "two",
            "age": None,
        }
    ]
