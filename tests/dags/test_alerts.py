"""Who is told of a failure and of late scores: one line, in the log and at the webhook, never its address."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import FunnelError
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
    ("error", "said"),
    [
        (FunnelError("score 2026-03-01: no model"), "score 2026-03-01: no model"),
        (KeyError("age"), "score 2026-03-01: 'age'"),
        (None, "score 2026-03-01: no cause is known; see the log"),
    ],
)
def test_a_failed_night_is_told_in_one_line_with_stage_date_cause_report_and_log(
    alerts: ModuleType, hook: Webhook, error: Exception | None, said: str
) -> None:
    alerts.tell_failure(failed("score", error))
    assert hook.told == [
        f"funnel_nightly failed: {said} | report: https://airflow.example.com/funnelcast/reports/2026-03-01 "
        "| log: https://airflow.example.com/log"
    ]


def test_a_failed_training_is_told_without_a_report(alerts: ModuleType, hook: Webhook) -> None:
    alerts.tell_failure(failed("train", MemoryError("no memory"), dag_id="funnel_training"))
    assert hook.told == ["funnel_training failed: train: no memory | log: https://airflow.example.com/log"]


@pytest.mark.parametrize(("kind", "told"), [("scheduled", 1), ("backfill", 0), ("manual", 0)])
def test_only_a_scheduled_night_is_late(alerts: ModuleType, hook: Webhook, kind: str, told: int) -> None:
    run = {"run_type": kind, "data_interval_start": "2026-02-28T16:00:00Z", "state": "running"}
    alerts.tell_late({"dag_run": run})
    line = "funnel_nightly: scores of 2026-03-01 are late: not there 5 h after the night's end, the run is running"
    assert hook.told == [line] * told


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
    found, headers = alerts.webhook("funnel_webhook")
    assert found == address
    assert headers == ({"Authorization": "Bearer s3cret"} if "s3cret" in connection else {})


def test_a_webhook_that_fails_fails_nothing_and_keeps_its_secret(
    alerts: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FUNNEL_WEBHOOK", "http://127.0.0.1:1/s3cret")
    with caplog.at_level(logging.ERROR, logger="funnel"):
        alerts.tell("scores are late", "funnel_webhook")
        alerts.tell("scores are late", None)
    assert caplog.messages[0] == caplog.messages[2] == "scores are late"
    assert caplog.messages[1].startswith("the webhook of connection 'funnel_webhook' was not told: ")
    assert "s3cret" not in caplog.text


def test_a_connection_that_is_not_set_is_one_line(
    alerts: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = "operations.webhook_connection: Airflow has no connection 'nobody': add it under Admin, Connections, or set "
    with pytest.raises(FunnelError) as error:
        alerts.webhook("nobody")
    assert str(error.value) == line + "AIRFLOW_CONN_NOBODY"
    alerts.tell("scores are late", "nobody")
    assert caplog.messages[-1] == f"the webhook of connection 'nobody' was not told: {line}AIRFLOW_CONN_NOBODY"
