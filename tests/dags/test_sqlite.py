"""Airflow's own database on SQLite: creating a backfill while the scheduler writes."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize("is_airflows", [True, False])
def test_a_savepoint_of_airflows_database_takes_the_write_lock_first(
    import_dag: Callable[..., ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_airflows: bool
) -> None:
    from airflow import settings
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.orm import Session

    import_dag(tmp_path / "funnel.toml", "plugins/funnel_sqlite")
    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db")
    monkeypatch.setattr(settings, "engine", engine if is_airflows else None)
    count, insert = "SELECT count(*) FROM runs", "INSERT INTO runs VALUES (1)"
    with closing(sqlite3.connect(tmp_path / "airflow.db", timeout=0)) as scheduler, Session(engine) as session:
        scheduler.execute("PRAGMA journal_mode = WAL")
        scheduler.execute("CREATE TABLE runs (number INTEGER)")
        with session.begin_nested() as savepoint:
            session.execute(text(count))
            if not is_airflows:
                with scheduler:
                    scheduler.execute(insert)
                with pytest.raises(OperationalError, match="locked"):
                    session.execute(text(insert))
                savepoint.rollback()
                return
            with pytest.raises(sqlite3.OperationalError, match="locked"), scheduler:
                scheduler.execute(insert)
            session.execute(text(insert))
        # A backfill has several savepoints: none is visible before all are.
        assert scheduler.execute(count).fetchone() == (0,)
        session.commit()
        assert scheduler.execute(count).fetchone() == (1,)
