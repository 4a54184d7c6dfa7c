"""Who the simulated users are and how they respond: profiles, latent propensities, odds per stage, delays.

The probability of a stage, given the one before it, is the sigmoid of a sum: who the user is (latent and profile), what
was sent and when (offer, hour, weekday, a slow drift), and the user's recent past (recent clicks make a click more
likely, recent texts less so). All of it is known before the text is sent.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.floating]

STAGES = ("click", "register", "complete")
WINDOW_DAYS = (3, 7, 14)
OFFERS = ("cash", "rate", "limit", "gift", "fee")
CITY_TIERS = ("tier1", "tier2", "tier3", "tier4")
ACQUISITIONS = ("app_store", "search", "social", "partner", "referral")
SENDING_HOURS = range(9, 21)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NEVER = np.iinfo(np.int64).max

FROM_THE_START = 0.8
PROFILE_CHANGES_PER_DAY = 0.003
LIMIT_MISSING = 0.15
TIER_SHARES = (0.15, 0.3, 0.35, 0.2)
TIER_LIMITS = (42_000.0, 28_000.0, 18_000.0, 12_000.0)
ACQUISITION_SHARES = (0.3, 0.2, 0.25, 0.15, 0.1)

# One row per stage: click, register given click, complete given register.
INTERCEPT = np.array([-2.72, -1.22, -0.9])
LATENT_SCALE = np.array([1.0, 0.9, 0.8])
LATENT_SHARED = 0.7
AGE_EFFECT = np.array([-0.15, 0.1, 0.15])
LIMIT_EFFECT = np.array([0.1, 0.25, 0.2])
LIMIT_MISSING_EFFECT = np.array([-0.1, -0.3, -0.4])
TIER_EFFECT = np.array([[-0.2, -0.05, 0.1, 0.1], [0.1, 0.05, 0.0, -0.15], [0.15, 0.1, -0.05, -0.2]])
ACQUISITION_EFFECT = np.array(
    [[0.1, 0.0, -0.1, -0.3, 0.35], [0.1, 0.25, -0.3, -0.2, 0.3], [0.0, 0.2, -0.25, -0.1, 0.25]]
)
OFFER_EFFECT = np.array([[0.25, 0.05, 0.0, 0.3, -0.3], [0.15, 0.1, 0.05, -0.35, 0.0], [0.1, 0.2, 0.0, -0.3, 0.1]])
HOUR_EFFECT = np.array([-0.2, -0.15, -0.05, 0.15, 0.1, -0.1, -0.15, -0.1, 0.0, 0.1, 0.2, 0.25])
WEEKDAY_EFFECT = np.array([0.05, 0.1, 0.1, 0.05, 0.0, -0.2, -0.25])
DRIFT = np.array([0.25, -0.15, 0.1])
DRIFT_PERIOD_DAYS = 300

FATIGUE_KEPT_PER_DAY, FATIGUE_EFFECT = 0.87, -0.25
MOMENTUM_KEPT_PER_DAY, MOMENTUM_EFFECT = 0.9, 0.6

DELAY_MEDIAN_HOURS = (0.5, 20.0, 55.0)
DELAY_SPREAD = (1.4, 1.1, 0.8)
FASTEST_MS = 1000


class Response(NamedTuple):
    """The outcomes of n texts.

    Shape: all (3, n), one row per stage. `probability` and `outcome` are those of the stage within its window after the
    text, among all texts rather than among those that reached the stage before; `time` is in UTC ms, and NEVER if the
    outcome is false.
    """

    probability: Floats
    outcome: NDArray[np.bool_]
    time: Ints


class Population:
    """The users' profiles and recent past, as arrays with one element per user.

    `joined` is the day on which a user's profile first lands; texts may follow from the next day on. Users who are
    there from the start have -1: their profiles land on day 0, and so may their first texts.
    """

    def __init__(self, users: int, days: int, sms_per_week: float, rng: np.random.Generator) -> None:
        arrival = rng.random(users)
        late = (arrival - FROM_THE_START) / (1 - FROM_THE_START) * days
        self.joined = np.where(arrival < FROM_THE_START, -1, late).astype(np.int32)
        self.age = np.clip(rng.gamma(3.0, 6.0, users) + 18, 18, 70).astype(np.int32)
        self.tier = rng.choice(len(CITY_TIERS), users, p=TIER_SHARES).astype(np.int8)
        self.acquisition = rng.choice(len(ACQUISITIONS), users, p=ACQUISITION_SHARES).astype(np.int8)
        self.limit = _draw_credit_limits(self.tier, rng)
        self.consent = np.ones(users, dtype=bool)
        self.completed_at = np.full(users, NEVER)

        shared = rng.standard_normal(users)
        own = rng.standard_normal((len(STAGES), users))
        mixed = LATENT_SHARED * shared + np.sqrt(1 - LATENT_SHARED**2) * own
        self._latent = (LATENT_SCALE[:, None] * mixed).astype(np.float32)
        self._trait = np.empty_like(self._latent)
        self._update_traits(np.arange(users))
        # Starting at the level of steady texting keeps day one from looking like a better market.
        self._fatigue = np.full(users, sms_per_week / 7 / (1 - FATIGUE_KEPT_PER_DAY), dtype=np.float32)
        self._momentum = np.zeros(users, dtype=np.float32)
        self._clicks: dict[int, list[Ints]] = {}

    def start_day(self, day: int) -> None:
        """Let the past fade, and add the clicks of the day before."""
        self._momentum *= MOMENTUM_KEPT_PER_DAY
        self._fatigue *= FATIGUE_KEPT_PER_DAY
        for clicked in self._clicks.pop(day - 1, []):
            np.add.at(self._momentum, clicked, 1)

    def remember(self, *, texted: Ints, clicked: Ints, clicked_on: Ints, completed: Ints, completed_at: Ints) -> None:
        """Add today's texts and their outcomes to the users' past; no user appears twice in any argument."""
        self._fatigue[texted] += 1
        for day in np.unique(clicked_on):
            self._clicks.setdefault(int(day), []).append(clicked[clicked_on == day])
        self.completed_at[completed] = np.minimum(self.completed_at[completed], completed_at)

    def change_profiles(self, day: int, rng: np.random.Generator) -> Ints:
        """Change the credit limit of some users, and the city tier of some of these; returns the users changed."""
        known = np.flatnonzero(self.joined < day)
        changed = known[rng.random(len(known)) < PROFILE_CHANGES_PER_DAY]
        moved = changed[rng.random(len(changed)) < 0.2]
        self.tier[moved] = rng.choice(len(CITY_TIERS), len(moved), p=TIER_SHARES)
        self.limit[changed] = _draw_credit_limits(self.tier[changed], rng)
        self._update_traits(changed)
        return changed

    def compute_probabilities(self, texted: Ints, offer: Ints, hour: Ints, weekday: int, day: int) -> Floats:
        """The probability of each stage after a text.

        Shape: texted, offer, hour (n,) -> (3, n), non-increasing along the stages.
        """
        drift = DRIFT * np.sin(2 * np.pi * day / DRIFT_PERIOD_DAYS)
        logit = (INTERCEPT + drift)[:, None] + self._trait[:, texted] + OFFER_EFFECT[:, offer]
        logit[0] += HOUR_EFFECT[hour - SENDING_HOURS.start] + WEEKDAY_EFFECT[weekday]
        logit[0] += FATIGUE_EFFECT * self._fatigue[texted]
        logit[0] += MOMENTUM_EFFECT * np.tanh(self._momentum[texted])
        return np.cumprod(1 / (1 + np.exp(-logit)), axis=0)

    def _update_traits(self, users: Ints) -> None:
        """Sum the terms that do not depend on the text: latent and profile."""
        missing = np.isnan(self.limit[users])
        limit = np.where(missing, 0.0, np.log(np.where(missing, 1.0, self.limit[users]) / 20_000) / 0.7)
        self._trait[:, users] = (
            self._latent[:, users]
            + AGE_EFFECT[:, None] * (self.age[users] - 36) / 10
            + LIMIT_EFFECT[:, None] * limit
            + LIMIT_MISSING_EFFECT[:, None] * missing
            + TIER_EFFECT[:, self.tier[users]]
            + ACQUISITION_EFFECT[:, self.acquisition[users]]
        )


def respond(probability: Floats, sent: Ints, rng: np.random.Generator) -> Response:
    """Draw outcomes and their times.

    Delays are lognormal, truncated at the end of the stage's window by drawing again: users who respond do so in time.
    The probability of a stage within its window is then exact without correction, and whether a later stage is in time
    never depends on how long an earlier one took.

    Shape: probability (3, n), sent (n,) in UTC ms.
    """
    outcome = np.zeros(probability.shape, dtype=bool)
    time = np.full(probability.shape, NEVER)
    reached, before, since = np.arange(len(sent)), np.ones(len(sent)), sent
    for stage in range(len(STAGES)):
        yes = rng.random(len(reached)) * before < probability[stage, reached]
        reached, since = reached[yes], since[yes]
        left = sent[reached] + WINDOW_DAYS[stage] * DAY_MS - since
        since = since + _draw_delays(left, DELAY_MEDIAN_HOURS[stage], DELAY_SPREAD[stage], rng)
        outcome[stage, reached], time[stage, reached] = True, since
        before = probability[stage, reached]
    return Response(probability, outcome, time)


def _draw_delays(longest: Ints, median_hours: float, spread: float, rng: np.random.Generator) -> Ints:
    delays = np.empty(len(longest))
    undrawn = np.arange(len(longest))
    while len(undrawn):
        delays[undrawn] = median_hours * HOUR_MS * np.exp(spread * rng.standard_normal(len(undrawn)))
        undrawn = undrawn[delays[undrawn] > longest[undrawn]]
    return np.maximum(delays, FASTEST_MS).astype(np.int64)


def _draw_credit_limits(tier: Ints, rng: np.random.Generator) -> Floats:
    limits = np.array(TIER_LIMITS)[tier] * np.exp(0.5 * rng.standard_normal(len(tier)))
    limits = np.maximum(np.round(limits, -2), 1000.0)
    return np.where(rng.random(len(tier)) < LIMIT_MISSING, np.nan, limits)
