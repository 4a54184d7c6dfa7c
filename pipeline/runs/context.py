"""What every stage needs: configuration, warehouse, model registry and Spark, each opened once and only when used."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipeline.config.settings import Settings
    from pipeline.models.registry import Registry
    from pipeline.warehouse.warehouse import Warehouse

MANY_USERS = 500_000
"""Of a company with more, a night is worth optimising, too. Without and with it, 100,000 users took 60 and 92 s of the
processors' time, a million 194 and 190 s, and 128 and 116 s from start to end."""


@dataclass
class Context:
    """One run of one or more stages.

    Args:
        settings: the configuration.
        run_id: what all records of this run carry.
        notify: takes one line at a time for the person or log that watches.
        is_bulk: whether months of history are to be read, which pays for the time that Spark's JVM takes to optimise
            its code, as the night of a company of `MANY_USERS` does; see `spark.properties`.
    """

    settings: "Settings"
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    notify: Callable[[str], None] = print
    is_bulk: bool = False

    @cached_property
    def warehouse(self) -> "Warehouse":
        from pipeline.warehouse.warehouse import Warehouse

        return Warehouse.of(self.settings)

    @cached_property
    def registry(self) -> "Registry":
        from pipeline.models.registry import Registry

        return Registry(self.settings)

    @cached_property
    def spark(self) -> "SparkSession":
        from pipeline.engines.spark import open_session

        return open_session(self.settings, is_bulk=self.is_bulk or self._has_many_users())

    def _has_many_users(self) -> bool:
        """By the states of `known_users` at hand; a company's first night has none."""
        known = self.warehouse.row_counts("known_users", first=date.min, last=date.max)
        return max(known.values(), default=0) > MANY_USERS


@cache
def code_version() -> str:
    """The package's version, with the commit when it runs from a checkout."""
    import subprocess
    from importlib.metadata import version

    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return version("funnelcast")
    commit = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{version('funnelcast')}+{commit.stdout.strip()}" if commit.returncode == 0 else version("funnelcast")
