"""`[warehouse]` of a company whose tables are in another catalog than its own SQLite file."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from tests.support.postgres import Postgres
from tests.support.rest_catalog import RestCatalog


def on_postgres(server: Postgres, folder: Path, uri: str | None = None) -> str:
    """A catalog in a database of its own, its tables below a folder."""
    return in_catalog({"type": "sql", "uri": uri or server.create_database(), "warehouse": f"file://{folder}"})


def on_rest(server: RestCatalog, **changes: str) -> str:
    """The server's catalog, in a namespace of its own."""
    return in_catalog(server.properties(**changes), namespace=f"n{uuid.uuid4().hex[:12]}")


def in_catalog(properties: Mapping[str, str], *, namespace: str = "funnel") -> str:
    """The section of the configuration that names a catalog by PyIceberg's properties."""
    entries = ", ".join(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in properties.items())
    return f'[warehouse]\nnamespace = "{namespace}"\ncatalog = {{ {entries} }}\n'
