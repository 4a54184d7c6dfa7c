"""A company whose catalog is a database on Postgres: its nights end in the rows that SQLite's end in."""

from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.settings import load
from pipeline.dates import DateRange
from pipeline.nights import load_history, nightly
from pipeline.runs.context import Context
from pipeline.scoring.scoring import score
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from pipeline.training.steps import train
from pipeline.warehouse.failures import UnreachableError
from pipeline.warehouse.warehouse import Warehouse
from tests.support.catalogs import on_postgres
from tests.support.company import SMALL_SPARK
from tests.support.postgres import Postgres

START, DAYS = date(2026, 1, 1), 30
NIGHT = START + timedelta(days=DAYS - 1)
TRAINED = NIGHT - timedelta(days=7)
TRAINING = "\n[training]\nepochs = 1\nmin_positives = 1\n"
COMPARED = ("users", "events", "quarantine", "activity", "user_scores")
OF_A_RUN = ("run_id", "scored_at", "model_version", "code_version")


def make_company(folder: Path, section: str) -> Path:
    simulate(Simulation(users=500, days=DAYS, start=START, seed=3), folder / "source")
    config = folder / "funnel.toml"
    text = files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8")
    config.write_text(text + SMALL_SPARK + TRAINING + section, encoding="utf-8")
    return config


def load_days_before(config: Path) -> None:
    load_history(Context(load(config)), DateRange(START, NIGHT - timedelta(days=1)))


def all_rows(config: Path) -> dict[str, list[str]]:
    warehouse = Context(load(config)).warehouse
    tables: dict[str, pa.Table] = {
        name: warehouse.arrow(name, first=date.min, last=date.max).drop_columns(
            [each for each in OF_A_RUN if each in warehouse.tables[name].schema.names]
        )
        for name in COMPARED
    }
    return {name: sorted(map(repr, table.to_pylist())) for name, table in tables.items()}


def test_a_night_on_postgres_that_loses_it_once_ends_as_on_sqlite(
    spark: None, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sqlite", "postgres"):
        (tmp_path / name).mkdir()
    local = make_company(tmp_path / "sqlite", "")
    models = f'[models]\npath = "{tmp_path}/sqlite/models"\n'
    served = make_company(tmp_path / "postgres", on_postgres(postgres, tmp_path / "tables") + models)
    for config in (local, served):
        load_days_before(config)
    model = train(Context(load(local)), TRAINED)
    nightly(Context(load(local)), NIGHT, model=model)
    before = all_rows(served)

    publish = Warehouse.publish

    def lose_the_catalog(warehouse: Warehouse, name: str, *given: Any, **named: Any) -> int | None:
        if name == "user_scores":
            postgres.stop()
        return publish(warehouse, name, *given, **named)

    monkeypatch.setattr("pipeline.warehouse.retries.PATIENCE_SECONDS", 1)
    monkeypatch.setattr(Warehouse, "publish", lose_the_catalog)
    with pytest.raises(UnreachableError, match=rf"publish {NIGHT}: the warehouse .*Connection refused") as raised:
        nightly(Context(load(served)), NIGHT, model=model)
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(Warehouse, "publish", publish)
    postgres.start()
    assert all_rows(served)["user_scores"] == before["user_scores"], "nothing half published"

    score(Context(load(served)), NIGHT, model=model)
    ended, expected = all_rows(served), all_rows(local)
    assert ended["user_scores"] != before["user_scores"]
    for name in COMPARED:
        assert ended[name] == expected[name], name
