"""What pytest does with every test, those in docstrings too: its layer, and its place in the order.

A test's layer follows from the fixtures that it asks for, directly or through others: they give it the marks
`warehouse`, `spark`, `airflow`, `browser` and `services`. `slow` is declared. A test with none of these is a `unit`
test. Without the mark, Spark does not start and Airflow is not there.
"""

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.support")

from tests.support.layers import LAYER_FIXTURES, refuse_airflow, refuse_java  # noqa: E402

SECONDS_OF_FILES = Path(__file__).parent / "build" / "test-seconds.json"
"""What each test file took when it last ran; a cache, which may be missing."""

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker's main module has no file, which PySpark takes for a run of its own doctests, and exits.
    sys.modules["__main__"].__file__ = pytest.__file__


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Import a module of the packages for its examples only if it has any."""
    if collection_path.suffix != ".py" or "tests" in collection_path.parts:
        return None
    return None if ">>>" in collection_path.read_text(encoding="utf-8") else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its layer; put the files that take longest first, so that the last ones end together."""
    for item in items:
        for mark, fixtures in LAYER_FIXTURES.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(mark)
        if not any(item.get_closest_marker(mark) for mark in ("slow", *LAYER_FIXTURES)):
            item.add_marker("unit")
    seconds, tests = _seconds_of_files(), Counter(_file_of(item.nodeid) for item in items)

    def place(item: pytest.Item) -> tuple[float, bool, int]:
        """Files that never ran come first: the browser's, then those of few tests, which are the long ones."""
        file = _file_of(item.nodeid)
        return -seconds.get(file, float("inf")), item.get_closest_marker("browser") is None, tests[file]

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("spark") is None:
            refuse_java(patch)
        if item.get_closest_marker("airflow") is None:
            refuse_airflow(patch)
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(SecondsOfFiles())


class SecondsOfFiles:
    """Adds up what each file's tests take, where their reports come together."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[_file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        SECONDS_OF_FILES.parent.mkdir(exist_ok=True)
        SECONDS_OF_FILES.write_text(json.dumps(_seconds_of_files() | self.seconds, indent=1), encoding="utf-8")


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _seconds_of_files() -> dict[str, float]:
    if not SECONDS_OF_FILES.exists():
        return {}
    found: dict[str, float] = json.loads(SECONDS_OF_FILES.read_text(encoding="utf-8"))
    return found
