"""The layers of the tests: which fixtures put a test into one, and what keeps the others out of Java and Airflow."""

import stat
import sys
from pathlib import Path
from tempfile import gettempdir
from typing import NoReturn

import pytest

LAYER_FIXTURES = {
    "warehouse": frozenset({"warehouse", "make_company"}),
    "spark": frozenset({"spark", "spark_in"}),
    "airflow": frozenset({"airflow_home"}),
    "browser": frozenset({"browser", "airflow"}),
    "services": frozenset({"postgres", "object_store", "rest_catalog", "mlflow_server", "redis", "spark_cluster"}),
}
"""By mark: the fixtures of which a test with that mark asks for one, directly or through others."""
REFUSAL = "a test without the fixture `spark` starts Spark: ask for it, which puts the test into the layer `spark`"


def refuse_java(patch: pytest.MonkeyPatch) -> None:
    """Let no Spark start, here or in a process that the test starts."""
    patch.setenv("JAVA_HOME", str(_home_of_java_that_refuses()))
    # A JVM that an earlier test has started would do without JAVA_HOME. Without PySpark there is none.
    if "pyspark.sql" in sys.modules:
        from pyspark.sql import SparkSession

        patch.setattr(SparkSession.Builder, "getOrCreate", _refuse)


def refuse_airflow(patch: pytest.MonkeyPatch) -> None:
    """Let nobody import Airflow, unless an earlier test has."""
    if "airflow" not in sys.modules:
        patch.setitem(sys.modules, "airflow", None)


def _refuse(*_: object) -> NoReturn:
    raise AssertionError(REFUSAL)


def _home_of_java_that_refuses() -> Path:
    home = Path(gettempdir()) / "funnelcast-tests-without-java"
    java = home / "bin" / "java"
    if not java.exists():
        java.parent.mkdir(parents=True, exist_ok=True)
        java.write_text(f"#!/bin/sh\necho '{REFUSAL}' >&2\nexit 1\n", encoding="utf-8")
        java.chmod(java.stat().st_mode | stat.S_IEXEC)
    return home
