"""A company of simulated users: what a source would deliver, day by day, and the truth behind it.

    events/<landing day>/part-0.parquet   id, uid, type, ts, campaign, offer
    users/<landing day>/part-0.parquet    uid, age, city_tier, acquisition, credit_limit, sms_consent
    truth/exposures.parquet               a row a text sent: the probability and the outcome of each stage

A text starts a funnel of its own; a user can be in two at a time, and two can end in a completion. Texts
stop once the first has, or once the user has opted out. The truth holds every text sent, and what became of
it even where that lies past the last day; `events/` holds only what has landed by then.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from pipeline.simulate.behaviour import (
    DAY_MS,
    HOUR_MS,
    OFFERS,
    SENDING_HOURS,
    WINDOW_DAYS,
    Ints,
    Population,
    Response,
    respond,
)
from pipeline.simulate.files import (
    CLEAN,
    DUPLICATE,
    EVENT,
    EVENT_TYPES,
    FATES,
    FUTURE_TIME,
    NULL_USER,
    UNKNOWN_EVENT,
    UNKNOWN_TYPES,
    CompanyFiles,
    LocalClock,
)

LONGEST_LAG_DAYS = 5
FUTURE_DAYS = (30, 400)
SENDING_BY_WEEKDAY = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.55, 0.45], dtype=np.float32)
FIRST_YEAR, LAST_YEAR = 1980, 2200


@dataclass(frozen=True)
class Simulation:
    """How large a company, over which days, and how untidy its deliveries.

    Attributes:
        sms_per_week: Texts a week for a user who still gets any, on average; at most one of a campaign.
        late_share: Of events, those that land 1 to 5 days after their local date.
        duplicate_share: Of events, those that are delivered again, the same day or up to 5 days later.
        broken_share: Of a day's events, how many more rows come with them that break the contract.
        opt_out_share: Of texts, those after which the user withdraws consent the same day.
        untracked_share: Of stage events, those that have lost the id of the campaign that caused them.

    Raises:
        ValueError: names the field and quotes its value.
    """

    users: int = 20_000
    days: int = 120
    start: date = date(2026, 1, 1)
    timezone: str = "Asia/Shanghai"
    sms_per_week: float = 1.0
    late_share: float = 0.02
    duplicate_share: float = 0.01
    broken_share: float = 0.002
    opt_out_share: float = 0.002
    untracked_share: float = 0.1
    seed: int = 7

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("days", 1), ("seed", 0)):
            value = getattr(self, name)
            holds = isinstance(value, int) and value >= least
            self._require(holds, name, f"a whole number of at least {least}")
        for name in ("late_share", "duplicate_share", "broken_share", "opt_out_share", "untracked_share"):
            share = getattr(self, name)
            self._require(isinstance(share, int | float) and 0 <= share <= 1, name, "a share from 0 to 1")
        rate, most = self.sms_per_week, len(OFFERS)
        self._require(
            isinstance(rate, int | float) and 0 < rate <= most, "sms_per_week", f"more than 0, at most {most}"
        )
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError, TypeError):
            self._require(False, "timezone", "an IANA time zone such as 'Asia/Shanghai'")
        # A datetime is a date too, but would put its hour into the names of folders.
        is_date = isinstance(self.start, date) and not isinstance(self.start, datetime)
        in_time = is_date and FIRST_YEAR <= self.start.year < LAST_YEAR
        self._require(in_time, "start", f"a date from {FIRST_YEAR} on, before {LAST_YEAR}")
        ends = self.start.year + self.days // 365
        self._require(ends < LAST_YEAR, "days", f"so many that the last is before {LAST_YEAR}")

    def _require(self, holds: bool, name: str, takes: str) -> None:
        if not holds:
            raise ValueError(f"{name}: got {getattr(self, name)!r}, takes {takes}")


@dataclass(frozen=True)
class Summary:
    """Counts of what was written. `rows` = `clean` + `duplicates` + the sum of `broken`.

    Attributes:
        exposures: Texts sent, one row each in the truth; `events` counts those that landed by the last day.
        late: Of the clean rows, those that landed after their local date.
        broken: By reason: null_user, unknown_event, bad_time, future_time.
        events: Clean rows by the source's event name.
    """

    users: int
    profiles: int
    opt_outs: int
    exposures: int
    rows: int
    clean: int
    late: int
    duplicates: int
    broken: dict[str, int]
    events: dict[str, int]


def simulate(simulation: Simulation, out: Path, *, on_day: Callable[[date], None] | None = None) -> Summary:
    """Write a company's deliveries and their truth under `out`.

    The same simulation gives the same columns. Behaviour and delivery draw from streams of their own: the
    shares of late, duplicate, broken and untracked rows change nothing about what users do.

    Args:
        out: Absent or an empty folder.
        on_day: Called with each date once its files are written.

    Raises:
        ValueError: `out` is a file, or holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: got {str(out)!r}, takes a folder that is absent or empty")
    company = _Company(simulation, out)
    with closing(company.files):
        for day in range(simulation.days):
            company.live(day)
            if on_day:
                on_day(simulation.start + timedelta(days=day))
    return company.summary()


class _Company:
    """The state between days: the users, this week's plan, and events that have yet to land."""

    def __init__(self, simulation: Simulation, out: Path) -> None:
        seeds = np.random.SeedSequence(simulation.seed)
        people, behaviour, delivery = seeds.spawn(3)
        self._simulation = simulation
        self._behaviour, self._delivery = np.random.default_rng(behaviour), np.random.default_rng(delivery)
        self._population = Population(
            simulation.users, simulation.days, simulation.sms_per_week, np.random.default_rng(people)
        )
        horizon = simulation.days + max(WINDOW_DAYS) + LONGEST_LAG_DAYS + FUTURE_DAYS[1]
        self._clock = LocalClock(simulation.timezone, simulation.start, horizon)
        self._first_monday = simulation.start - timedelta(days=simulation.start.weekday())
        salt = int(seeds.generate_state(1, np.uint64)[0])
        self.files = CompanyFiles(out, simulation.start, self._clock, simulation.users, salt, self._campaign_names())
        self._plan = np.empty((7, 0), dtype=np.int8)
        self._pending: dict[int, list[NDArray[np.void]]] = {}
        self._numbered = 0
        self._counts: Counter[str] = Counter()

    def live(self, day: int) -> None:
        """Send the day's texts, draw what follows from them, and write what lands."""
        today = self._simulation.start + timedelta(days=day)
        if day == 0 or today.weekday() == 0:
            self._plan = _plan_week(self._simulation.users, self._simulation.sms_per_week, self._behaviour)
        people = self._population
        people.start_day(day)
        changed = people.change_profiles(day, self._behaviour)
        exposures, response = self._send(day, today)
        opted_out = exposures["user"][self._behaviour.random(len(exposures)) < self._simulation.opt_out_share]
        people.consent[opted_out] = False
        self._counts["exposures"] += len(exposures)
        self._counts["opt_outs"] += len(opted_out)
        self.files.write_truth(day, exposures, response)

        self._dispatch(np.concatenate([exposures, *self._stage_events(exposures, response)]))
        self._write_landed(day)
        joined = np.flatnonzero(people.joined == day if day else people.joined <= 0)
        profiles = np.unique(np.concatenate([joined, changed, opted_out]))
        self._counts["profiles"] += len(profiles)
        self.files.write_users(day, profiles, people)

    def summary(self) -> Summary:
        counts = self._counts
        broken = {reason: counts[reason] for reason in FATES[NULL_USER:]}
        return Summary(
            users=self._simulation.users,
            profiles=counts["profiles"],
            opt_outs=counts["opt_outs"],
            exposures=counts["exposures"],
            rows=counts["clean"] + counts["duplicate"] + sum(broken.values()),
            clean=counts["clean"],
            late=counts["late"],
            duplicates=counts["duplicate"],
            broken=broken,
            events={name: counts[name] for name in EVENT_TYPES},
        )

    def _send(self, day: int, today: date) -> tuple[NDArray[np.void], Response]:
        """The day's texts and what they lead to."""
        people, rng = self._population, self._behaviour
        planned = self._plan[today.weekday()]
        users = np.flatnonzero((planned >= 0) & (people.joined < day) & people.consent)
        into_day = rng.integers(SENDING_HOURS.start * HOUR_MS, SENDING_HOURS.stop * HOUR_MS, len(users))
        sent = self._clock.utc(self._clock.midnight(day) + into_day)
        open_ = people.completed_at[users] > sent
        users, sent, hour = users[open_], sent[open_], into_day[open_] // HOUR_MS

        offer = planned[users]
        response = respond(people.probabilities(users, offer, hour, today.weekday(), day), sent, rng)
        (clicked, _, completed), (click_time, _, complete_time) = response.outcome, response.time
        people.remember(
            texted=users,
            clicked=users[clicked],
            clicked_on=self._clock.day(click_time[clicked]),
            completed=users[completed],
            completed_at=complete_time[completed],
        )
        week = (today - self._first_monday).days // 7
        campaign = week * len(OFFERS) + offer.astype(np.int32)
        return self._events(EVENT_TYPES[0], users, sent, campaign, offer), response

    def _stage_events(self, exposures: NDArray[np.void], response: Response) -> list[NDArray[np.void]]:
        events = []
        for name, reached, time in zip(EVENT_TYPES[1:], response.outcome, response.time, strict=True):
            caused = exposures[reached]
            tracked = self._delivery.random(len(caused)) >= self._simulation.untracked_share
            campaign = np.where(tracked, caused["campaign"], -1)
            events.append(self._events(name, caused["user"], time[reached], campaign, np.int8(-1)))
        return events

    def _events(self, name: str, users: Ints, time: Ints, campaign: Ints, offer: Ints | np.int8) -> NDArray[np.void]:
        """Clean events with ids of their own; they have yet to be given a landing day."""
        events = np.zeros(len(users), dtype=EVENT)
        events["id"], events["type"] = self._number(len(users)), EVENT_TYPES.index(name)
        events["user"], events["time"], events["campaign"], events["offer"] = users, time, campaign, offer
        return events

    def _number(self, count: int) -> Ints:
        first, self._numbered = self._numbered, self._numbered + count
        return np.arange(first, self._numbered, dtype=np.uint64)

    def _dispatch(self, events: NDArray[np.void]) -> None:
        """Give events their landing days, add duplicates, and hold them; past the last day nothing is written."""
        rng, simulation = self._delivery, self._simulation
        late = rng.random(len(events)) < simulation.late_share
        events["landing"] = self._clock.day(events["time"]) + np.where(late, _lags(len(events), rng), 0)
        copies = events[rng.random(len(events)) < simulation.duplicate_share]
        copies["landing"] += np.where(rng.random(len(copies)) < 0.5, 0, _lags(len(copies), rng))
        copies["fate"] = DUPLICATE
        events = np.concatenate([events, copies])
        for day in np.unique(events["landing"]):
            self._pending.setdefault(int(day), []).append(events[events["landing"] == day])

    def _write_landed(self, day: int) -> None:
        landed = np.concatenate([np.empty(0, dtype=EVENT), *self._pending.pop(day, [])])
        clean = landed[landed["fate"] == CLEAN]
        broken = clean[self._delivery.random(len(clean)) < self._simulation.broken_share]
        broken["id"] = self._number(len(broken))
        broken["fate"] = self._delivery.integers(NULL_USER, len(FATES), len(broken))
        rows = np.concatenate([landed, broken])
        rows = rows[np.argsort(rows["time"], kind="stable")]
        self._break(rows)
        self._count(rows, clean, day)
        self.files.write_events(day, rows)

    def _break(self, rows: NDArray[np.void]) -> None:
        """Break the rows whose fate it is, each in one way; a bad time is put in as the text is written."""
        rows["user"][rows["fate"] == NULL_USER] = -1
        unknown, future = rows["fate"] == UNKNOWN_EVENT, rows["fate"] == FUTURE_TIME
        kinds = self._delivery.integers(0, len(UNKNOWN_TYPES), unknown.sum())
        rows["type"][unknown] = len(EVENT_TYPES) + kinds
        lag = rows["landing"][future] - self._clock.day(rows["time"][future])
        ahead = self._delivery.integers(FUTURE_DAYS[0], FUTURE_DAYS[1] + 1, future.sum())
        rows["time"][future] += (lag + ahead) * DAY_MS

    def _count(self, rows: NDArray[np.void], clean: NDArray[np.void], day: int) -> None:
        self._counts["late"] += int((self._clock.day(clean["time"]) < day).sum())
        fates = np.bincount(rows["fate"], minlength=len(FATES)).tolist()
        types = np.bincount(clean["type"], minlength=len(EVENT_TYPES)).tolist()
        self._counts.update(dict(zip(FATES, fates, strict=True)) | dict(zip(EVENT_TYPES, types, strict=True)))

    def _campaign_names(self) -> list[str]:
        """One a week and offer, such as 2026-w05-cash."""
        last = self._simulation.start + timedelta(days=self._simulation.days - 1)
        weeks = range((last - self._first_monday).days // 7 + 1)
        calendar = [(self._first_monday + timedelta(weeks=week)).isocalendar() for week in weeks]
        return [f"{iso.year}-w{iso.week:02d}-{offer}" for iso in calendar for offer in OFFERS]


def _plan_week(users: int, sms_per_week: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """Which offer each user gets on each weekday.

    Each of the week's campaigns picks users by chance; a user's campaigns fall on different days, more likely
    on workdays.

    Shape: (7, users), -1 where nothing is sent.
    """
    picked = rng.random((users, len(OFFERS)), dtype=np.float32) < sms_per_week / len(OFFERS)
    offers = np.argsort(rng.random(picked.shape, dtype=np.float32) + ~picked, axis=1)
    # The order in which exponential clocks of these rates ring draws days without repeats, by their weights.
    weekdays = np.argsort(rng.standard_exponential((users, 7), dtype=np.float32) / SENDING_BY_WEEKDAY, axis=1)
    plan = np.full((7, users), -1, dtype=np.int8)
    texts = picked.sum(axis=1)
    for nth in range(len(OFFERS)):
        some = np.flatnonzero(texts > nth)
        plan[weekdays[some, nth], some] = offers[some, nth]
    return plan


def _lags(count: int, rng: np.random.Generator) -> Ints:
    return rng.integers(1, LONGEST_LAG_DAYS + 1, count)
