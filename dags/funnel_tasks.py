"""Shared by the DAGs: the configuration, a run's date, and how a stage runs as a task.

Airflow parses DAG files over and over, so imports here are light; each task imports its stage when it runs.
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
from airflow.sdk.log import mask_secret

from pipeline.config.settings import Settings, load
from pipeline.errors import FunnelError, Terminated, TransientError
from pipeline.secrets import guard_output, known

if TYPE_CHECKING:
    from pipeline.runs.context import Context

log = logging.getLogger("funnel")
guard_output()
# Task logs show level INFO, where these libraries would bury a night's few lines.
for chatty in ("great_expectations", "py4j", "alembic", "mlflow"):
    logging.getLogger(chatty).setLevel(logging.WARNING)

SPARK, GPU, PUBLISH = "funnel_spark", "funnel_gpu", "funnel_publish"
"""Pools that limit concurrent Spark sessions, fits and commits across all runs."""


def load_settings() -> Settings:
    """Load the configuration named by `FUNNEL_CONFIG`, else `funnel.toml` next to the DAG folder.

    From then on, Airflow masks its secrets in the logs of tasks, tracebacks of any error included.

    Raises:
        ConfigError: it is missing or wrong; Airflow shows the line as the DAG file's import error.
    """
    settings = load(Path(os.environ.get("FUNNEL_CONFIG", Path(__file__).resolve().parents[1] / "funnel.toml")))
    for secret in known():
        mask_secret(secret)
    return settings


def night_of(data_interval_start: datetime | None, zone: ZoneInfo) -> str:
    """The ISO date of a run's night: the first day of its data interval in the funnel's time zone.

    Raises:
        AirflowFailException: the run has no data interval.
    """
    if data_interval_start is None:
        raise AirflowFailException("the run has no data interval, so no date: trigger it with a logical date")
    return data_interval_start.astimezone(zone).date().isoformat()


def last_ended_day(moment: datetime, zone: ZoneInfo) -> str:
    """The ISO date of the last day that had ended by a moment in the funnel's time zone."""
    return (moment.astimezone(zone).date() - timedelta(days=1)).isoformat()


def make_default_args(configuration: Settings, *, on_failure: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Make the default arguments of every task: retries with exponential backoff, and the failure callback."""
    return {
        "owner": "funnelcast",
        "retries": 2,
        "retry_delay": timedelta(minutes=configuration.operations.retry_minutes),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(hours=1),
        "on_failure_callback": on_failure,
    }


class StageFailed(AirflowFailException):
    """A failure that no retry would fix; the message begins with the stage and its date."""


class StageFailedTransiently(AirflowException):
    """A failure that Airflow retries; the message begins with the stage and its date."""


@contextmanager
def fail_in_one_line(stage: str, day: str = "") -> Iterator[None]:
    """Fail the task with the one line of a FunnelError, without a traceback; stage and day are put before it.

    Raises:
        StageFailed: for a FunnelError.
        StageFailedTransiently: for a TransientError, or for SIGTERM: a worker that shuts down, a run marked as failed.
    """
    try:
        yield
    except FunnelError as error:
        line = str(error) if error.stage == stage else f"{f'{stage} {day}'.strip()}: {error}"
        # Logged too: the log page folds an exception's message away under its traceback.
        log.error(line)
        kind = StageFailedTransiently if isinstance(error, TransientError) else StageFailed
        raise kind(line) from None
    except Terminated as end:
        log.error(str(end))
        raise StageFailedTransiently(str(end)) from None


def make_context(configuration: Settings, run: str, *, is_bulk: bool = False) -> "Context":
    """Make a stage's context: its records carry Airflow's run id, its lines go to the task's log."""
    from pipeline.runs.context import Context

    return Context(configuration, run_id=run, notify=log.info, is_bulk=is_bulk)
