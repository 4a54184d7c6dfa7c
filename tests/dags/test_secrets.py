"""Secrets of the configuration in Airflow: not in a DAG's import error, nor in the log of a task that fails."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.support.company import Company

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

SECRET = "Pl4nted"
URL = f"https://me:{SECRET}/with-slash@db.example/x?token={SECRET}0123"


@pytest.mark.parametrize(
    "variable", ["FUNNEL_WAREHOUSE__CATALOG", "FUNNEL_MODELS__TRACKING_URI", "FUNNEL_TRAINING__EPOCHS"]
)
def test_an_import_error_shows_no_secret(
    load_dags: "Callable[[Path], DagBag]", company: Company, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, f'x{URL} {{"token": "{SECRET}-of-the-catalog",')
    errors = load_dags(company.config).import_errors
    assert len(errors) == 3
    for error in errors.values():
        assert variable in error or ".".join(variable.removeprefix("FUNNEL_").lower().split("__")) in error
        assert SECRET not in error


def test_airflow_masks_what_the_configuration_holds(
    import_dag: Callable[..., ModuleType], company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNNEL_WAREHOUSE__CATALOG", '{"type": "rest", "token": "Bur1ed-in-the-catalog"}')
    import_dag(company.config, "funnel_tasks").load_settings()
    from airflow.sdk.log import redact

    assert redact({"error": "ValueError: Bur1ed-in-the-catalog"}) == {"error": "ValueError: ***"}
