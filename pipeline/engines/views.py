"""The analysts' views, `sql/views/*.sql`: each runs on DuckDB and on Spark SQL, over tables and other views."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

from pipeline.config.settings import Settings
from pipeline.warehouse.tables import all_tables

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FOLDER = "views"


@dataclass(frozen=True)
class View:
    """A view of one funnel; its columns follow `funnel.stages`."""

    name: str
    settings: Settings

    @cached_property
    def sql(self) -> str:
        """Its text, rendered on first use with `stages`, the configuration's, and `event_names`, ours by the source's.

        Raises:
            jinja2.UndefinedError: the file uses another parameter.
        """
        from pipeline.engines.templates import render

        funnel = self.settings.funnel
        return render(f"{FOLDER}/{self.name}", stages=funnel.stages, event_names=funnel.event_names)

    @property
    def about(self) -> str:
        """The first line of its comment: what one row is."""
        return self.sql.splitlines()[0].removeprefix("--").strip()

    @property
    def column_docs(self) -> Mapping[str, str]:
        """The description of each column, by name, from the lines `-- name  description` of its comment.

        `<stage>` stands for each stage in turn; `-- *  table` for the columns of a table and their descriptions.
        """
        docs: dict[str, str] = {}
        for name, text in _described_columns(self.sql):
            if name == "*":
                docs |= {column.name: column.doc for column in all_tables(self.settings)[text].columns}
            elif "<stage>" in name:
                stages = self.settings.funnel.stage_names
                docs |= {name.replace("<stage>", stage): text.replace("<stage>", stage) for stage in stages}
            else:
                docs[name] = text
        return docs

    @property
    def sources(self) -> frozenset[str]:
        """The tables, views and common table expressions that it selects from."""
        code = re.sub(r"--.*", "", self.sql)
        return frozenset(re.findall(r"\b(?:FROM|JOIN)\s+(\w+)", code, re.IGNORECASE))


def _described_columns(sql: str) -> Iterator[tuple[str, str]]:
    """The columns that the comment at the head of a view's file describes; a description may go on below itself."""
    head = re.split(r"^(?!--)", sql, maxsplit=1, flags=re.MULTILINE)[0]
    _, *columns = re.split(r"^-- (?=\S)", head, flags=re.MULTILINE)[1:]
    for column in columns:
        name, text = column.split("  ", 1)
        yield name, " ".join(text.replace("\n--", " ").split())


def all_views(settings: Settings) -> Mapping[str, View]:
    """All views by name."""
    names = (path.name for path in files("sql").joinpath(FOLDER).iterdir())
    views = sorted(name.removesuffix(".sql") for name in names if name.endswith(".sql"))
    return {name: View(name, settings) for name in views}


def with_dependencies(names: Iterable[str], views: Mapping[str, View]) -> Iterator[str]:
    """The named tables and views and all that they read, each once and after its sources."""
    given: set[str] = set()

    def in_order(name: str) -> Iterator[str]:
        if name in given:
            return
        given.add(name)
        for each in sorted(views[name].sources) if name in views else ():
            yield from in_order(each)
        yield name

    for name in names:
        yield from in_order(name)


def create_views(spark: "SparkSession", settings: Settings) -> None:
    """Create temporary views in a Spark session: each table, pinned as it is now, and every analysts' view."""
    from pipeline.engines.spark import read_pinned
    from pipeline.warehouse.warehouse import Warehouse

    warehouse = Warehouse.of(settings)
    for name in warehouse.tables:
        read_pinned(spark, warehouse.pin(name)).createOrReplaceTempView(name)
    views = all_views(settings)
    for name in with_dependencies(views, views):
        if name in views:
            spark.sql(views[name].sql).createOrReplaceTempView(name)
