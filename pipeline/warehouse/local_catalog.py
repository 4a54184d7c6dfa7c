"""The default catalog, opened read-only: its SQLite file and the tables' metadata; nothing is written or created.

PyIceberg's own SQL catalog imports SQLAlchemy's object mapper, and its file access imports PyArrow's data sets and with
them pandas. Without these two, importing PyIceberg takes about half the processor time. What `funnel sql` takes in all
is in `tests/benchmarks/results/start_up.md`.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.typedef import Identifier

from pipeline.warehouse.places import as_path

CATALOG = "funnelcast"
"""The name under which PyIceberg keeps the tables in the catalog's file; by another name the same file looks empty."""
DATABASE = "catalog.db"
ENTRIES = """
SELECT table_namespace, table_name, metadata_location FROM iceberg_tables WHERE catalog_name = ? ORDER BY 1, 2
"""


@dataclass(frozen=True)
class Entry:
    """A table as the catalog has it: its namespace, its name and the address of its current metadata file."""

    namespace: str
    name: str
    metadata: str

    @property
    def location(self) -> str:
        """The table's folder, that of its metadata being `metadata` in it."""
        return self.metadata.rsplit("/", 2)[0]


def read_entries(database: Path) -> list[Entry]:
    """The tables of a SQLite catalog; none if there is no such file, or nothing in it.

    Raises:
        sqlite3.Error, OSError: the catalog cannot be read.
    """
    try:
        if database.stat().st_size == 0:
            return []
    except FileNotFoundError:
        return []
    # Not `ro`: SQLite could not roll back what a killed writer left half done.
    uri = f"file:{quote(str(database))}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        try:
            return [Entry(*row) for row in connection.execute(ENTRIES, (CATALOG,))]
        except sqlite3.OperationalError as error:
            # PyIceberg has created the file, and not yet its tables; or somebody emptied it.
            if "no such table" in str(error):
                return []
            raise


class LocalReader(NoopCatalog):
    """Loads the tables of a PyIceberg catalog in a SQLite file, with local data; supports nothing else."""

    def __init__(self, database: Path) -> None:
        super().__init__(CATALOG)
        self._database = database

    def load_table(self, identifier: str | Identifier) -> Table:
        """The table as its last commit left it.

        Raises:
            NoSuchTableError: the table, or the catalog itself, does not exist yet.
            sqlite3.Error, NotADirectoryError, PermissionError: the catalog cannot be read.
            FileNotFoundError, ValidationError: its metadata is missing or damaged.
        """
        namespace, name = self.identifier_to_tuple(identifier)
        location = self._metadata_location(namespace, name)
        files = LocalFiles()
        metadata = FromInputFile.table_metadata(files.new_input(location))
        return Table((namespace, name), metadata, location, files, self)

    def _metadata_location(self, namespace: str, name: str) -> str:
        for entry in read_entries(self._database):
            if (entry.namespace, entry.name) == (namespace, name):
                return entry.metadata
        raise NoSuchTableError(f"no table {namespace}.{name} in {self._database}")


class LocalFiles(FileIO):
    """Opens metadata files with plain Python."""

    def __init__(self, properties: Mapping[str, str] | None = None) -> None:
        super().__init__(dict(properties or {}))

    def new_input(self, location: str) -> InputFile:
        return _LocalFile(location)

    def new_output(self, location: str) -> OutputFile:
        raise NotImplementedError(f"opened read-only: {location}")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        raise NotImplementedError(f"opened read-only: {location}")


class _LocalFile(InputFile):
    @property
    def _path(self) -> Path:
        path = as_path(self.location)
        if path is None:
            raise NotImplementedError(f"not a local file: {self.location}")
        return path

    def __len__(self) -> int:
        return self._path.stat().st_size

    def exists(self) -> bool:
        return self._path.exists()

    def open(self, seekable: bool = True) -> BinaryIO:
        return self._path.open("rb")
