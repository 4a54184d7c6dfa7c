"""
Scores one **night**: lands the day's events and users, rebuilds the day's activity tiles, and publishes the night's
partition of `user_scores`. The tasks are the stages of `funnel nightly`.

- **Which date.** A run belongs to the day its data interval starts on, in the funnel's time zone. It starts at the
  midnight that ends this day.
- **By hand.** *Trigger* runs the newest day that had ended by the logical date: now means yesterday.
- **Another date, or several.** Start a backfill; its first and last date are both run. Missed nights are caught up
  this way alone. Airflow reads bare dates in `AIRFLOW__CORE__DEFAULT_TIMEZONE`, which should be the funnel's.
- **Again.** Clear a task or a run: it gives its partition anew, whole, and touches no other. A day whose events
  changed needs the nights after it cleared as well, since their features look back on it.
- **Failed.** The failed task's log ends with one line that says what is wrong and where. Bad data and bad configuration
  fail at once; anything else is tried three times. No table shows half a night in either case.

The configuration is the file that `FUNNEL_CONFIG` names, else `funnel.toml` beside this folder.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from airflow.sdk import CronDataIntervalTimetable, dag, task
from airflow.sdk.exceptions import AirflowFailException

# Only what is light: this file is read again and again. Each task imports its stage when it runs.
from pipeline.config import load
from pipeline.dates import DateRange, parse_date, require_past
from pipeline.errors import FunnelError

if TYPE_CHECKING:
    from pipeline.context import Context

log = logging.getLogger("funnel")
# A task's log shows what is said at level INFO, where these two would bury a night's few lines under hundreds.
for chatty in ("great_expectations", "py4j"):
    logging.getLogger(chatty).setLevel(logging.WARNING)

CONFIG = Path(os.environ.get("FUNNEL_CONFIG", Path(__file__).resolve().parents[1] / "funnel.toml"))
# A configuration that is missing or wrong is this file's import error, in the one line of ConfigError.
SETTINGS = load(CONFIG)

NIGHT = "{{ night_of(dag_run.data_interval_start) }}"
RUN = "{{ dag_run.run_id }}"


def night_of(data_interval_start: datetime | None, zone: ZoneInfo) -> str:
    """The ISO date of the night that a run is for: its data interval's first day in the funnel's time zone."""
    if data_interval_start is None:
        raise AirflowFailException("the run has no data interval, so no date: trigger it with a logical date")
    return data_interval_start.astimezone(zone).date().isoformat()


@contextmanager
def stage_of(night: str, run: str) -> Iterator[tuple["Context", DateRange]]:
    """What a stage works on; its records carry Airflow's run id.

    Raises:
        AirflowFailException: with the line of a FunnelError, which no retry would mend.
    """
    from pipeline.context import Context

    try:
        day = require_past(parse_date(night, name="night"), SETTINGS.zone, name="night")
        yield Context(SETTINGS, run_id=run, notify=log.info), DateRange(day, day)
    except FunnelError as error:
        raise AirflowFailException(str(error)) from None


@task
def ingest(night: str, run: str) -> None:
    """Lands the day's source: `events`, `users` and `quarantine`."""
    from pipeline.ingest import ingest

    with stage_of(night, run) as (context, dates):
        ingest(context, dates)


@task
def activity(night: str, run: str) -> None:
    """Rebuilds the day's tiles, `activity`, from its events."""
    from pipeline.activity import activity

    with stage_of(night, run) as (context, dates):
        activity(context, dates)


@task
def score(night: str, run: str) -> None:
    """Scores every eligible user by the champion as of the night and publishes `user_scores`."""
    from pipeline.scoring import score

    with stage_of(night, run) as (context, dates):
        score(context, dates.first)


@dag(
    dag_id="funnel_nightly",
    description="One night: ingest, activity, score",
    doc_md=__doc__,
    tags=["funnelcast", "nightly"],
    # An interval, not a trigger: it starts at the night's own midnight and makes a backfill's end date included.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone=SETTINGS.funnel.timezone),
    catchup=False,
    max_active_runs=1,
    user_defined_macros={"night_of": partial(night_of, zone=SETTINGS.zone)},
    default_args={
        "owner": "funnelcast",
        "retries": 2,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": 2.0,
        # Holds for a backfill too, whose runs `max_active_runs` does not limit: a stage takes its dates one by one
        # and oldest first, as nights do, because ingest compares a day with those before it.
        "max_active_tis_per_dag": 1,
    },
)
def funnel_nightly() -> None:
    ingest(night=NIGHT, run=RUN) >> activity(night=NIGHT, run=RUN) >> score(night=NIGHT, run=RUN)


funnel_nightly()
