"""Alerts on failures and late scores: one line in the log and at the webhook, never its address."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import FunnelError, TransientError
from tests.dags.server import Webhook
from tests.support.company import Company

TOLD = '[operations]\nwebhook_connection = "funnel_webhook"\nscores_due_hours = 5\n'
MIDNIGHT = datetime(2026, 2, 28, 16, tzinfo=UTC)
"""The start of 1 March in Shanghai."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    hook = Webhook()
    monkeypatch.setenv("AIRFLOW_CONN_FUNNEL_WEBHOOK", hook.address)
    yield hook
    hook.close()


@pytest.fixture
def alerts(airflow_home: Path, make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("FUNNEL_CONFIG", str(make_company(TOLD).config))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.com")
    import funnel_alerts

    return funnel_alerts


def failed(task_id: str, error: Exception | None, *, dag_id: str = "funnel_nightly") -> dict[str, Any]:
    return {
        "ti": SimpleNamespace(task_id=task_id, log_url="https://airflow.example.com/log"),
        "dag_run": SimpleNamespace(dag_id=dag_id, data_interval_start=MIDNIGHT),
        "exception": error,
    }


@pytest.mark.parametrize(
    ("error", "cause"),
    [(KeyError("age"), "'age'"), (None, "see the log")],
)
def test_a_failed_night_is_one_line_with_dag_stage_date_cause_report_and_log(
    alerts: ModuleType, hook: Webhook, error: Exception | None, cause: str
) -> None:
    alerts.alert_failure(failed("score", error))
    (line,) = hook.received
    failure, report, log = line.split(" | ")
    assert failure.startswith("funnel_nightly failed: score 2026-03-01: ") and failure.endswith(cause)
    assert failure.count("score 2026-03-01") == 1
    assert report == "report: https://airflow.example.com/funnelcast/reports/2026-03-01"
    assert log == "log: https://airflow.example.com/log"


@pytest.mark.parametrize("error", [FunnelError("no model"), TransientError("no model")])
def test_a_line_that_names_its_stage_is_sent_as_it_is(alerts: ModuleType, hook: Webhook, error: FunnelError) -> None:
    from airflow.sdk.exceptions import AirflowException
    from funnel_tasks import fail_in_one_line

    with pytest.raises(AirflowException) as raised, fail_in_one_line("score", "2026-03-01"):
        raise error
    alerts.alert_failure(failed("score", raised.value))
    assert hook.received[0].split(" | ")[0] == "funnel_nightly failed: score 2026-03-01: no model"


def test_a_failed_training_is_one_line_without_a_report(alerts: ModuleType, hook: Webhook) -> None:
    alerts.alert_failure(failed("train", MemoryError("no memory"), dag_id="funnel_training"))
    assert hook.received == ["funnel_training failed: train: no memory | log: https://airflow.example.com/log"]


@pytest.mark.parametrize(("kind", "alerted"), [("scheduled", True), ("backfill", False), ("manual", False)])
def test_only_a_scheduled_night_is_late(alerts: ModuleType, hook: Webhook, kind: str, alerted: bool) -> None:
    run = {"run_type": kind, "data_interval_start": "2026-02-28T16:00:00Z", "state": "queued"}
    alerts.alert_late({"dag_run": run})
    assert len(hook.received) == alerted
    for line in hook.received:
        assert line.startswith("funnel_nightly: scores of 2026-03-01 are late")
        assert " 5 h " in line and line.endswith("queued") and "\n" not in line


@pytest.mark.parametrize(
    ("connection", "address"),
    [
        ("https://hooks.example.com/services/T0/B0", "https://hooks.example.com/services/T0/B0"),
        ("http://hooks.example.com:8080/told", "http://hooks.example.com:8080/told"),
        (
            '{"conn_type": "http", "host": "hooks.example.com", "schema": "https", "password": "s3cret"}',
            "https://hooks.example.com",
        ),
        (
            '{"conn_type": "http", "host": "https://hooks.example.com/services/T0"}',
            "https://hooks.example.com/services/T0",
        ),
    ],
)
def test_a_connection_is_read_as_airflow_keeps_it(
    alerts: ModuleType, monkeypatch: pytest.MonkeyPatch, connection: str, address: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FUNNEL_WEBHOOK", connection)
    found, headers = alerts.resolve_webhook("funnel_webhook")
    assert found == address
    assert headers == ({"Authorization": "Bearer s3cret"} if "s3cret" in connection else {})


def test_a_webhook_that_fails_fails_nothing_and_keeps_its_secret(
    alerts: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FUNNEL_WEBHOOK", "http://127.0.0.1:1/s3cret")
    with caplog.at_level(logging.ERROR, logger="funnel"):
        alerts.send_alert("scores are late", "funnel_webhook")
        alerts.send_alert("scores are late", None)
    assert caplog.messages[0] == caplog.messages[2] == "scores are late"
    assert "connection 'funnel_webhook'" in caplog.messages[1]
    assert "s3cret" not in caplog.text


def test_a_webhook_that_refuses_is_logged_by_its_status_alone(
    alerts: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Webhook(status=403)
    monkeypatch.setenv("AIRFLOW_CONN_FUNNEL_WEBHOOK", f"{hook.address}/s3cret")
    with caplog.at_level(logging.ERROR, logger="funnel"):
        alerts.send_alert("scores are late", "funnel_webhook")
    hook.close()
    assert hook.received == ["scores are late"]
    assert "'funnel_webhook'" in caplog.messages[-1] and caplog.messages[-1].endswith("HTTP 403")
    assert "s3cret" not in caplog.text


def test_a_connection_that_is_not_set_is_one_line(
    alerts: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FunnelError) as error:
        alerts.resolve_webhook("nobody")
    line = str(error.value)
    assert line.startswith("operations.webhook_connection: ") and "\n" not in line
    assert "'nobody'" in line and line.endswith("AIRFLOW_CONN_NOBODY"), "what is missing, and how to add it"
    alerts.send_alert("scores are late", "nobody")
    assert caplog.messages[-1].endswith(line)
