"""Opens a warehouse's catalog, and tells whether the tables in it are this warehouse's own.

Iceberg keeps absolute paths. A catalog that was copied or moved with its folder still names the files of the place it
came from: what is written through it lands there, and what it does not know of there looks like an orphan. Such a
catalog is refused, for reading as well, since a reader would see the other company.
"""

import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, NoSuchTableError, NotInstalledError, ValidationError
from pyiceberg.table import Table

from pipeline.errors import FunnelError, TransientError
from pipeline.warehouse.damage import Damage, describe, has_rows, read_metadata
from pipeline.warehouse.failures import CREDENTIALS, UnreachableError, is_away, is_busy, is_of_catalog, reason_of
from pipeline.warehouse.local_catalog import CATALOG, DATABASE, Entry, LocalReader, read_entries
from pipeline.warehouse.moved import moved_to
from pipeline.warehouse.places import as_path, is_same_place
from pipeline.warehouse.retries import LOCK_SECONDS, retry_lost_races

CONNECT_SECONDS = 10
"""How long a Postgres may take to accept a connection, unless the catalog's address has its own connect_timeout."""


class OwnCatalog:
    """The catalog of one warehouse, for the tables of one funnel; whatever is not this warehouse's own is refused.

    Args:
        location: local path of the default SQLite catalog and its files.
        properties: PyIceberg properties of another catalog; empty for the default.
        namespace: the Iceberg namespace of the tables.
        tables: their names.
        read_only: do not open what writes; makes the default catalog open much faster.

    Raises:
        FunnelError: it cannot be opened; or a table in it lies elsewhere, or has files and is not in it.
    """

    def __init__(
        self, location: str, properties: Mapping[str, str], namespace: str, tables: Iterable[str], *, read_only: bool
    ) -> None:
        self._location, self._namespace = location, namespace
        self._place = place_of(location, properties)
        self._database = None if properties else Path(location) / DATABASE
        self._root = root_of(location) if self._database else None
        if properties.get("type") == "sql":
            # Of a catalog that is no more than a database; a server decides by itself where its tables lie.
            self._root = properties.get("warehouse")
        listed = read_own_entries(self._database) if self._database else ()
        for entry in listed:
            require_own(entry.location, f"{root_of(location)}/{entry.namespace}/{entry.name}")
        self.iceberg: Catalog
        if self._database and read_only:
            self.iceberg = LocalReader(self._database)
            return
        if self._database:
            # Before the catalog is opened, which would create it.
            for name in set(tables) - {entry.name for entry in listed if entry.namespace == namespace}:
                self._require_unmade(name)
        self.iceberg = open_catalog(location, properties, namespace)

    def require_writable(self) -> None:
        """Check that the default catalog and its folder can be written; another catalog decides by itself.

        Raises:
            FunnelError: they cannot.
        """
        for path in (Path(self._location), self._database) if self._database else ():
            if path.exists() and not os.access(path, os.W_OK):
                raise FunnelError(
                    f"the warehouse at {self._location} cannot be written: {path} is read-only for this user, or on a "
                    "file system that is; mount or own it writable, or set another [warehouse] path"
                )

    def load(self, name: str) -> Table | None:
        """The table as it is now; None if it was never made.

        Raises:
            FunnelError: its metadata is missing or damaged, it lies elsewhere, or it has files and is not in here.
        """
        try:
            table = self.iceberg.load_table((self._namespace, name))
        except NoSuchTableError:
            self._require_unmade(name)
            return None
        except (sqlite3.Error, NotADirectoryError, PermissionError) as error:
            raise cannot_be_opened(self._location, error) from None
        except (FileNotFoundError, ValidationError, ValueError) as error:
            raise self._explain_metadata(name) or error from None
        except Exception as error:
            if self._database or is_busy(error) or not is_of_catalog(error):
                raise
            raise cannot_be_opened(self._place, error) from error
        self._require_own(name, table.location())
        return table

    def _require_own(self, name: str, location: str) -> None:
        if self._database:
            require_own(location, f"{self._root}/{self._namespace}/{name}")
        elif self._root:
            require_inside(name, location, self._root)

    def _require_unmade(self, name: str) -> None:
        """Check that a table which is not in the catalog has no rows in files: it would be made anew over them."""
        folder = as_path(f"{self._root}/{self._namespace}/{name}") if self._root else None
        committed = has_rows(folder) if folder else None
        # Another process may have made it meanwhile.
        if committed and not self._is_listed(name):
            if place := moved_to(Path(self._location)):
                raise FunnelError(
                    f"the warehouse at {self._location} was moved to {place}: use the configuration there"
                )
            raise FunnelError(
                f"the catalog of the warehouse at {self._location} has no table {name!r}, but {folder} has its files, "
                f"last committed {committed:%Y-%m-%d %H:%M} UTC: `funnel warehouse recover` puts it back; to start "
                "anew, move that folder away"
            )

    def _is_listed(self, name: str) -> bool:
        if self._database is None:
            return self.iceberg.table_exists((self._namespace, name))
        return any((each.namespace, each.name) == (self._namespace, name) for each in read_own_entries(self._database))

    def _explain_metadata(self, name: str) -> FunnelError | None:
        """The error of a table whose metadata is missing or damaged, or lies in the place it was moved from."""
        for entry in read_own_entries(self._database) if self._database else ():
            if (entry.namespace, entry.name) == (self._namespace, name):
                self._require_own(name, entry.location)
                reason = read_metadata(entry.metadata)
                if isinstance(reason, str):
                    return FunnelError(describe(name, Damage("metadata file", entry.metadata, reason)))
        return None


def open_catalog(location: str, properties: Mapping[str, str], namespace: str) -> Catalog:
    """Open the catalog for writing; the default one, in SQLite, is created if there is none.

    Raises:
        FunnelError: it cannot be opened.
    """
    from pyiceberg.exceptions import RESTError
    from sqlalchemy.exc import SQLAlchemyError

    # Swapping into an empty range is normal here, and PyIceberg warns of it every time.
    warnings.filterwarnings("ignore", message="Delete operation did not match any records")
    try:
        if properties:
            opened = with_defaults(properties)
            return _with_namespace(lambda: load_catalog(CATALOG, **opened), namespace)
        # Imported late: it imports SQLAlchemy's object mapper.
        from pipeline.warehouse.copies import CopiedCatalog

        Path(location).mkdir(parents=True, exist_ok=True)
        database, properties = Path(location) / DATABASE, local_properties(location)
        return _with_namespace(lambda: CopiedCatalog(CATALOG, database, **properties), namespace)
    except (OSError, SQLAlchemyError, RESTError, ValueError, NotInstalledError, ModuleNotFoundError) as error:
        raise cannot_be_opened(place_of(location, properties), error) from None


def with_defaults(properties: Mapping[str, str]) -> dict[str, str]:
    """A catalog's properties, and for SQL on a server: connections are tried before they are used.

    Between two uses lie hours of Spark, in which a server restarts or a firewall forgets a connection.
    """
    from sqlalchemy import make_url

    uri = properties.get("uri", "")
    if not re.match("(postgresql|mysql)", uri):
        return dict(properties)
    url = make_url(uri)
    if url.drivername == "postgresql":
        # SQLAlchemy would take psycopg, which the extra does not bring.
        url = url.set(drivername="postgresql+psycopg2")
    if url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        # libpq waits minutes for a host that swallows what it is sent.
        url = url.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
    return {"pool_pre_ping": "true"} | dict(properties) | {"uri": url.render_as_string(hide_password=False)}


def place_of(location: str, properties: Mapping[str, str]) -> str:
    """Where a catalog is, for a message: its folder, or the address of its server."""
    place = properties.get("uri", location)
    return location if "sqlite" in place else place


def local_properties(location: str) -> dict[str, str]:
    """PyIceberg's properties of the default catalog of a folder."""
    return {
        "type": "sql",
        "uri": f"sqlite:///{quote(location)}/{DATABASE}?timeout={LOCK_SECONDS}",
        "warehouse": root_of(location),
    }


def root_of(location: str) -> str:
    """A warehouse's folder as its tables' locations begin.

    Raises:
        FunnelError: the folder's name has a character that a location cannot carry.
    """
    # Not URI-escaped: PyIceberg, Spark and DuckDB all take the characters of a location literally, but for these two,
    # at which PyIceberg would cut it short.
    for character in "#?":
        if character in location:
            raise FunnelError(
                f"the warehouse cannot lie in {location}: PyIceberg takes a location to end at {character!r}; rename "
                "the folder, or name another as [warehouse] path"
            )
    return f"file://{location}"


def cannot_be_opened(location: str, error: Exception) -> FunnelError:
    """The error of a catalog that cannot be opened, in one line; an UnreachableError if it does not answer."""
    reason, kind, advice = reason_of(error), FunnelError, "see [warehouse]"
    # PyIceberg takes whatever cannot be imported for SQLAlchemy.
    missing = error.__context__ if isinstance(error, NotInstalledError) else error
    if isinstance(missing, ModuleNotFoundError):
        package = "funnelcast[postgres]" if missing.name == "psycopg2" else missing.name
        reason, advice = f"{missing.name} is not installed", f"pip install '{package}'"
    elif isinstance(error, CREDENTIALS):
        advice = "see token or credential of [warehouse] catalog, which FUNNEL_WAREHOUSE__CATALOG can set"
    elif is_away(error):
        kind, advice = UnreachableError, "try again when its server answers"
    elif "locked" in reason:
        kind, advice = TransientError, "end the program that holds the lock, or try again later"
    elif re.search("not a database|malformed", reason):
        advice = f"{DATABASE} is damaged, and `funnel warehouse recover` makes a new one from its copies"
    return kind(f"the warehouse at {location} cannot be opened: {reason}; {advice}")


def require_own(location: str, expected: str) -> None:
    """Check that a table lies where the configuration puts it.

    Args:
        location: the table's own.
        expected: where this warehouse would make a table of its name.

    Raises:
        FunnelError: it lies elsewhere.
    """
    if is_same_place(location, expected):
        return
    (here, name), there = _split(expected), _split(location)[0]
    raise FunnelError(
        f"the warehouse at {here} was copied or moved: its table {name!r} lies in {there}. `funnel warehouse relocate` "
        f"makes its tables those of {here}; until then nothing is read or written"
    )


def require_inside(name: str, location: str, root: str) -> None:
    """Check that a table of a catalog that the configuration names lies in the warehouse that it names.

    Raises:
        FunnelError: it lies elsewhere.
    """
    # One folder can be written as file:///data/x and as /data/x.
    path, folder = (str(as_path(each) or each).rstrip("/") for each in (location, root))
    if not path.startswith(f"{folder}/"):
        raise FunnelError(
            f"[warehouse] catalog.warehouse is {root}, but table {name!r} lies in {location}: name the warehouse in "
            "which the catalog's tables lie"
        )


def read_own_entries(database: Path) -> list[Entry]:
    """The tables of a SQLite catalog; none if there is no such file, or nothing in it.

    Raises:
        FunnelError: it cannot be read.
    """
    try:
        return read_entries(database)
    except (sqlite3.Error, OSError) as error:
        raise cannot_be_opened(str(database.parent), error) from None


def _split(table: str) -> tuple[str, str]:
    """A table's warehouse, and its name, from its location."""
    warehouse, _, name = table.rstrip("/").rsplit("/", 2) if table.count("/") > 2 else (table, "", table)
    return str(as_path(warehouse) or warehouse), name


@retry_lost_races
def _with_namespace(open_it: Callable[[], Catalog], namespace: str) -> Catalog:
    catalog = open_it()
    with suppress(NamespaceAlreadyExistsError):
        catalog.create_namespace(namespace)
    return catalog
