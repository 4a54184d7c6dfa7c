"""The default catalog, opened read-only: its SQLite file and the tables' metadata; nothing is written or created.

PyIceberg's own SQL catalog imports SQLAlchemy's object mapper, and its file access imports PyArrow's data sets and with
them pandas. Without these two, importing PyIceberg takes about half the processor time. What `funnel sql` takes in all
is in `tests/benchmarks/results/start_up.md`.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO, InputFile, OutputFile
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table
from pyiceberg.typedef import Identifier

_CURRENT_METADATA = """
SELECT metadata_location FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?
"""


class LocalReader(NoopCatalog):
    """Loads the tables of a PyIceberg catalog in a SQLite file, with local data; supports nothing else."""

    def __init__(self, name: str, database: Path) -> None:
        super().__init__(name)
        self._database = database

    def load_table(self, identifier: str | Identifier) -> Table:
        """The table as its last commit left it.

        Raises:
            NoSuchTableError: the table, or the catalog itself, does not exist yet.
            sqlite3.Error, NotADirectoryError, PermissionError: the catalog cannot be read.
        """
        namespace, name = self.identifier_to_tuple(identifier)
        location = self._metadata_location(namespace, name)
        files = LocalFiles()
        metadata = FromInputFile.table_metadata(files.new_input(location))
        return Table((namespace, name), metadata, location, files, self)

    def _metadata_location(self, namespace: str, name: str) -> str:
        try:
            self._database.stat()
        except FileNotFoundError:
            raise NoSuchTableError(f"no catalog at {self._database}") from None
        # Not `ro`: SQLite could not roll back what a killed writer left half done.
        uri = f"file:{quote(str(self._database))}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as database:
            found = database.execute(_CURRENT_METADATA, (self.name, namespace, name)).fetchone()
        if found is None:
            raise NoSuchTableError(f"no table {namespace}.{name}")
        return str(found[0])


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
        # Locations are not URI-escaped: what follows the scheme is the path.
        return Path(self.location.removeprefix("file://"))

    def __len__(self) -> int:
        return self._path.stat().st_size

    def exists(self) -> bool:
        return self._path.exists()

    def open(self, seekable: bool = True) -> BinaryIO:
        return self._path.open("rb")
