"""
Keeps the warehouse small: compacts partitions of many small files, expires old snapshots, and removes files that no
snapshot references. It never touches what a reader or a rollback may still need; `[maintenance]` sets how long that is.

- **When.** Daily (`[operations] maintenance_schedule`), away from the night. It can also be triggered manually at any
  time, even while other runs are active.
- **Killed.** Start it again: tables are consistent at every moment, and the next run removes what was left over.
"""

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, task
from funnel_alerts import alert_failure
from funnel_tasks import PUBLISH, fail_in_one_line, load_settings, make_context, make_default_args

SETTINGS = load_settings()


@task(pool=PUBLISH, execution_timeout=timedelta(hours=2))
def maintain(run: str) -> None:
    """Compact small files, expire old snapshots, remove orphaned files."""
    from pipeline.maintenance import maintain

    with fail_in_one_line("maintain"):
        maintain(make_context(SETTINGS, run))


@dag(
    dag_id="funnel_maintenance",
    description="Compact small files, expire old snapshots, remove orphaned files",
    doc_md=__doc__,
    tags=["funnelcast", "maintenance"],
    schedule=CronTriggerTimetable(SETTINGS.operations.maintenance_schedule, timezone=SETTINGS.funnel.timezone),
    catchup=False,
    max_active_runs=1,
    allowed_run_types=("scheduled", "manual"),  # type: ignore[arg-type]  # Airflow takes the names
    default_args=make_default_args(SETTINGS, on_failure=alert_failure),
)
def funnel_maintenance() -> None:
    maintain(run="{{ dag_run.run_id }}")


funnel_maintenance()
