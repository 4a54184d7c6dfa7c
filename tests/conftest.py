"""Shared by all tests: one Spark session, small companies in temporary folders, and the real data where it is."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.support")

from tests.support.company import Company  # noqa: E402
from tests.support.places import SHARED_DATA  # noqa: E402

LONGEST = ("test_airflow", "test_killed", "test_scoring", "test_package")
"""The test files that take the most minutes."""

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker's main module has no file, which PySpark takes for a run of its own doctests, and exits.
    sys.modules["__main__"].__file__ = pytest.__file__


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several workers share the files, those of minutes begin first: the last ones run side by side too."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


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
