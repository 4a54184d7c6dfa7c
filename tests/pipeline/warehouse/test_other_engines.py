"""Other programs find the tables by the lines of the page, before and after a company is moved."""

import re
from datetime import date
from pathlib import Path

import pytest

from pipeline.config.settings import load
from pipeline.relocation.company import relocate
from pipeline.warehouse.local_catalog import CATALOG, DATABASE
from tests.support.company import Company
from tests.support.nights import publish_scores
from tests.support.places import ROOT

NIGHT = date(2026, 4, 29)


def lines_of_the_page() -> list[str]:
    """The blocks of code under the page's heading: for PyIceberg, for DuckDB and for Spark."""
    text = (ROOT / "sql" / "README.md").read_text(encoding="utf-8")
    section = text.split("## In other engines\n")[1].split("\n## ")[0]
    return re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_pyiceberg_reads_the_tables_by_the_lines_of_the_page(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_scores(company, NIGHT, {"ann": 0.25, "bob": 0.5})
    publish_scores(company, date(2026, 4, 28), {"cem": 0.75})
    for move in (False, True):
        folder = company.folder.rename(company.folder.with_name("moved company")) if move else company.folder
        if move:
            relocate(load(folder / "funnel.toml"))
        monkeypatch.chdir(folder)
        found: dict[str, object] = {}
        exec(lines_of_the_page()[0], found)
        rows = found["newest"].to_pylist()  # type: ignore[attr-defined]
        assert sorted((row["user_id"], row["p_click"]) for row in rows) == [("ann", 0.25), ("bob", 0.5)]


def test_the_lines_name_the_catalog_and_its_file() -> None:
    python, duckdb, spark = lines_of_the_page()
    assert f'"{CATALOG}"' in python and f"spark.sql.catalog.{CATALOG} " in spark
    assert all(f"{Path('warehouse') / DATABASE}" in lines for lines in (python, duckdb, spark))
