"""What the DAGs share: the configuration, the date of a run, and how a stage runs as a task.

Only what is light is imported here: DAG files are read again and again. Each task imports its stage when it runs.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipeline.config.settings import Settings, load
from pipeline.errors import FunnelError, TransientError

if TYPE_CHECKING:
    from pipeline.runs.context import Context

log = logging.getLogger("funnel")
# A task's log shows what is said at level INFO, where these would bury a night's few lines under hundreds.
for chatty in ("great_expectations", "py4j", "alembic", "mlflow"):
    logging.getLogger(chatty).setLevel(logging.WARNING)

SPARK, GPU, PUBLISH = "funnel_spark", "funnel_gpu", "funnel_publish"
"""Pools: how many Spark sessions, fits and commits may run at once, of all runs together."""


def settings() -> Settings:
    """The configuration that `FUNNEL_CONFIG` names, else `funnel.toml` beside the DAG folder.

    One that is missing or wrong becomes the DAG files' import error, in the one line of ConfigError.
    """
    return load(Path(os.environ.get("FUNNEL_CONFIG", Path(__file__).resolve().parents[1] / "funnel.toml")))


def night_of(data_interval_start: datetime | None, zone: ZoneInfo) -> str:
    """The ISO date of the night that a run is for: its data interval's first day in the funnel's time zone."""
    if data_interval_start is None:
        raise AirflowFailException("the run has no data interval, so no date: trigger it with a logical date")
    return data_interval_start.astimezone(zone).date().isoformat()


def last_ended(moment: datetime, zone: ZoneInfo) -> str:
    """The ISO date of the last day that had ended by a moment, in the funnel's time zone."""
    return (moment.astimezone(zone).date() - timedelta(days=1)).isoformat()


def of_every_task(configuration: Settings, *, on_failure: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Default arguments: retries with longer and longer pauses, and who is told when none is left."""
    return {
        "owner": "funnelcast",
        "retries": 2,
        "retry_delay": timedelta(minutes=configuration.operations.retry_minutes),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(hours=1),
        "on_failure_callback": on_failure,
    }


@contextmanager
def one_line(where: str) -> Iterator[None]:
    """Turn a mistake that a person can mend into the task's failure, in one line and without a trace.

    Raises:
        AirflowFailException: with the line of a FunnelError, which no retry would mend.
        AirflowException: with the line of a TransientError, which is tried again.
    """
    try:
        yield
    except FunnelError as error:
        line = str(error) if str(error).startswith(where.split()[0]) else f"{where}: {error}"
        # A line of its own: the log's page folds what was raised away under its trace.
        log.error(line)
        kind = AirflowException if isinstance(error, TransientError) else AirflowFailException
        raise kind(line) from None


def context_of(configuration: Settings, run: str, *, is_bulk: bool = False) -> "Context":
    """What a stage works with; its records carry Airflow's run id and its lines go to the task's log."""
    from pipeline.runs.context import Context

    return Context(configuration, run_id=run, notify=log.info, is_bulk=is_bulk)
