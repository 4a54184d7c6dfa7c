"""What every stage needs: the configuration, the warehouse and Spark, each opened once and only when used."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipeline.config import Settings
    from pipeline.warehouse import Warehouse


@dataclass
class Context:
    """One run of one or more stages.

    Args:
        settings: the configuration.
        run_id: what all records of this run carry.
        notify: takes one line at a time for the person or log that watches.
        is_bulk: whether months of history are to be read, which pays for the time that Spark's JVM takes to optimise
            its code; see `spark.properties`.
    """

    settings: "Settings"
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    notify: Callable[[str], None] = print
    is_bulk: bool = False

    @cached_property
    def warehouse(self) -> "Warehouse":
        from pipeline.warehouse import Warehouse

        return Warehouse.of(self.settings)

    @cached_property
    def spark(self) -> "SparkSession":
        from pipeline.spark import session

        return session(self.settings, is_bulk=self.is_bulk)


@cache
def code_version() -> str:
    """The package's version, with the commit when it runs from a checkout."""
    import subprocess
    from importlib.metadata import version

    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return version("funnelcast")
    commit = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{version('funnelcast')}+{commit.stdout.strip()}" if commit.returncode == 0 else version("funnelcast")
