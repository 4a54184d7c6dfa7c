"""A small company in a temporary folder."""

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.places import ROOT

if TYPE_CHECKING:
    from pipeline.config.settings import Settings
    from pipeline.runs.context import Context

USE_ARCHIVE = f"-XX:SharedArchiveFile={ROOT / 'build' / 'spark.jsa'}"
"""Start from what `tests/spark_archive.py` has kept, where it has."""
JAVA_OPTIONS = f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xlog:disable {USE_ARCHIVE}"
"""For jobs of few rows: nothing that runs once is optimised, and one thread collects what little garbage there is."""

# A third of a job of few rows is the compiling of code that runs once, so expressions are interpreted here. The demo's
# tests run compiled, as a customer's night does.
SMALL_SPARK = f"""
[spark]
conf."spark.sql.shuffle.partitions" = "2"
conf."spark.default.parallelism" = "2"
conf."spark.sql.codegen.wholeStage" = "false"
conf."spark.sql.codegen.factoryMode" = "NO_CODEGEN"
conf."spark.driver.extraJavaOptions" = "{JAVA_OPTIONS}"
"""

FUNNEL = """
[funnel]
timezone = "{timezone}"
exposure = "sms_sent"
attribution = "{attribution}"
stages = [
  {{ name = "click",    event = "sms_click",            window_days = 3 }},
  {{ name = "register", event = "register",             window_days = 7 }},
  {{ name = "complete", event = "complete_application", window_days = 14 }},
]
[source.events]
path = "source/events/{{ds}}"
columns = {{ event_id = "id", user_id = "uid", event = "type", event_time = "ts", campaign_id = "campaign" }}
context = {{ offer = "offer" }}
[source.users]
path = "source/users/{{ds}}"
columns = {{ user_id = "uid", consent = "sms_consent" }}
[features]
windows_days = [1, 7, 30]
categorical = ["city_tier"]
numeric = ["age"]
context = ["offer", "hour"]
"""
"""The funnel of the tests; its source is Parquet by landing day, as `Company.land` writes it."""

EVENT_COLUMNS = ("id", "uid", "type", "ts", "campaign", "offer")
USER_SCHEMA = pa.schema(
    [("uid", pa.string()), ("sms_consent", pa.bool_()), ("city_tier", pa.string()), ("age", pa.float64())]
)


class Company:
    """A company in a temporary folder: its configuration, its source, and a context to run stages with."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.config = folder / "funnel.toml"
        self.config.write_text(text, encoding="utf-8")
        self.lines: list[str] = []

    @classmethod
    def make(
        cls,
        folder: Path,
        extra: str = "",
        *,
        replace: Mapping[str, str] | None = None,
        timezone: str = "Asia/Shanghai",
        attribution: str = "last_touch",
    ) -> "Company":
        """A company with the funnel of the tests; `extra` is appended to its text, `replace` changes pieces of it."""
        text = FUNNEL.format(timezone=timezone, attribution=attribution) + SMALL_SPARK + extra
        for old, new in (replace or {}).items():
            assert old in text, f"the tests' funnel has no {old!r}"
            text = text.replace(old, new)
        return cls(folder, text)

    @property
    def settings(self) -> "Settings":
        # Imported late: the tests of model/ also run where there is neither Spark nor Iceberg.
        from pipeline.config.settings import load

        return load(self.config)

    def context(self, **changes: Any) -> "Context":
        """A fresh run; what it would print is appended to `lines`."""
        from pipeline.runs.context import Context

        return Context(self.settings, notify=self.lines.append, **changes)

    def land(
        self,
        day: date,
        events: Iterable[Mapping[str, str | None]] = (),
        users: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Write one landing day of the source. Missing event columns are null; missing user columns too."""
        columns = pa.schema([(name, pa.string()) for name in EVENT_COLUMNS])
        self.write("events", day, pa.Table.from_pylist([dict(event) for event in events], schema=columns))
        self.write("users", day, pa.Table.from_pylist([dict(user) for user in users], schema=USER_SCHEMA))

    def write(self, kind: str, day: date, table: pa.Table) -> None:
        folder = self.folder / "source" / kind / day.isoformat()
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "part-0.parquet")

    def rows(self, name: str, *, without: Iterable[str] = ()) -> list[dict[str, Any]]:
        """All rows of a warehouse table, sorted, minus some columns."""
        table = self.context().warehouse.arrow(name, first=date.min, last=date.max)
        kept = [column for column in table.column_names if column not in set(without)]
        return sorted(table.select(kept).to_pylist(), key=repr)
