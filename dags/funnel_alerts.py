"""Alerts about failed tasks and late scores, in the log and through a webhook if one is configured.

The webhook's address is often a secret, so it is an Airflow connection; `[operations] webhook_connection` names it.
The payload is JSON with one key, `text`, which Slack, Mattermost and Teams workflows accept.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from funnel_tasks import StageFailed, StageFailedTransiently, load_settings, night_of

from pipeline.errors import FunnelError, describe_error

log = logging.getLogger("funnel")
TIMEOUT_SECONDS = 10


def alert_failure(context: Mapping[str, Any]) -> None:
    """Send one line with the task, its night, the cause, and links to report and log. An `on_failure_callback`."""
    configuration = load_settings()
    task, run = context["ti"], context["dag_run"]
    night = night_of(run.data_interval_start, configuration.zone) if run.dag_id == "funnel_nightly" else ""
    error = context.get("exception") or RuntimeError("unknown cause; see the log")
    cause = describe_error(error)
    if not isinstance(error, StageFailed | StageFailedTransiently):
        cause = f"{f'{task.task_id} {night}'.strip()}: {cause}"
    parts = [f"{run.dag_id} failed: {cause}", f"log: {task.log_url}"]
    if night:
        parts.insert(1, f"report: {report_url(night)}")
    send_alert(" | ".join(parts), configuration.operations.webhook_connection)


def alert_late(context: Mapping[str, Any]) -> None:
    """Send one line that a scheduled night's scores are late. Airflow calls it when the deadline has passed."""
    run = context["dag_run"]
    # The deadline counts from the run's date, so a backfill or a manual run of an old date is always past it.
    if run["run_type"] != "scheduled":
        return
    configuration = load_settings()
    night = night_of(datetime.fromisoformat(run["data_interval_start"]), configuration.zone)
    due = configuration.operations.scores_due_hours
    line = f"funnel_nightly: scores of {night} are late: not published {due} h after the night ended"
    send_alert(f"{line}; the run is {run['state']}", configuration.operations.webhook_connection)


def report_url(night: str) -> str:
    """The URL of a night's report on Airflow's own server, where `dags/plugins` serves it."""
    from airflow.sdk.configuration import conf

    return f"{conf.get('api', 'base_url', fallback='http://localhost:8080').rstrip('/')}/funnelcast/reports/{night}"


def send_alert(line: str, connection_id: str | None) -> None:
    """Log a line and post it to the connection's webhook, if one is named; a failing webhook fails nothing else."""
    log.error(line)
    if connection_id is None:
        return
    import httpx

    # Never log the address: it is often the secret.
    try:
        address, headers = resolve_webhook(connection_id)
        httpx.post(address, json={"text": line}, headers=headers, timeout=TIMEOUT_SECONDS).raise_for_status()
    except httpx.HTTPStatusError as error:
        log.error("no alert sent through connection %r: HTTP %d", connection_id, error.response.status_code)
    except (FunnelError, httpx.HTTPError, httpx.InvalidURL) as error:
        log.error("no alert sent through connection %r: %s", connection_id, describe_error(error))


def resolve_webhook(connection_id: str) -> tuple[str, dict[str, str]]:
    """Read a webhook's URL and headers from an Airflow connection; a password becomes a bearer token.

    Raises:
        FunnelError: the connection does not exist or has no host.
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
    # `schema` is the path in a connection given as a URI, but the protocol in one saved through Airflow's form.
    protocol = connection.schema if connection.schema in ("http", "https") else connection.conn_type
    path = "" if connection.schema in (None, "", "http", "https") else f"/{connection.schema}"
    port = f":{connection.port}" if connection.port else ""
    return f"{protocol if protocol in ('http', 'https') else 'https'}://{connection.host}{port}{path}", headers
