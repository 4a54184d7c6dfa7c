"""Who is told when a task has failed for good, or scores are late: the log, and a webhook where one is configured.

The webhook's address is an Airflow connection, since it is often a secret; `[operations] webhook_connection` names it.
It is sent JSON with one key, `text`, as Slack, Mattermost and Teams' workflows take it.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from funnel_tasks import night_of, settings

from pipeline.errors import FunnelError, describe_error

log = logging.getLogger("funnel")
TIMEOUT_SECONDS = 10


def tell_failure(context: Mapping[str, Any]) -> None:
    """Say in one line which task of which night failed, why, and where its report and log are. Airflow calls it."""
    configuration = settings()
    task, run = context["ti"], context["dag_run"]
    cause = describe_error(context.get("exception") or RuntimeError("no cause is known; see the log"))
    parts = [f"{run.dag_id} failed: {cause}"]
    if run.dag_id == "funnel_nightly":
        night = night_of(run.data_interval_start, configuration.zone)
        # A stage's own line names the stage and the night; what Python raises does not.
        if night not in cause:
            parts = [f"{run.dag_id} failed: {task.task_id} {night}: {cause}"]
        parts.append(f"report: {report_address(night)}")
    elif not cause.startswith(task.task_id):
        parts = [f"{run.dag_id} failed: {task.task_id}: {cause}"]
    tell(" | ".join([*parts, f"log: {task.log_url}"]), configuration.operations.webhook_connection)


def tell_late(context: Mapping[str, Any]) -> None:
    """Say that a scheduled night's scores are not there in time. Airflow calls it when the deadline has passed."""
    run = context["dag_run"]
    # The deadline counts from a run's own date: a backfill, or a run by hand of an old one, is late by intention.
    if run["run_type"] != "scheduled":
        return
    configuration = settings()
    night = night_of(datetime.fromisoformat(run["data_interval_start"]), configuration.zone)
    due = configuration.operations.scores_due_hours
    line = f"funnel_nightly: scores of {night} are late: not there {due} h after the night's end, the run is "
    tell(f"{line}{run['state']}", configuration.operations.webhook_connection)


def report_address(night: str) -> str:
    """Where Airflow's own server shows a night's report, with `dags/plugins` as its plugins folder."""
    from airflow.sdk.configuration import conf

    return f"{conf.get('api', 'base_url', fallback='http://localhost:8080').rstrip('/')}/funnelcast/reports/{night}"


def tell(line: str, connection_id: str | None) -> None:
    """Write a line to the log and, where a connection is named, post it; a webhook that fails fails nothing else."""
    log.error(line)
    if connection_id is None:
        return
    import httpx

    try:
        address, headers = webhook(connection_id)
        httpx.post(address, json={"text": line}, headers=headers, timeout=TIMEOUT_SECONDS).raise_for_status()
    except (FunnelError, httpx.HTTPError, httpx.InvalidURL) as error:
        # Never the address itself: it often is the secret.
        told = (
            f"HTTP {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else describe_error(error)
        )
        log.error("the webhook of connection %r was not told: %s", connection_id, told)


def webhook(connection_id: str) -> tuple[str, dict[str, str]]:
    """The address and headers of a webhook; a password is sent as a bearer token.

    Raises:
        FunnelError: there is no such connection, or it has no host.
    """
    try:
        connection = Connection.get(connection_id)
    except AirflowNotFoundException:
        raise FunnelError(
            f"operations.webhook_connection: Airflow has no connection {connection_id!r}: add it under Admin, "
            f"Connections, or set AIRFLOW_CONN_{connection_id.upper()}"
        ) from None
    if not connection.host:
        raise FunnelError(f"operations.webhook_connection: connection {connection_id!r} has no host")
    headers = {"Authorization": f"Bearer {connection.password}"} if connection.password else {}
    if "://" in connection.host:
        return connection.host, headers
    # As a URI an address's path is what Airflow calls the schema; in its form the schema is the protocol.
    protocol = connection.schema if connection.schema in ("http", "https") else connection.conn_type
    path = "" if connection.schema in (None, "", "http", "https") else f"/{connection.schema}"
    port = f":{connection.port}" if connection.port else ""
    return f"{protocol if protocol in ('http', 'https') else 'https'}://{connection.host}{port}{path}", headers
