"""The environment of an Airflow with a home of its own."""

import os
from pathlib import Path

from tests.support.places import ROOT

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
