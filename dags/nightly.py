"""
Scores one **night**: waits for the day's source, lands it, rebuilds the day's activity tiles, publishes the night's
partition of `user_scores`, monitors it, announces it, and writes its report. The tasks are the stages of
`funnel nightly`.

- **Date.** A run belongs to the day its data interval starts on, in the funnel's time zone. It starts at the midnight
  that ends this day; `wait` frees its slot between checks until the source's partition has arrived.
- **Manual run.** *Trigger* runs the newest day that had ended by the logical date: for now, that is yesterday.
- **Other dates.** Start a backfill (*Trigger*, then *Backfill*); it includes its first and its last date. Missed nights
  are not caught up otherwise. Airflow reads bare dates in `AIRFLOW__CORE__DEFAULT_TIMEZONE`, which should be the
  funnel's. Several dates can run at once: each lands its day once the dates before it have landed theirs, and scores
  as soon as the pool `funnel_spark` has a free slot. Run backfills forwards.
- **Model.** The champion as of the date, so a night of last month gives what it gave, or would have given, then.
  The parameter `model` overrides it; each row of `user_scores` names the version that scored it.
- **Rerun.** Clear a task or a run: it replaces its own partition as a whole and touches no other. If a day's events
  changed, clear the nights after it too, since their features look back on it.
- **Missed nights.** A night stops if the source has earlier days that never landed, because their nights failed or
  never ran: clear those, or run a backfill, first. `audit.missed_nights` can have the night land them itself.
- **Failure.** The failed task's log ends with one line: what is wrong and where. Where an audit stopped the day, the
  lines before it show rejected rows, and the table `stopped_quarantine` has them all. Bad data and bad configuration
  fail at once; transient errors are tried three times. Either way no table shows half a night. `report` runs
  regardless: see the *Report* tab of the run.
- **Monitoring.** A figure past its threshold is a warning in the report. Past a stop, `monitor` fails after the scores
  are published: nothing is announced, and `funnel targets` refuses to make a list from them.
- **Campaigns.** A DAG with `schedule=[Asset("user_scores")]` starts when `announce` has succeeded; the event's `extra`
  holds `ds`. A backfill announces nothing: no one should be texted on old scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Any

from airflow.sdk import Asset, CronDataIntervalTimetable, Metadata, Param, dag, get_current_context, task
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowSkipException
from funnel_alerts import alert_failure, resolve_webhook
from funnel_tasks import PUBLISH, SPARK, fail_in_one_line, load_settings, log, make_context, make_default_args, night_of

from pipeline.config.features import longest_window
from pipeline.dates import DateRange, parse_night

SETTINGS = load_settings()
OPERATIONS = SETTINGS.operations
USER_SCORES = Asset("user_scores", uri=f"funnelcast://{SETTINGS.warehouse.namespace}/user_scores")

NIGHT = "{{ night_of(dag_run.data_interval_start) }}"
RUN = "{{ dag_run.run_id }}"
MODEL = "{{ params.model or '' }}"
LANDING_TASKS = ("ingest", "activity")
FAILED = {"failed", "upstream_failed"}
FINISHED = {"success", "failed", "upstream_failed", "skipped", "removed"}


def _parse_day(night: str) -> date:
    return parse_night(night, SETTINGS.zone, name="night")


@task.sensor(mode="reschedule", poke_interval=OPERATIONS.poke_seconds, timeout=timedelta(days=7).total_seconds())
def wait(night: str, run: str) -> bool:
    """Wait for the source's partition of the day, and for earlier nights to land theirs; fail if one of them failed."""
    from pipeline.errors import FunnelError
    from pipeline.ingest.arrivals import days_delivered, find_missing, require_landed

    context = get_current_context()
    with fail_in_one_line("wait", night):
        day = _parse_day(night)
        until = datetime.combine(day + timedelta(days=1), time(), SETTINGS.zone)
        until += timedelta(hours=OPERATIONS.source_wait_hours)
        with _recorded_if_it_fails(day, run):
            if OPERATIONS.webhook_connection:
                resolve_webhook(OPERATIONS.webhook_connection)
            absent = find_missing(SETTINGS, day)
            if absent and datetime.now(SETTINGS.zone) > until:
                delivered = days_delivered(SETTINGS)
                first = f"; the first day delivered is {delivered[0]}" if delivered and day < delivered[0] else ""
                raise FunnelError(f"{absent}; waited until {until:%Y-%m-%d %H:%M}{first}")
    if absent:
        log.info("%s; waiting until %s", absent, f"{until:%Y-%m-%d %H:%M}")
        return False
    landing = _still_landing(context, day)
    if landing:
        log.info("waiting for earlier nights that are still landing their days: %s", ", ".join(landing))
        return False
    failed = _failed_to_land(context, day)
    with fail_in_one_line("wait", night), _recorded_if_it_fails(day, run):
        require_landed(make_context(SETTINGS, run), failed)
    return True


@contextmanager
def _recorded_if_it_fails(day: date, run: str) -> Iterator[None]:
    """Record why a night cannot start, for its report."""
    from pipeline.errors import FunnelError
    from pipeline.runs.record import recorded

    try:
        yield
    except FunnelError:
        with recorded(make_context(SETTINGS, run), "wait", DateRange(day, day)):
            raise


def _failed_to_land(context: Any, day: date) -> list[date]:
    """Return the earlier nights that this night looks back on and whose run failed to land its day."""
    nights = [day - timedelta(days=back) for back in range(longest_window(SETTINGS), 0, -1)]
    if not any(map(_has_failed, _landing_states(context, nights).values())):
        return []
    return [night for night in nights if any(map(_has_failed, _landing_states(context, [night]).values()))]


def _has_failed(tasks: Mapping[str, str | None]) -> bool:
    return not FAILED.isdisjoint(tasks.values())


def _still_landing(context: Any, day: date) -> list[str]:
    """Return the active runs of earlier nights that this night looks back on and that have not landed their days."""
    scheduled = context["dag_run"].run_type == "scheduled"
    # A backfill of months does not hold up tonight, except on the days it deduplicates events against.
    reach = SETTINGS.source.events.lookback_days if scheduled else longest_window(SETTINGS)
    if not reach:
        return []
    instance, dag_id = context["ti"], context["dag_run"].dag_id
    states = _landing_states(context, [day - timedelta(days=back) for back in range(1, reach + 1)])
    unfinished = [run for run, tasks in states.items() if not set(tasks.values()) <= FINISHED]
    # Do not wait for queued runs: in a backwards backfill they wait for this one, and it would never end.
    return [run for run in unfinished if instance.get_dr_count(dag_id=dag_id, run_ids=[run], states=["running"])]


def _landing_states(context: Any, nights: Sequence[date]) -> dict[str, dict[str, str | None]]:
    """Return the states of the tasks that land a day, by run and task."""
    midnights = [datetime.combine(night, time(), SETTINGS.zone) for night in nights]
    states: dict[str, dict[str, str | None]] = context["ti"].get_task_states(
        dag_id=context["dag_run"].dag_id, task_ids=list(LANDING_TASKS), logical_dates=midnights
    )
    return states


@task(pool=SPARK, execution_timeout=timedelta(hours=3))
def ingest(night: str, run: str) -> None:
    """Land the day's source: `events`, `users` and `quarantine`."""
    from pipeline.ingest.ingest import ingest

    with fail_in_one_line("ingest", night):
        day = _parse_day(night)
        ingest(make_context(SETTINGS, run), DateRange(day, day))


@task(pool=SPARK, execution_timeout=timedelta(hours=1))
def activity(night: str, run: str) -> None:
    """Rebuild the day's tiles in `activity` from its events."""
    from pipeline.ingest.activity import build_activity

    with fail_in_one_line("activity", night):
        day = _parse_day(night)
        build_activity(make_context(SETTINGS, run), DateRange(day, day))


@task(pool=SPARK, execution_timeout=timedelta(hours=3))
def score(night: str, run: str, model: str) -> list[str]:
    """Score every eligible user with `model`, else the champion as of the night, into audited but unpublished files."""
    from pipeline.scoring.scoring import stage_scores

    with fail_in_one_line("score", night):
        return list(stage_scores(make_context(SETTINGS, run), _parse_day(night), model=model or None))


@task(pool=PUBLISH, execution_timeout=timedelta(minutes=30))
def publish(night: str, run: str, files: list[str]) -> None:
    """Publish the audited files as the night's partition of `user_scores`, in one commit."""
    from pipeline.scoring.scoring import publish_scores

    with fail_in_one_line("publish", night):
        publish_scores(make_context(SETTINGS, run), _parse_day(night), files)


@task(execution_timeout=timedelta(minutes=30))
def monitor(night: str, run: str) -> None:
    """Write the night's figures to `metrics`; fail if one is past a stop of `[monitoring.thresholds]`."""
    from pipeline.monitoring.monitor import monitor

    with fail_in_one_line("monitor", night):
        monitor(make_context(SETTINGS, run), _parse_day(night))


@task(outlets=[USER_SCORES])
def announce(night: str, run: str) -> Any:
    """Announce the night's scores to DAGs scheduled on the asset `user_scores`; skip backfills."""
    if get_current_context()["dag_run"].run_type == "backfill":
        raise AirflowSkipException("a backfill announces nothing: no campaign should start on old scores")
    yield Metadata(USER_SCORES, extra={"ds": night, "run_id": run})


@task(execution_timeout=timedelta(minutes=30))
def report(night: str, run: str) -> None:
    """Write the night's report, even if the night failed."""
    from pipeline.report.report import report

    with fail_in_one_line("report", night):
        log.info("report: %s", report(make_context(SETTINGS, run), _parse_day(night)))


@dag(
    dag_id="funnel_nightly",
    description="One night: wait, ingest, activity, score, publish, monitor, announce, report",
    doc_md=__doc__,
    tags=["funnelcast", "nightly"],
    # An interval timetable, not a trigger one: it starts at the night's own midnight, and includes a backfill's end.
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone=SETTINGS.funnel.timezone),
    catchup=False,
    max_active_runs=1,
    params={
        "model": Param(
            None,
            type=["null", "string"],
            pattern=r"^[0-9]{8}-[0-9a-f]{8}$",
            title="Model version",
            description="Score with this version instead of the champion as of the date, e.g. 20260415-1a2b3c4d; "
            "`funnel models` lists them. Each row of user_scores names the version that scored it.",
        )
    },
    user_defined_macros={"night_of": partial(night_of, zone=SETTINGS.zone)},
    deadline=DeadlineAlert(
        # Counted from the run's date, so that a late start counts as late; the day itself takes the first 24 h.
        reference=DeadlineReference.DAGRUN_LOGICAL_DATE,
        interval=timedelta(hours=24 + OPERATIONS.scores_due_hours),
        callback=SyncCallback("funnel_alerts.alert_late"),
    ),
    default_args=make_default_args(SETTINGS, on_failure=alert_failure),
)
def funnel_nightly() -> None:
    files = score(night=NIGHT, run=RUN, model=MODEL)
    (
        wait(night=NIGHT, run=RUN)
        >> ingest(night=NIGHT, run=RUN)
        >> activity(night=NIGHT, run=RUN)
        >> files
        # At parse time a task returns a reference to its result.
        >> publish(night=NIGHT, run=RUN, files=files)  # type: ignore[arg-type]
        >> monitor(night=NIGHT, run=RUN)
        >> announce(night=NIGHT, run=RUN)
        # A teardown runs even after failures and does not change the state of the run.
        >> report(night=NIGHT, run=RUN).as_teardown()
    )


funnel_nightly()
