"""Makes a savepoint on SQLite, which `make airflow` uses, wait for the write lock instead of failing.

Airflow creates each run of a backfill inside a savepoint. On SQLite that begins a transaction which reads first: if the
scheduler writes before it does, it fails at once ("Database is locked"), and releasing the savepoint commits each run
alone, so that the scheduler sees runs which are then rolled back. Taking the write lock first makes a backfill atomic.
Other databases are left alone.
"""

from airflow import settings
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine


# Listen to all engines: Airflow may recreate its own in a forked process.
@event.listens_for(Engine, "savepoint")
def begin_to_write(connection: Connection, name: str) -> None:
    """Begin a write transaction unless one is open."""
    driver = connection.connection.dbapi_connection
    is_ours = connection.engine is settings.engine and connection.dialect.name == "sqlite"
    if is_ours and driver is not None and not driver.in_transaction:
        driver.cursor().execute("BEGIN IMMEDIATE")


class FunnelSqlite(AirflowPlugin):
    """The plugin that Airflow loads."""

    name = "funnelcast_sqlite"
