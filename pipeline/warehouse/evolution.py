"""Makes an Iceberg table as the configuration wants it, and brings an existing one up to date: columns and docs."""

from contextlib import suppress

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import TableAlreadyExistsError
from pyiceberg.table import Table as IcebergTable
from pyiceberg.typedef import Identifier
from pyiceberg.types import StringType

from pipeline.errors import FunnelError
from pipeline.warehouse.schema import Table

COMMENT = "comment"
"""The table property that catalogs show as a table's description."""
PROPERTIES = {
    # Each commit adds a manifest and readers open every one, so a commit that finds ten merges them.
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "10",
    # Each commit rewrites the table's metadata file; those more than a hundred commits old are deleted.
    "write.metadata.delete-after-commit.enabled": "true",
    # After a lost race everything is read again: `retry_lost_races` does that, PyIceberg's own retry would not.
    "commit.retry.num-retries": "0",
}
"""Properties of every table."""


def create_table(catalog: Catalog, identifier: Identifier, wanted: Table) -> IcebergTable:
    """Create the table, or load the one that another process has created meanwhile."""
    with (
        suppress(TableAlreadyExistsError),
        catalog.create_table_transaction(
            identifier, schema=wanted.described_schema, properties=PROPERTIES | {COMMENT: wanted.about}
        ) as creation,
        creation.update_spec() as spec,
    ):
        spec.add_identity(wanted.partition)
    return catalog.load_table(identifier)


def update_table(table: IcebergTable, wanted: Table) -> None:
    """Add the columns that the table lacks and correct the docs that differ, in at most one commit of metadata.

    Raises:
        FunnelError: an attribute has changed between text and number.
        CommitFailedException: another writer committed meanwhile.
    """
    _require_same_kinds(table, wanted)
    docs = {field.name: field.doc for field in table.schema().fields}
    has_new_schema = any(docs.get(column.name) != column.doc for column in wanted.columns)
    has_new_comment = table.properties.get(COMMENT) != wanted.about
    if not (has_new_schema or has_new_comment):
        return
    with table.transaction() as transaction:
        if has_new_schema:
            with transaction.update_schema() as change:
                change.union_by_name(wanted.described_schema)
        if has_new_comment:
            transaction.set_properties({COMMENT: wanted.about})


def _require_same_kinds(table: IcebergTable, wanted: Table) -> None:
    present = {field.name: field.field_type for field in table.schema().fields}
    for column in wanted.columns:
        kind = present.get(column.name)
        # Of all that a configuration names, only an attribute can change its type: text or number.
        if kind is not None and pa.types.is_string(column.type) != isinstance(kind, StringType):
            raise FunnelError(
                f"table {wanted.name!r} has {column.name} as {kind}, the configuration makes it {column.type}: "
                "give the attribute of the new type another name"
            )
