"""
Keeps the warehouse small: rewrites partitions of many small files as one, expires old snapshots, and removes files that
no snapshot names. It never touches what a reader or a rollback may still need: `[maintenance]` says how long that is.

- **When.** Daily (`[operations] maintenance_schedule`), away from the night; or by hand at any time, beside other runs.
- **Killed.** Start it again: tables are whole at every moment, and what was left over is removed by the next run.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, task
from funnel_alerts import tell_failure
from funnel_tasks import PUBLISH, context_of, of_every_task, one_line, settings

SETTINGS = settings()


@task(pool=PUBLISH, execution_timeout=timedelta(hours=2))
def maintain(run: str) -> None:
    """Compacts small files, expires old snapshots, removes orphaned files."""
    from pipeline.maintenance import maintain

    with one_line("maintain"):
        maintain(context_of(SETTINGS, run))


@dag(
    dag_id="funnel_maintenance",
    description="Compact small files, expire old snapshots, remove orphaned files",
    doc_md=__doc__,
    tags=["funnelcast", "maintenance"],
    schedule=CronTriggerTimetable(SETTINGS.operations.maintenance_schedule, timezone=SETTINGS.funnel.timezone),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=("scheduled", "manual"),  # type: ignore[arg-type]  # Airflow takes the names
    default_args=of_every_task(SETTINGS, on_failure=tell_failure),
)
def funnel_maintenance() -> None:
    maintain(run="{{ dag_run.run_id }}")


funnel_maintenance()
