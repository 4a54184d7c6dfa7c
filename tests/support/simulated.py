"""A simulation read back by pandas, each row classified by the contract alone."""

import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.simulate.behaviour import STAGES
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation, Summary

EVENT_OF = dict(zip(STAGES, ("sms_click", "register", "complete_application"), strict=True))
ALL_EVENTS = ["sms_sent", *EVENT_OF.values()]
NOISY = Simulation(
    users=5000,
    days=100,
    late_share=0.05,
    duplicate_share=0.03,
    broken_share=0.02,
    opt_out_share=0.005,
    seed=3,
)


@dataclass
class Company:
    """A simulation read back: every row of every file, and the clean events among them."""

    simulation: Simulation
    summary: Summary
    out: Path
    events: pd.DataFrame
    users: pd.DataFrame
    truth: pd.DataFrame

    @classmethod
    def simulated(cls, simulation: Simulation, out: Path) -> "Company":
        summary = simulate(simulation, out)
        truth = pd.read_parquet(out / "truth" / "exposures.parquet")
        events = classified(landed(out / "events"), simulation.timezone)
        return cls(simulation, summary, out, events, landed(out / "users"), truth)

    @property
    def clean(self) -> pd.DataFrame:
        return self.events[self.events.fate == "clean"]


def landed(folder: Path) -> pd.DataFrame:
    frames = [
        pd.read_parquet(day / "part-0.parquet").assign(landed_on=date.fromisoformat(day.name))
        for day in sorted(folder.iterdir())
    ]
    return pd.concat(frames, ignore_index=True)


def classified(events: pd.DataFrame, timezone: str) -> pd.DataFrame:
    """Each row's time and fate by the contract alone: broken, or the first of its id, or a duplicate."""
    time = pd.to_datetime(events.ts, format="ISO8601", errors="coerce", utc=True)
    local_date = time.dt.tz_convert(timezone).dt.tz_localize(None).dt.normalize()
    landed_on = pd.to_datetime(events.landed_on)
    conditions = [
        events.uid.isna(),
        ~events.type.isin(ALL_EVENTS),
        time.isna(),
        local_date > landed_on,
        events.id.duplicated(),
    ]
    fates = ["null_user", "unknown_event", "bad_time", "future_time", "duplicate"]
    fate = np.select(conditions, fates, default="clean")
    return events.assign(time=time, lag=(landed_on - local_date).dt.days, fate=fate)


def assert_near(count: int, trials: int, share: float) -> None:
    """A binomial count, within 4 standard errors."""
    assert abs(count - share * trials) <= 4 * math.sqrt(trials * share * (1 - share)), (count / trials, share)
