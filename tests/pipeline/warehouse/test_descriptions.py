"""The catalog has the descriptions of tables and columns from the code, for tables made by older code too."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table as IcebergTable

from pipeline.config.settings import load
from pipeline.warehouse.schema import Table
from pipeline.warehouse.tables import all_tables
from pipeline.warehouse.warehouse import Warehouse
from tests.support.company import Company
from tests.support.places import ROOT

LONGEST_DOC = 255
"""Characters that Glue takes as a column's comment; Hive takes one more."""


def in_catalog(company: Company, name: str) -> IcebergTable:
    """The table as any other program finds it."""
    folder = company.folder / "warehouse"
    catalog = load_catalog("funnelcast", type="sql", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    return catalog.load_table(("funnel", name))


def docs_of(table: IcebergTable) -> dict[str, str | None]:
    return {field.name: field.doc for field in table.schema().fields}


def undescribed(table: Table) -> Table:
    return replace(table, about="", columns=tuple(replace(column, doc="") for column in table.columns))


def older(company: Company, names: tuple[str, ...], change: Callable[[Table], Table] = undescribed) -> Warehouse:
    """A warehouse in which these tables were made by an older version of the code."""
    wanted = {name: change(table) for name, table in all_tables(company.settings).items()}
    warehouse = Warehouse(location=str(company.folder / "warehouse"), catalog={}, namespace="funnel", tables=wanted)
    for name in names:
        warehouse.staging(name)
    return warehouse


@pytest.mark.parametrize("config", ["pipeline/demo.toml", "tests/configs/bpi2012.toml"])
def test_every_table_and_column_is_described(config: str) -> None:
    for table in all_tables(load(ROOT / config)).values():
        for what, text in ((table.name, table.about), *((column.name, column.doc) for column in table.columns)):
            assert text.endswith((".", "…")) and text[0] != " " and len(text) <= LONGEST_DOC, f"{table.name}: {what}"


def test_the_catalog_shows_the_descriptions(company: Company) -> None:
    warehouse = company.context().warehouse
    for name, table in warehouse.tables.items():
        warehouse.staging(name)
        found = in_catalog(company, name)
        assert found.properties["comment"] == table.about
        assert docs_of(found) == {column.name: column.doc for column in table.columns}


def test_the_next_write_describes_an_older_table_in_one_commit(company: Company) -> None:
    older(company, ("users",))
    before = in_catalog(company, "users")
    warehouse = company.context().warehouse
    wanted = warehouse.tables["users"]
    assert docs_of(before) == dict.fromkeys(wanted.schema.names)
    warehouse.staging("users")
    after = in_catalog(company, "users")
    assert docs_of(after) == {column.name: column.doc for column in wanted.columns}
    assert after.properties["comment"] == wanted.about
    assert len(after.metadata.metadata_log) == len(before.metadata.metadata_log) + 1
    assert [field.field_id for field in after.schema().fields] == [field.field_id for field in before.schema().fields]
    warehouse.staging("users")
    assert in_catalog(company, "users").metadata_location == after.metadata_location, "nothing was left to write"


def test_new_columns_and_their_docs_come_in_one_commit(company: Company) -> None:
    older(company, ("users",), lambda table: replace(undescribed(table), columns=table.columns[-2:]))
    before = in_catalog(company, "users")
    company.context().warehouse.staging("users")
    after = in_catalog(company, "users")
    assert docs_of(after) == {column.name: column.doc for column in all_tables(company.settings)["users"].columns}
    assert len(after.metadata.metadata_log) == len(before.metadata.metadata_log) + 1


def test_a_reader_writes_nothing(company: Company) -> None:
    older(company, ("users",))
    before = in_catalog(company, "users").metadata_location
    reader = Warehouse.of(company.settings, read_only=True)
    reader.pin("users")
    reader.states()
    company.context().warehouse.pin("users")
    assert in_catalog(company, "users").metadata_location == before


def test_readers_compare_schemas_without_descriptions(company: Company) -> None:
    for table in all_tables(company.settings).values():
        assert table.schema.equals(undescribed(table).schema, check_metadata=True)
        assert table.schema == table.described_schema and table.partition == table.schema.names[-1]
