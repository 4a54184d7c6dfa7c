"""The company from day to day: who is texted, what follows, and when it lands."""

from collections import Counter
from datetime import date, timedelta
from pathlib import Path

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
from pipeline.simulate.clock import LocalClock
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
)
from pipeline.simulate.simulation import Simulation, Summary

LONGEST_LAG_DAYS = 5
FUTURE_DAYS = (30, 400)
SENDING_BY_WEEKDAY = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.55, 0.45], dtype=np.float32)


class Company:
    """What lasts from one day to the next: the users, the week's plan, and events that have yet to land."""

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
        self.files = CompanyFiles(out, simulation.start, self._clock, simulation.users, salt, self._list_campaigns())
        self._plan = np.empty((7, 0), dtype=np.int8)
        self._pending: dict[int, list[NDArray[np.void]]] = {}
        self._ids_taken = 0
        self._counts: Counter[str] = Counter()

    def live_day(self, day: int) -> None:
        """Send the day's texts, draw their outcomes, and write what lands."""
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

        self._dispatch(np.concatenate([exposures, *self._make_stage_events(exposures, response)]))
        self._write_landed(day)
        joined = np.flatnonzero(people.joined == day if day else people.joined <= 0)
        profiles = np.unique(np.concatenate([joined, changed, opted_out]))
        self._counts["profiles"] += len(profiles)
        self.files.write_users(day, profiles, people)

    def summarise(self) -> Summary:
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
        """Send the day's texts; returns them with their outcomes."""
        people, rng = self._population, self._behaviour
        planned = self._plan[today.weekday()]
        users = np.flatnonzero((planned >= 0) & (people.joined < day) & people.consent)
        into_day = rng.integers(SENDING_HOURS.start * HOUR_MS, SENDING_HOURS.stop * HOUR_MS, len(users))
        sent = self._clock.to_utc(self._clock.midnight(day) + into_day)
        is_open = people.completed_at[users] > sent
        users, sent, hour = users[is_open], sent[is_open], into_day[is_open] // HOUR_MS

        offer = planned[users]
        response = respond(people.compute_probabilities(users, offer, hour, today.weekday(), day), sent, rng)
        (clicked, _, completed), (click_time, _, complete_time) = response.outcome, response.time
        people.remember(
            texted=users,
            clicked=users[clicked],
            clicked_on=self._clock.to_day(click_time[clicked]),
            completed=users[completed],
            completed_at=complete_time[completed],
        )
        week = (today - self._first_monday).days // 7
        campaign = week * len(OFFERS) + offer.astype(np.int32)
        return self._make_events(EVENT_TYPES[0], users, sent, campaign, offer), response

    def _make_stage_events(self, exposures: NDArray[np.void], response: Response) -> list[NDArray[np.void]]:
        events = []
        for name, reached, time in zip(EVENT_TYPES[1:], response.outcome, response.time, strict=True):
            caused = exposures[reached]
            tracked = self._delivery.random(len(caused)) >= self._simulation.untracked_share
            campaign = np.where(tracked, caused["campaign"], -1)
            events.append(self._make_events(name, caused["user"], time[reached], campaign, np.int8(-1)))
        return events

    def _make_events(
        self, name: str, users: Ints, time: Ints, campaign: Ints, offer: Ints | np.int8
    ) -> NDArray[np.void]:
        """Make clean events with new ids; their landing day is still open."""
        events = np.zeros(len(users), dtype=EVENT)
        events["id"], events["type"] = self._take_ids(len(users)), EVENT_TYPES.index(name)
        events["user"], events["time"], events["campaign"], events["offer"] = users, time, campaign, offer
        return events

    def _take_ids(self, count: int) -> Ints:
        first, self._ids_taken = self._ids_taken, self._ids_taken + count
        return np.arange(first, self._ids_taken, dtype=np.uint64)

    def _dispatch(self, events: NDArray[np.void]) -> None:
        """Give events a landing day, add duplicates, and hold all until they land; none lands after the last day."""
        rng, simulation = self._delivery, self._simulation
        late = rng.random(len(events)) < simulation.late_share
        events["landing"] = self._clock.to_day(events["time"]) + np.where(late, _draw_lags(len(events), rng), 0)
        copies = events[rng.random(len(events)) < simulation.duplicate_share]
        copies["landing"] += np.where(rng.random(len(copies)) < 0.5, 0, _draw_lags(len(copies), rng))
        copies["fate"] = DUPLICATE
        events = np.concatenate([events, copies])
        for day in np.unique(events["landing"]):
            self._pending.setdefault(int(day), []).append(events[events["landing"] == day])

    def _write_landed(self, day: int) -> None:
        landed = np.concatenate([np.empty(0, dtype=EVENT), *self._pending.pop(day, [])])
        clean = landed[landed["fate"] == CLEAN]
        broken = clean[self._delivery.random(len(clean)) < self._simulation.broken_share]
        broken["id"] = self._take_ids(len(broken))
        broken["fate"] = self._delivery.integers(NULL_USER, len(FATES), len(broken))
        rows = np.concatenate([landed, broken])
        rows = rows[np.argsort(rows["time"], kind="stable")]
        self._break(rows)
        self._count(rows, clean, day)
        self.files.write_events(day, rows)

    def _break(self, rows: NDArray[np.void]) -> None:
        """Break the rows whose fate it is, each in one way; a bad time is inserted when the text is written."""
        rows["user"][rows["fate"] == NULL_USER] = -1
        unknown, future = rows["fate"] == UNKNOWN_EVENT, rows["fate"] == FUTURE_TIME
        kinds = self._delivery.integers(0, len(UNKNOWN_TYPES), unknown.sum())
        rows["type"][unknown] = len(EVENT_TYPES) + kinds
        lag = rows["landing"][future] - self._clock.to_day(rows["time"][future])
        ahead = self._delivery.integers(FUTURE_DAYS[0], FUTURE_DAYS[1] + 1, future.sum())
        rows["time"][future] += (lag + ahead) * DAY_MS

    def _count(self, rows: NDArray[np.void], clean: NDArray[np.void], day: int) -> None:
        self._counts["late"] += int((self._clock.to_day(clean["time"]) < day).sum())
        fates = np.bincount(rows["fate"], minlength=len(FATES)).tolist()
        types = np.bincount(clean["type"], minlength=len(EVENT_TYPES)).tolist()
        self._counts.update(dict(zip(FATES, fates, strict=True)) | dict(zip(EVENT_TYPES, types, strict=True)))

    def _list_campaigns(self) -> list[str]:
        """One campaign per week and offer, such as 2026-w05-cash."""
        last = self._simulation.start + timedelta(days=self._simulation.days - 1)
        weeks = range((last - self._first_monday).days // 7 + 1)
        calendar = [(self._first_monday + timedelta(weeks=week)).isocalendar() for week in weeks]
        return [f"{iso.year}-w{iso.week:02d}-{offer}" for iso in calendar for offer in OFFERS]


def _plan_week(users: int, sms_per_week: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """Plan which offer each user gets on each weekday.

    Each of the week's campaigns picks users at random; a user's campaigns fall on different days, more likely on
    workdays.

    Shape: (7, users), -1 if nothing is sent.
    """
    picked = rng.random((users, len(OFFERS)), dtype=np.float32) < sms_per_week / len(OFFERS)
    offers = np.argsort(rng.random(picked.shape, dtype=np.float32) + ~picked, axis=1)
    # The order in which exponential clocks with these rates ring is a weighted draw of days without replacement.
    weekdays = np.argsort(rng.standard_exponential((users, 7), dtype=np.float32) / SENDING_BY_WEEKDAY, axis=1)
    plan = np.full((7, users), -1, dtype=np.int8)
    texts = picked.sum(axis=1)
    for nth in range(len(OFFERS)):
        users_left = np.flatnonzero(texts > nth)
        plan[weekdays[users_left, nth], users_left] = offers[users_left, nth]
    return plan


def _draw_lags(count: int, rng: np.random.Generator) -> Ints:
    return rng.integers(1, LONGEST_LAG_DAYS + 1, count)
