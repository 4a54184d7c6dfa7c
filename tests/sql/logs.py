"""Random event logs, dense where mistakes hide: midnights, ends of windows, equal times, late landings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

import numpy as np

from tests.sql.reference import Event, Profile, local_date, midnight

T = TypeVar("T")

MOMENT = timedelta(microseconds=1)
USUAL_WINDOWS = {"click": 3, "register": 7, "complete": 14}
LATENESS_DAYS = (0, 0, 0, 0, 0, 1, 2, 6, 12, -1)
"""How many days after its date an event lands; a partition cut in another zone may hold an event of tomorrow."""


@dataclass
class Dice:
    """A random generator that picks from Python values."""

    seed: int

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def below(self, n: int) -> int:
        return int(self._rng.integers(n))

    def pick(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)


@dataclass(frozen=True)
class World:
    """Place and time of a log, and its funnel; `windows` holds each stage's days, in order."""

    zone: ZoneInfo
    first: date
    days: int
    windows: Mapping[str, int]

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("exposure", *self.windows)

    def instant(self, dice: Dice) -> datetime:
        """A time on the hour or just off it; often the very edge of a day."""
        start = midnight(self.first + timedelta(days=dice.below(self.days)), self.zone)
        hours = 0 if dice.chance(0.3) else dice.below(24)
        return start + timedelta(hours=hours) + dice.pick((-1, 0, 0, 1)) * MOMENT

    def landing(self, dice: Dice, event_time: datetime) -> date:
        return local_date(event_time, self.zone) + timedelta(days=dice.pick(LATENESS_DAYS))


def random_events(dice: Dice, world: World, *, users: int, campaigns: bool = True) -> list[Event]:
    """Random exposures; stage events follow at once, after about a window, or at random."""
    return [event for user in range(users) for event in events_of_user(dice, world, f"u{user}", campaigns=campaigns)]


def events_of_user(dice: Dice, world: World, user_id: str, *, campaigns: bool) -> list[Event]:
    events: list[Event] = []
    # Ids in random order, so that they do not reveal which of two events is later.
    names = [f"{user_id}-{n}" for n in range(20)]

    def add(kind: str, at: datetime) -> None:
        name = names.pop(dice.below(len(names)))
        campaign = dice.pick(("a", "b", None)) if campaigns else None
        context = {"offer": dice.pick(("cash", "rate"))} if kind == "exposure" and dice.chance(0.7) else None
        events.append(Event(name, user_id, kind, at, world.landing(dice, at), campaign, context))

    for _ in range(dice.below(6)):
        at_once = events and dice.chance(0.15)
        add("exposure", dice.pick(events).event_time if at_once else world.instant(dice))
    exposed = list(events)
    for _ in range(dice.below(8)):
        stage = dice.pick(list(world.windows))
        window = timedelta(days=world.windows[stage])
        if exposed and dice.chance(0.75):
            delays = (timedelta(), MOMENT, window / 3, window - MOMENT, window, window + MOMENT)
            add(stage, dice.pick(exposed).event_time + dice.pick(delays))
        else:
            add(stage, world.instant(dice))
    return events


def random_profiles(dice: Dice, world: World, *, users: int) -> list[Profile]:
    """No profile for some users, several on different days for others."""
    profiles = []
    for user in range(users):
        landings = {world.first + timedelta(days=dice.below(world.days)) for _ in range(dice.below(4))}
        profiles += [
            Profile(
                f"u{user}",
                landed_on,
                consent=dice.pick((True, False, None)),
                city_tier=dice.pick(("one", "two", None)),
                age=dice.pick((20.0, 30.0, None)),
            )
            for landed_on in sorted(landings)
        ]
    return profiles


def spring(zone: str, windows: Mapping[str, int] = USUAL_WINDOWS) -> World:
    """Forty days around the end of March, when Europe's clocks go forward."""
    return World(ZoneInfo(zone), date(2026, 3, 10), 40, windows)


def autumn(zone: str, windows: Mapping[str, int] = USUAL_WINDOWS) -> World:
    """Forty days around the end of October, when Europe's clocks go back."""
    return World(ZoneInfo(zone), date(2026, 10, 5), 40, windows)
