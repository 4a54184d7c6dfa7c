"""
Trains a **challenger** on what was known by a date, judges it beside the champion on the same later days, registers it
in MLflow, and promotes it if it is no worse on any stage, better on the one that `[promotion] stage` names, and
calibrated.

- **When.** Weekly (`[operations] training_schedule`), as of the day that ended last; or by hand, with parameters.
- **No backfill.** A model belongs to the day it was trained for: *Trigger* with `as_of` trains one for an older date.
- **Refused.** `promote` is skipped and its log gives the reason: too few positives, a stage gone quiet, worse on a
  stage, not better on the named one, not calibrated. `funnel promote VERSION` overrules it;
  `funnel models rollback` takes a promotion back.
- **Failed.** A failed audit of the examples stops it before anything is trained. A task that was killed starts again;
  a model that was not registered is no candidate for anything.
"""

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, get_args

from airflow.sdk import CronTriggerTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from funnel_alerts import tell_failure
from funnel_tasks import GPU, SPARK, context_of, last_ended, log, of_every_task, one_line, settings

from pipeline.config.sections import Architecture
from pipeline.config.settings import Settings
from pipeline.dates import parse_night

if TYPE_CHECKING:
    from datetime import date

SETTINGS = settings()
TRAINING = SETTINGS.training
RUN = "{{ dag_run.run_id }}"
AS_OF = "{{ params.as_of or last_ended(dag_run.logical_date or dag_run.run_after) }}"


def _day(as_of: str) -> "date":
    return parse_night(as_of, SETTINGS.zone, name="as_of")


def _with_parameters() -> Settings:
    """The configuration with what this run's parameters change in `[training]`."""
    from pipeline.training.fitting import with_training

    params = get_current_context()["params"]
    changes = {name: params[name] for name in ("architecture", "history_days", "seed") if params[name] is not None}
    return with_training(SETTINGS, **changes)


@task(pool=SPARK, execution_timeout=timedelta(hours=3))
def examples(as_of: str, run: str) -> None:
    """Publishes the partition `as_of` of `examples`: every exposure known then, with features, labels and masks."""
    from pipeline.features.examples import examples

    with one_line(f"examples {as_of}"):
        examples(context_of(_with_parameters(), run, is_bulk=True), _day(as_of))


@task(pool=GPU, queue=SETTINGS.operations.training_queue, execution_timeout=timedelta(hours=12))
def train(as_of: str, run: str) -> str:
    """Fits a model and logs it to MLflow: parameters, figures, plots and the bundle. Gives its version."""
    from pipeline.training.steps import fit_candidate

    with one_line(f"train {as_of}"):
        return fit_candidate(context_of(_with_parameters(), run), _day(as_of))


@task(execution_timeout=timedelta(hours=2))
def evaluate(as_of: str, run: str, version: str) -> str:
    """Judges the candidate beside the champion on the same later days. Gives its version."""
    from pipeline.training.steps import evaluate

    with one_line(f"evaluate {as_of}"):
        verdict = evaluate(context_of(SETTINGS, run), version)
        log.info("%s: %s", version, verdict.reason)
        return version


@task(execution_timeout=timedelta(minutes=30))
def register(as_of: str, run: str, version: str) -> str:
    """Adds the candidate to the registry. Gives its version."""
    from pipeline.training.steps import register

    with one_line(f"register {as_of}"):
        register(context_of(SETTINGS, run), version)
        return version


@task(execution_timeout=timedelta(minutes=30))
def promote(as_of: str, run: str, version: str) -> None:
    """Makes the candidate champion, or is skipped with the reason why not."""
    from pipeline.training.steps import promote

    with one_line(f"promote {as_of}"):
        verdict = promote(context_of(SETTINGS, run), version)
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
            description="Train on what was known by the end of this date; the day that ended last, unless given.",
        ),
        "architecture": Param(
            TRAINING.architecture,
            type="string",
            enum=list(get_args(Architecture)),
            title="Architecture",
            description="What the tasks share; `[training] architecture` unless changed here.",
        ),
        "history_days": Param(
            TRAINING.history_days,
            type="integer",
            minimum=1,
            title="History, days",
            description="How far back exposures teach.",
        ),
        "seed": Param(
            TRAINING.seed,
            type="integer",
            minimum=0,
            title="Seed",
            description="Of weights, shuffling and dropout; the same one gives the same model.",
        ),
    },
    user_defined_macros={"last_ended": partial(last_ended, zone=SETTINGS.zone)},
    default_args=of_every_task(SETTINGS, on_failure=tell_failure),
)
def funnel_training() -> None:
    version = train(as_of=AS_OF, run=RUN)
    examples(as_of=AS_OF, run=RUN) >> version
    # While a DAG is made, what a task gives is a promise of it.
    judged = evaluate(as_of=AS_OF, run=RUN, version=version)  # type: ignore[arg-type]
    registered = register(as_of=AS_OF, run=RUN, version=judged)  # type: ignore[arg-type]
    promote(as_of=AS_OF, run=RUN, version=registered)  # type: ignore[arg-type]


funnel_training()
