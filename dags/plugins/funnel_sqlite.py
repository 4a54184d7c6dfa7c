"""On SQLite, which `make airflow` has, a savepoint waits its turn to write instead of failing.

Airflow makes each run of a backfill inside a savepoint. SQLite would begin a transaction there that reads first; where
the scheduler writes before it does, it fails at once ("Database is locked"), and the release of the savepoint commits
each run alone, so that the scheduler meets runs which are then taken back. With the write lock taken first, a backfill
is made whole. Other databases are left as they are.
"""

from airflow import settings
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine


# Of all engines: Airflow may make its own anew, in a process that it forks.
@event.listens_for(Engine, "savepoint")
def begin_to_write(connection: Connection, name: str) -> None:
    """Begin a transaction that may write, unless there is one."""
    driver = connection.connection.dbapi_connection
    is_ours = connection.engine is settings.engine and connection.dialect.name == "sqlite"
    if is_ours and driver is not None and not driver.in_transaction:
        driver.cursor().execute("BEGIN IMMEDIATE")


class FunnelSqlite(AirflowPlugin):
    """What Airflow loads."""

    name = "funnelcast_sqlite"
