"""Airflow for the tests of `dags/`, with its home in a temporary folder, never the user's."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.support.places import ROOT

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

DAGS = ROOT / "dags"


def airflow_environment(home: Path) -> dict[str, str]:
    """The variables that keep Airflow in `home` and load only our DAGs."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(DAGS / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The minimal environment of a process that runs Airflow, free of the user's settings."""
    kept = {name: os.environ[name] for name in ("PATH", "JAVA_HOME", "LANG") if name in os.environ}
    ours = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return kept | ours | airflow_environment(home) | more


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set Airflow's home. Airflow reads it when first imported, so tests import Airflow after requesting this."""
    home = tmp_path_factory.mktemp("airflow")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in airflow_environment(home).items():
            patch.setenv(name, value)
        # As Airflow does: DAG files import shared code from their folder.
        patch.syspath_prepend(str(DAGS))
        yield home


@pytest.fixture
def load_dags(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> "Callable[[Path], DagBag]":
    """Load every DAG for a configuration, as Airflow does."""
    from airflow.dag_processing.dagbag import DagBag

    def load(config: Path) -> DagBag:
        monkeypatch.setenv("FUNNEL_CONFIG", str(config))
        return DagBag(DAGS)

    return load


@pytest.fixture
def import_dag(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Import a file of `dags/` as a module, for a configuration."""

    def load(config: Path, name: str = "nightly") -> ModuleType:
        monkeypatch.setenv("FUNNEL_CONFIG", str(config))
        spec = importlib.util.spec_from_file_location(name, DAGS / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
