"""Simulate a company: what its source would deliver, day by day, and the truth behind it.

    events/<landing day>/part-0.parquet   id, uid, type, ts, campaign, offer
    users/<landing day>/part-0.parquet    uid, age, city_tier, acquisition, credit_limit, sms_consent
    truth/exposures.parquet               one row per text sent: the probability and the outcome of each stage

Each text starts a funnel of its own; a user can be in two at a time, and both can end in a completion. Texts stop after
the user's first completion, or once the user has opted out. The truth holds every text sent and its outcomes, including
those after the last day; `events/` holds only what has landed by then.
"""

from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

from pipeline.simulate.company import Company
from pipeline.simulate.simulation import Simulation, Summary


def simulate(simulation: Simulation, out: Path, *, on_day: Callable[[date], None] | None = None) -> Summary:
    """Write a company's deliveries and the truth behind them under `out`.

    The same simulation gives the same columns. Behaviour and delivery draw from separate random streams: the shares of
    late, duplicate, broken and untracked rows do not change what users do.

    Args:
        out: A folder that does not exist or is empty.
        on_day: Called with each date once its files are written.

    Raises:
        ValueError: `out` is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: got {str(out)!r}, takes a folder that is absent or empty")
    company = Company(simulation, out)
    with closing(company.files):
        for day in range(simulation.days):
            company.live_day(day)
            if on_day:
                on_day(simulation.start + timedelta(days=day))
    return company.summarise()
