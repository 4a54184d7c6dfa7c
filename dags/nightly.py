"""
Scores one **night**: waits for the day's source, lands it, rebuilds the day's activity tiles, publishes the night's
partition of `user_scores`, monitors it, announces it, and writes its report. The tasks are the stages of
`funnel nightly`.

- **Which date.** A run belongs to the day its data interval starts on, in the funnel's time zone. It starts at the
  midnight that ends this day, and `wait` gives its slot back until the source's partition is there.
- **By hand.** *Trigger* runs the newest day that had ended by the logical date: now means yesterday.
- **Another date, or several.** Start a backfill (*Trigger*, then *Backfill*); its first and last date are both run.
  Missed nights are caught up this way alone. Airflow reads bare dates in `AIRFLOW__CORE__DEFAULT_TIMEZONE`, which
  should be the funnel's. Several dates may run at once: each lands its day after the dates before it have landed
  theirs, and scores when a slot of the pool `funnel_spark` is free. Run it forwards.
- **Which model.** The champion as of the date, so that a night of last month gives what it gave or would have given.
  The parameter `model` names another; each row of `user_scores` says which one scored it.
- **Again.** Clear a task or a run: it gives its partition anew, whole, and touches no other. A day whose events
  changed needs the nights after it cleared as well, since their features look back on it.
- **Failed.** The failed task's log ends with one line that says what is wrong and where. Bad data and bad configuration
  fail at once; what may pass by itself is tried three times. No table shows half a night in either case. `report`
  is written all the same: *Report* in the run's tabs.
- **Monitored.** What lies past a threshold is a warning in the report; past a stop `monitor` fails, though the scores
  are there: nothing is announced, and `funnel targets` makes no list of them.
- **Campaigns.** A DAG with `schedule=[Asset("user_scores")]` starts when `announce` has succeeded; the event's
  extra holds `ds`. A backfill announces nothing: nobody should be texted by old scores.
"""

from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Any

from airflow.sdk import Asset, CronDataIntervalTimetable, Metadata, Param, dag, get_current_context, task
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowSkipException
from funnel_alerts import tell_failure, webhook
from funnel_tasks import PUBLISH, SPARK, context_of, log, night_of, of_every_task, one_line, settings

from pipeline.dates import DateRange, parse_night

SETTINGS = settings()
OPERATIONS = SETTINGS.operations
USER_SCORES = Asset("user_scores", uri=f"funnelcast://{SETTINGS.warehouse.namespace}/user_scores")

NIGHT = "{{ night_of(dag_run.data_interval_start) }}"
RUN = "{{ dag_run.run_id }}"
MODEL = "{{ params.model or '' }}"
LOADING = ("ingest", "activity")
DONE = {"success", "failed", "upstream_failed", "skipped", "removed"}


def _day(night: str) -> date:
    return parse_night(night, SETTINGS.zone, name="night")


@task.sensor(mode="reschedule", poke_interval=OPERATIONS.poke_seconds, timeout=timedelta(days=7).total_seconds())
def wait(night: str, run: str) -> bool:
    """Waits for the source's partition of the day, and for earlier nights that are still landing theirs."""
    from pipeline.errors import FunnelError
    from pipeline.ingest.arrivals import days_delivered, missing
    from pipeline.runs.record import recorded

    context = get_current_context()
    with one_line(f"wait {night}"):
        day = _day(night)
        until = datetime.combine(day + timedelta(days=1), time(), SETTINGS.zone)
        until += timedelta(hours=OPERATIONS.source_wait_hours)
        try:
            if OPERATIONS.webhook_connection:
                webhook(OPERATIONS.webhook_connection)
            absent = missing(SETTINGS, day)
            if absent and datetime.now(SETTINGS.zone) > until:
                delivered = days_delivered(SETTINGS)
                first = f"; the first day there is {delivered[0]}" if delivered and day < delivered[0] else ""
                raise FunnelError(f"{absent}; waited until {until:%Y-%m-%d %H:%M}{first}")
        except FunnelError:
            # Recorded, so that the night's report has the cause.
            with recorded(context_of(SETTINGS, run), "wait", DateRange(day, day)):
                raise
    if absent:
        log.info("%s; waiting until %s", absent, f"{until:%Y-%m-%d %H:%M}")
        return False
    landing = _still_landing(context, day)
    if landing:
        log.info("waiting for an earlier night that is landing its day: %s", ", ".join(landing))
    return not landing


def _still_landing(context: Any, day: date) -> list[str]:
    """Running runs of earlier nights whose days this night looks back on and that have not landed theirs."""
    scheduled = context["dag_run"].run_type == "scheduled"
    # Tonight is not held up by a backfill of months, but for the days among which it looks for repeated events.
    reach = SETTINGS.source.events.lookback_days if scheduled else SETTINGS.features.max_window
    earlier = [datetime.combine(day - timedelta(days=back), time(), SETTINGS.zone) for back in range(1, reach + 1)]
    if not earlier:
        return []
    instance, dag_id = context["ti"], context["dag_run"].dag_id
    states = instance.get_task_states(dag_id=dag_id, task_ids=list(LOADING), logical_dates=earlier)
    unfinished = [run for run, tasks in states.items() if not set(tasks.values()) <= DONE]
    # A queued run waits for its turn, so it is not waited for: a backwards backfill would never end.
    return [run for run in unfinished if instance.get_dr_count(dag_id=dag_id, run_ids=[run], states=["running"])]


@task(pool=SPARK, execution_timeout=timedelta(hours=3))
def ingest(night: str, run: str) -> None:
    """Lands the day's source: `events`, `users` and `quarantine`."""
    from pipeline.ingest.ingest import ingest

    with one_line(f"ingest {night}"):
        day = _day(night)
        ingest(context_of(SETTINGS, run), DateRange(day, day))


@task(pool=SPARK, execution_timeout=timedelta(hours=1))
def activity(night: str, run: str) -> None:
    """Rebuilds the day's tiles, `activity`, from its events."""
    from pipeline.ingest.activity import activity

    with one_line(f"activity {night}"):
        day = _day(night)
        activity(context_of(SETTINGS, run), DateRange(day, day))


@task(pool=SPARK, execution_timeout=timedelta(hours=3))
def score(night: str, run: str, model: str) -> list[str]:
    """Scores every eligible user by the champion as of the night, or `model`, into audited files that nobody sees."""
    from pipeline.scoring.scoring import stage_scores

    with one_line(f"score {night}"):
        return list(stage_scores(context_of(SETTINGS, run), _day(night), model=model or None))


@task(pool=PUBLISH, execution_timeout=timedelta(minutes=30))
def publish(night: str, run: str, files: list[str]) -> None:
    """Makes the audited files the night's partition of `user_scores`, in one commit."""
    from pipeline.scoring.scoring import publish_scores

    with one_line(f"publish {night}"):
        publish_scores(context_of(SETTINGS, run), _day(night), files)


@task(execution_timeout=timedelta(minutes=30))
def monitor(night: str, run: str) -> None:
    """Writes the night's figures into `metrics`; fails past a stop of `[monitoring.thresholds]`."""
    from pipeline.monitoring.monitor import monitor

    with one_line(f"monitor {night}"):
        monitor(context_of(SETTINGS, run), _day(night))


@task(outlets=[USER_SCORES])
def announce(night: str, run: str) -> Any:
    """Tells DAGs that wait for `user_scores` that the night's are there; a backfill is skipped."""
    if get_current_context()["dag_run"].run_type == "backfill":
        raise AirflowSkipException("a backfill announces nothing: no campaign should start on old scores")
    yield Metadata(USER_SCORES, extra={"ds": night, "run_id": run})


@task(execution_timeout=timedelta(minutes=30))
def report(night: str, run: str) -> None:
    """Writes the night's report, whatever became of the night."""
    from pipeline.report.report import report

    with one_line(f"report {night}"):
        log.info("report: %s", report(context_of(SETTINGS, run), _day(night)))


@dag(
    dag_id="funnel_nightly",
    description="One night: wait, ingest, activity, score, publish, monitor, announce, report",
    doc_md=__doc__,
    tags=["funnelcast", "nightly"],
    # An interval, not a trigger: it starts at the night's own midnight and makes a backfill's end date included.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone=SETTINGS.funnel.timezone),
    catchup=False,
    max_active_runs=1,
    params={
        "model": Param(
            None,
            type=["null", "string"],
            pattern=r"^[0-9]{8}-[0-9a-f]{8}$",
            title="Model version",
            description="Score by this version instead of the champion as of the date, e.g. 20260415-1a2b3c4d; "
            "`funnel models` lists them. Each row of user_scores names the version that scored it.",
        )
    },
    user_defined_macros={"night_of": partial(night_of, zone=SETTINGS.zone)},
    deadline=DeadlineAlert(
        # From the date itself, so that a run that starts late is late; its day is over 24 h after it began.
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(hours=24 + OPERATIONS.scores_due_hours),
        callback=SyncCallback("funnel_alerts.tell_late"),
    ),
    default_args=of_every_task(SETTINGS, on_failure=tell_failure),
)
def funnel_nightly() -> None:
    files = score(night=NIGHT, run=RUN, model=MODEL)
    (
        wait(night=NIGHT, run=RUN)
        >> ingest(night=NIGHT, run=RUN)
        >> activity(night=NIGHT, run=RUN)
        >> files
        # While a DAG is made, what a task gives is a promise of it.
        >> publish(night=NIGHT, run=RUN, files=files)  # type: ignore[arg-type]
        >> monitor(night=NIGHT, run=RUN)
        >> announce(night=NIGHT, run=RUN)
        # Runs whatever became of the others, and leaves it to them whether the run has failed.
        >> report(night=NIGHT, run=RUN).as_teardown()
    )


funnel_nightly()
