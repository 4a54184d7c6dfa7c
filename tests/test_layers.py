"""The layers of the tests: each test is in one of them, and none starts what its layer does without."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.support.company import Company
from tests.support.layers import LAYER_FIXTURES, REFUSAL
from tests.support.places import ROOT

MARKS = ("slow", *LAYER_FIXTURES)


def marks_of_targets() -> dict[str, list[str]]:
    """The mark expressions that each target of the Makefile runs, by target."""
    rules = re.findall(
        r"^(test[\w-]*):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    return {target: re.findall(r'-m (?:"([^"]+)"|(\w+))', recipe) for target, recipe in rules}


def selects(expression: tuple[str, str], marks: set[str]) -> bool:
    """Whether pytest runs a test of these marks; its expressions are Python's, too."""
    names = {name: name in marks for name in ("unit", *MARKS)}
    return bool(eval("".join(expression), {}, names))


@pytest.mark.parametrize("chosen", product([False, True], repeat=len(MARKS)), ids=str)
def test_each_test_is_in_one_layer_and_make_test_runs_it_once_unless_it_needs_servers(chosen: tuple[bool, ...]) -> None:
    marks = {mark for mark, is_chosen in zip(MARKS, chosen, strict=True) if is_chosen} or {"unit"}
    targets = marks_of_targets()
    layers = {target for target in targets if target != "test"}
    assert len(layers) == 7
    assert sum(selects(expression, marks) for layer in layers for expression in targets[layer]) == 1
    assert sum(selects(expression, marks) for expression in targets["test"]) == ("services" not in marks)


def test_a_test_that_does_not_ask_for_spark_is_refused_it(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("unit")
    with pytest.raises(AssertionError, match="ask for it"):
        SparkSession.builder.getOrCreate()
    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java"
    ended = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.strip()) == (1, REFUSAL)


@pytest.mark.skipif(sys.modules.get("airflow") is not None, reason="an earlier test has imported Airflow")
def test_a_test_that_does_not_ask_for_airflow_is_refused_it() -> None:
    with pytest.raises(ImportError):
        import airflow  # noqa: F401


def test_a_test_is_marked_by_what_its_fixtures_ask_for(company: Company, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("warehouse") and not request.node.get_closest_marker("unit")
