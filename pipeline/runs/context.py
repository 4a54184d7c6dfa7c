"""What every stage needs: configuration, warehouse, model registry and Spark, each opened once, on first use."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.text import show

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from pipeline.config.settings import Settings
    from pipeline.models.registry import Registry
    from pipeline.warehouse.warehouse import Warehouse

MANY_USERS = 500_000
"""A night of more users lets Spark's JVM optimise its code; a smaller one ends before that pays.

`tests/benchmarks/results/night.md` has nights of both sizes.
"""


@dataclass
class Context:
    """One run of one or more stages.

    Args:
        settings: the configuration.
        run_id: carried by all records of this run.
        notify: takes one line at a time, for a person or a log.
        is_bulk: whether months of history are read, which makes it worth letting Spark's JVM optimise its code, as it
            is for a night of more than `MANY_USERS`; see `spark.properties`.
    """

    settings: "Settings"
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    notify: Callable[[str], None] = print
    is_bulk: bool = False

    def __post_init__(self) -> None:
        # Whatever the line quotes of the data, it stays one line and does nothing to the terminal.
        given = self.notify
        self.notify = lambda line: given(show(line))

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
        """Whether any state in `known_users` has more than `MANY_USERS`; before the first night, none has."""
        states = self.warehouse.row_counts("known_users", first=date.min, last=date.max)
        return max(states.values(), default=0) > MANY_USERS


@cache
def code_version() -> str:
    """The package's version, and the commit when run from a checkout."""
    import subprocess
    from importlib.metadata import version

    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return version("funnelcast")
    commit = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"{version('funnelcast')}+{commit.stdout.strip()}" if commit.returncode == 0 else version("funnelcast")
