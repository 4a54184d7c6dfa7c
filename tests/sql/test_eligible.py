"""Who may be scored, against the reference: consent as it last landed, completions by both clocks.

A night knows the same users from all that has landed as from an earlier state and what has landed since.
"""

from collections.abc import Callable, Sequence
from datetime import date, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession

from pipeline.scoring.scoring import explain_nobody
from tests.sql import frames, reference
from tests.sql.logs import Dice, World, random_events, random_profiles, spring
from tests.sql.reference import Event, Profile

WORLD = spring("Europe/Amsterdam")
CASES = [(41, WORLD), (42, spring("Asia/Shanghai", {"click": 3}))]
USERS = 400


def known_by_steps(
    spark: SparkSession,
    events: list[Event],
    profiles: list[Profile] | None,
    steps: list[date],
    *,
    last_stage: str,
    static: Sequence[str] = (),
) -> DataFrame:
    """Users known by the last date; each date starts from the previous one and sees only what landed since."""
    known, before = None, date.min
    for ds in steps:
        landed = [each for each in events if before < each.landed_on <= ds]
        of_users = None if profiles is None else [each for each in profiles if before < each.landed_on <= ds]
        known = frames.known_users(spark, landed, of_users, ds, last_stage=last_stage, earlier=known, static=static)
        # A state is written and read back, so that the next plan does not include its own.
        known, before = spark.createDataFrame(known.toArrow()), ds
    assert known is not None
    return known


@pytest.mark.parametrize("has_users", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("seed", "world"), CASES)
def test_random_users(spark_in: Callable, seed: int, world: World, has_users: bool) -> None:
    dice, spark = Dice(seed), spark_in(world.zone)
    events = random_events(dice, world, users=USERS)
    profiles = random_profiles(dice, world, users=USERS + 50) if has_users else None
    ds = world.first + timedelta(days=15 + dice.below(10))
    last_stage = world.kinds[-1]
    at_once = frames.known_users(spark, events, profiles, ds, last_stage=last_stage)
    expected = reference.eligible(events, profiles, ds, last_stage=last_stage, zone=world.zone)
    found = [row["user_id"] for row in frames.collected(frames.eligible(spark, at_once, ds, has_users=has_users))]
    assert sorted(found) == sorted(expected)
    assert 20 < len(expected) < 350

    steps = sorted({ds, *(world.first + timedelta(days=dice.below((ds - world.first).days)) for _ in range(3))})
    by_steps = known_by_steps(spark, events, profiles, steps, last_stage=last_stage)
    assert sorted(frames.collected(by_steps), key=repr) == sorted(frames.collected(at_once), key=repr)


@pytest.mark.slow
@pytest.mark.parametrize("static", [(), ("age",), ("city_tier", "age")])
def test_eligible_users_have_the_attributes_that_features_would_look_up(
    spark_in: Callable, static: tuple[str, ...]
) -> None:
    world, dice = WORLD, Dice(43)
    spark, ds = spark_in(world.zone), world.first + timedelta(days=20)
    events, profiles = random_events(dice, world, users=USERS), random_profiles(dice, world, users=USERS)
    steps = [ds - timedelta(days=9), ds]
    known = known_by_steps(spark, events, profiles, steps, last_stage=world.kinds[-1], static=static)
    users = frames.collected(frames.eligible(spark, known, ds, has_users=True))

    def features(spine: DataFrame) -> list[reference.Row]:
        landed = [each for each in profiles if each.landed_on <= ds]
        rows = frames.features(spark, spine, events, landed, kinds=world.kinds, windows_days=(1, 7, 30), static=static)
        return sorted(frames.collected(rows), key=repr)

    bare = frames.spine_of(spark, [(user["user_id"], ds) for user in users])
    known_spine = known.selectExpr("user_id", f"DATE'{ds}' AS as_of", *frames.ATTRIBUTES)
    with_attributes = known_spine.join(bare, ["user_id", "as_of"])
    assert features(with_attributes) == features(bare)
    assert len({(user["city_tier"], user["age"]) for user in users}) > 6


def test_a_night_without_anybody_says_what_keeps_them_out(spark_in: Callable) -> None:
    ds = date(2026, 3, 2)
    rows = [(None, None), (False, None), (False, ds), (True, ds), (True, ds + timedelta(days=1))]
    known = spark_in(WORLD.zone).createDataFrame(rows, "consent boolean, completed_on date")
    line = explain_nobody(known, ds)
    assert "of 5 known users, 2 have withdrawn consent and 2 have completed; a consent that cannot be read" in line
