"""
Trains a **challenger** on what was known by a date, evaluates it and the champion on the same later days, registers it
in MLflow, and promotes it if it is no worse on any stage, better on the one that `[promotion] stage` names, and
calibrated.

- **When.** Weekly (`[operations] training_schedule`), as of the last day that has ended; or triggered manually with
  parameters.
- **No backfill.** A model belongs to the day it was trained for. *Trigger* with `as_of` trains one for an older
  date.
- **Refusal.** `promote` is skipped and its log gives the reason: too few positives, a stage gone quiet, worse on a
  stage, not better on the named one, or not calibrated. `funnel promote VERSION` overrules it;
  `funnel models rollback` withdraws a promotion.
- **Failure.** A failed audit of the examples stops the run before anything is trained. A killed task starts again;
  an unregistered model is never a candidate.
"""

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, get_args

from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from funnel_alerts import alert_failure
from funnel_tasks import (
    GPU,
    SPARK,
    fail_in_one_line,
    last_ended_day,
    load_settings,
    log,
    make_context,
    make_default_args,
)

from pipeline.config.sections import Architecture
from pipeline.config.settings import Settings
from pipeline.dates import parse_night

if TYPE_CHECKING:
    from datetime import date

SETTINGS = load_settings()
TRAINING = SETTINGS.training
RUN = "{{ dag_run.run_id }}"
AS_OF = "{{ params.as_of or last_ended_day(dag_run.logical_date or dag_run.run_after) }}"


def _parse_day(as_of: str) -> "date":
    return parse_night(as_of, SETTINGS.zone, name="as_of")


def _apply_parameters() -> Settings:
    """Return the configuration with this run's parameters applied to `[training]`."""
    from pipeline.training.fitting import with_training

    params = get_current_context()["params"]
    changes = {name: params[name] for name in ("architecture", "history_days", "seed") if params[name] is not None}
    return with_training(SETTINGS, **changes)


@task(pool=SPARK, execution_timeout=timedelta(hours=3))
def examples(as_of: str, run: str) -> None:
    """Publish the partition `as_of` of `examples`: every exposure known then, with features, labels and masks."""
    from pipeline.features.examples import build_examples

    with fail_in_one_line("examples", as_of):
        build_examples(make_context(_apply_parameters(), run, is_bulk=True), _parse_day(as_of))


@task(pool=GPU, queue=SETTINGS.operations.training_queue, execution_timeout=timedelta(hours=12))
def train(as_of: str, run: str) -> str:
    """Fit a model and log its parameters, figures, plots and bundle to MLflow; return its version."""
    from pipeline.training.steps import fit_candidate

    with fail_in_one_line("train", as_of):
        return fit_candidate(make_context(_apply_parameters(), run), _parse_day(as_of))


@task(execution_timeout=timedelta(hours=2))
def evaluate(as_of: str, run: str, version: str) -> str:
    """Evaluate the candidate and the champion on the same later days; return the candidate's version."""
    from pipeline.training.steps import evaluate

    with fail_in_one_line("evaluate", as_of):
        verdict = evaluate(make_context(SETTINGS, run), version)
        log.info("%s: %s", version, verdict.reason)
        return version


@task(execution_timeout=timedelta(minutes=30))
def register(as_of: str, run: str, version: str) -> str:
    """Add the candidate to the registry; return its version."""
    from pipeline.training.steps import register

    with fail_in_one_line("register", as_of):
        register(make_context(SETTINGS, run), version)
        return version


@task(execution_timeout=timedelta(minutes=30))
def promote(as_of: str, run: str, version: str) -> None:
    """Make the candidate champion, or skip the task with the reason for refusal."""
    from pipeline.training.steps import promote

    with fail_in_one_line("promote", as_of):
        verdict = promote(make_context(SETTINGS, run), version)
        if not verdict.promoted:
            raise AirflowSkipException(f"{version} is not promoted: {verdict.reason}")
        log.info("%s is champion: %s", version, verdict.reason)


@dag(
    dag_id="funnel_training",
    description="A challenger: examples, train, evaluate, register, promote if it is better",
    doc_md=__doc__,
    tags=["funnelcast", "training"],
    schedule=CronTriggerTimetable(SETTINGS.operations.training_schedule, timezone=SETTINGS.funnel.timezone),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=("scheduled", "manual"),  # type: ignore[arg-type]  # Airflow takes the names
    params={
        "as_of": Param(
            None,
            type=["null", "string"],
            format="date",
            title="As of",
            description="Train on what was known by the end of this date; by default the last day that has ended.",
        ),
        "architecture": Param(
            TRAINING.architecture,
            type="string",
            enum=list(get_args(Architecture)),
            title="Architecture",
            description="What the tasks share; `[training] architecture` by default.",
        ),
        "history_days": Param(
            TRAINING.history_days,
            type="integer",
            minimum=1,
            title="History, days",
            description="Days of exposures to learn from.",
        ),
        "seed": Param(
            TRAINING.seed,
            type="integer",
            minimum=0,
            title="Seed",
            description="Seed of weights, shuffling and dropout; the same seed gives the same model.",
        ),
    },
    user_defined_macros={"last_ended_day": partial(last_ended_day, zone=SETTINGS.zone)},
    default_args=make_default_args(SETTINGS, on_failure=alert_failure),
)
def funnel_training() -> None:
    version = train(as_of=AS_OF, run=RUN)
    examples(as_of=AS_OF, run=RUN) >> version
    # At parse time a task returns a reference to its result.
    evaluated = evaluate(as_of=AS_OF, run=RUN, version=version)  # type: ignore[arg-type]
    registered = register(as_of=AS_OF, run=RUN, version=evaluated)  # type: ignore[arg-type]
    promote(as_of=AS_OF, run=RUN, version=registered)  # type: ignore[arg-type]


funnel_training()
