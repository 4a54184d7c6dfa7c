"""Airflow for the tests of `dags/`, with its home in a temporary folder, never the user's."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.support.airflow import DAGS, airflow_environment

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag


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
