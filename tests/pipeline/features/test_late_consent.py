"""What is known of consent, whatever the order in which profiles land."""

from datetime import UTC, date, datetime, timedelta
from itertools import permutations

import duckdb
import pytest

from pipeline.engines.duckdb import run_locally

DAYS = [date(2026, 3, 1) + timedelta(days=n) for n in range(3)]
Told = tuple[bool | None, datetime | None]

# Of each user: consent and when it changed, in the order of landing; what holds with these times.
CASES: dict[str, tuple[list[Told], bool | None]] = {
    "a consent that lands late": ([(False, datetime(2026, 2, 20, 15)), (True, datetime(2026, 2, 20, 8))], False),
    "a withdrawal that lands late": ([(True, datetime(2026, 2, 20, 15)), (False, datetime(2026, 2, 20, 8))], True),
    "a newer consent": ([(False, datetime(2026, 2, 20, 8)), (True, datetime(2026, 2, 20, 15))], True),
    "at one instant": ([(False, datetime(2026, 2, 20, 8)), (True, datetime(2026, 2, 20, 8))], False),
    "silence": ([(False, datetime(2026, 2, 20, 8)), (None, datetime(2026, 2, 21, 8))], False),
    "never a word": ([(None, datetime(2026, 2, 20, 8)), (None, None)], None),
    "a withdrawal without a time": ([(True, datetime(2026, 2, 20, 8)), (False, None)], False),
    "a consent without a time": ([(False, datetime(2026, 2, 20, 8)), (True, None)], True),
    # Nothing changes after it has landed: a wrong year cannot make a consent everlasting.
    "a consent of the far future": ([(True, datetime(9000, 1, 1)), (True, None), (False, None)], False),
    "by version numbers": ([(False, datetime(1970, 1, 1, second=7)), (True, datetime(1970, 1, 1, second=6))], False),
}


def known(profiles: list[tuple[date, Told]], has_earlier: bool = False, **parameters: object) -> list[tuple]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'America/New_York'")
        connection.execute(
            "CREATE TABLE users (landed_on DATE, user_id VARCHAR, consent BOOLEAN, consent_at TIMESTAMPTZ)"
        )
        connection.execute("CREATE TABLE activity (landed_on DATE, user_id VARCHAR, event VARCHAR, event_date DATE)")
        steps = [[each] for each in profiles] if has_earlier else [profiles]
        for number, step in enumerate(steps):
            connection.execute("DELETE FROM users")
            for landed_on, (consent, changed) in step:
                changed = changed and changed.replace(tzinfo=UTC)
                connection.execute("INSERT INTO users VALUES (?, 'ann', ?, ?)", [landed_on, consent, changed])
            rows = run_locally(
                connection,
                "known_users",
                ds=DAYS[-1],
                has_users=True,
                has_time_zones=False,
                has_earlier=number > 0,
                attributes=[],
                static=[],
                last_stage="complete",
                **{"has_update_times": True, **parameters},
            ).to_arrow_table()
            connection.register("known", rows)
            connection.execute("CREATE OR REPLACE TABLE earlier AS FROM known")
        return connection.sql("SELECT user_id, consent FROM earlier").fetchall()


@pytest.mark.parametrize("has_earlier", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_newest_word_by_its_own_time_holds(name: str, has_earlier: bool) -> None:
    told, holds = CASES[name]
    assert known(list(zip(DAYS, told, strict=False)), has_earlier) == [("ann", holds)]


def test_timed_words_hold_in_whatever_order_they_land() -> None:
    told = [(word, datetime(2026, 2, 20, hour)) for word, hour in ((True, 8), (False, 9), (True, 10), (False, 11))]
    for order in permutations(told, 3):
        newest, _ = max(order, key=lambda each: each[1])
        assert known(list(zip(DAYS, order, strict=True)), has_earlier=True) == [("ann", newest)]


def test_without_times_the_later_day_holds() -> None:
    told, _ = CASES["a consent that lands late"]
    assert known(list(zip(DAYS, told, strict=False)), has_update_times=False) == [("ann", True)]
