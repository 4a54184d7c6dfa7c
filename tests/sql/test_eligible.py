"""Who may be scored, against the reference: consent as it last landed, completions by both clocks."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.spark import run_sql
from tests.sql import frames, reference
from tests.sql.frames import USERS
from tests.sql.logs import Dice, World, random_events, random_profiles, spring

WORLD = spring("Europe/Amsterdam")


@pytest.mark.parametrize("has_users", [True, False])
@pytest.mark.parametrize(("seed", "world"), [(41, WORLD), (42, spring("Asia/Shanghai", {"click": 3}))])
def test_random_users(spark_in: Callable, seed: int, world: World, has_users: bool) -> None:
    dice, spark = Dice(seed), spark_in(world.zone)
    events = random_events(dice, world, users=400)
    profiles = random_profiles(dice, world, users=450)
    ds = world.first + timedelta(days=15 + dice.below(10))
    last_stage = world.kinds[-1]
    views = {"activity": frames.tiles(spark, events)}
    if has_users:
        views["users"] = frames.frame(spark, profiles, USERS)
    found = [
        row["user_id"]
        for row in frames.collected(
            run_sql(spark, "eligible", views, ds=ds, has_users=has_users, last_stage=last_stage)
        )
    ]
    expected = reference.eligible(events, profiles if has_users else None, ds, last_stage=last_stage, zone=world.zone)
    assert sorted(found) == sorted(expected)
    assert 20 < len(expected) < 350
