"""`sql/README.md`: its columns are those of the code, and its code runs as printed."""

import re
from datetime import date
from typing import Any

import pytest

from pipeline.analyst.connection import connect
from pipeline.engines.views import all_views
from pipeline.warehouse.tables import all_tables
from tests.support.company import Company
from tests.support.nights import publish_scores
from tests.support.places import ROOT
from tests.support.sql_page import PAGE, render_page

TEXT = PAGE.read_text(encoding="utf-8")


def test_tables_and_views_are_those_of_the_code() -> None:
    assert render_page(TEXT) == TEXT, "run: python -m tests.support.sql_page"


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "sql" / "views").glob("*.sql")))
def test_a_view_describes_its_columns_and_no_others(name: str, company: Company) -> None:
    docs = all_views(company.settings)[name].column_docs
    with connect(company.settings, name) as connection:
        assert set(docs) == set(connection.sql(f"FROM {name}").columns)
    assert all(doc.endswith(".") for doc in docs.values())


def test_its_code_runs_as_printed(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_scores(company, date(2026, 4, 29), {"ann": 0.25, "bob": 0.5})
    monkeypatch.chdir(company.folder)
    notebook, pyiceberg = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(notebook, names)
    assert not names["bands"].empty
    exec(pyiceberg, names)
    assert sorted(names["newest"]["user_id"].to_pylist()) == ["ann", "bob"]
    table = all_tables(company.settings)["user_scores"]
    assert names["scores"].properties["comment"] == table.about
    assert [field.doc for field in names["scores"].schema().fields] == [column.doc for column in table.columns]
    sql = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)[0]
    with connect(company.settings, sql) as connection:
        assert [row[0] for row in connection.sql(sql).fetchall()] == ["bob", "ann"]
