"""One behaviour on every catalog: SQLite, which is the default, SQL on Postgres, and REST with an object store."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from pipeline.errors import FunnelError
from pipeline.maintenance import maintain
from pipeline.warehouse.warehouse import Pinned, Warehouse
from tests.pipeline.warehouse.test_warehouse import (
    D1,
    D2,
    D3,
    D4,
    PROCESSES,
    contents,
    publish,
    staged,
    warehouse_at,
)
from tests.support.catalogs import on_postgres, on_rest
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish_with

ON_SERVERS = [pytest.param(each, marks=pytest.mark.services) for each in ("postgres", "rest")]


@pytest.fixture(params=["sqlite", *ON_SERVERS])
def company(request: pytest.FixtureRequest, make_company: Callable[..., Company], tmp_path: Path) -> Company:
    """A company with each catalog in turn."""
    sections = {
        "sqlite": lambda: "",
        "postgres": lambda: on_postgres(request.getfixturevalue("postgres"), tmp_path / "tables"),
        "rest": lambda: on_rest(request.getfixturevalue("rest_catalog")),
    }
    return make_company(f"[maintenance]\nkeep_publishes = 2\n{sections[request.param]()}")


def reasons_in(warehouse: Warehouse, pinned: Pinned) -> list[str]:
    return sorted(warehouse.read_pinned(pinned).column("reason").to_pylist())


def test_a_publish_swaps_its_range_and_nothing_else(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D4, {D1: ["a"], D2: ["b", "b"], D3: ["c"], D4: ["d"]})
    others = {day: warehouse.pin("quarantine", first=day, last=day).files for day in (D1, D4)}
    publish(warehouse, D2, D3, {D2: ["new"], D3: ["new", "newer"]})
    assert contents(warehouse) == {D1: ["a"], D2: ["new"], D3: ["new", "newer"], D4: ["d"]}
    for day, files in others.items():
        assert warehouse.pin("quarantine", first=day, last=day).files == files


def test_a_day_without_rows_in_a_published_range_is_emptied(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D3, {D1: ["a"], D2: ["b"], D3: ["c"]})
    publish(warehouse, D2, D3, {D3: ["c"]})
    assert contents(warehouse) == {D1: ["a"], D3: ["c"]}
    publish(warehouse, D1, D3, {})
    assert contents(warehouse) == {}
    assert warehouse.pin("quarantine").files == ()


def test_publishing_nothing_into_a_new_table(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    assert publish(warehouse, D1, D1, {}) is None
    assert contents(warehouse) == {}
    assert warehouse.pin("quarantine").snapshot_id is None


def test_a_pinned_reader_keeps_its_files(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D2, {D1: ["old"], D2: ["old too"]})
    pinned = warehouse.pin("quarantine")
    published = publish(warehouse, D1, D1, {D1: ["new"]})
    assert reasons_in(warehouse, pinned) == ["old", "old too"]
    now = warehouse.pin("quarantine")
    assert reasons_in(warehouse, now) == ["new", "old too"]
    assert now.snapshot_id == published != pinned.snapshot_id


def test_a_pin_holds_only_the_files_of_its_dates(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D4, {D1: ["a"], D2: ["b"], D3: ["c"], D4: ["d"]})
    for first, last, found in ((None, D2, "ab"), (D2, D3, "bc"), (D3, None, "cd"), (None, None, "abcd")):
        assert reasons_in(warehouse, warehouse.pin("quarantine", first=first, last=last)) == list(found)


def test_a_rollback_restores_the_state_before_the_last_publish(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    first = publish(warehouse, D1, D2, {D1: ["a"], D2: ["b"]})
    publish(warehouse, D2, D2, {D2: ["wrong"]})
    assert warehouse.rollback("quarantine") == first
    assert contents(warehouse) == {D1: ["a"], D2: ["b"]}
    publish(warehouse, D2, D2, {D2: ["right"]})
    assert contents(warehouse) == {D1: ["a"], D2: ["right"]}, "a table goes on from where it was rolled back to"


def test_the_first_publish_cannot_be_rolled_back(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    publish(warehouse, D1, D1, {D1: ["a"]})
    with pytest.raises(FunnelError, match="table 'quarantine' has no state before snapshot"):
        warehouse.rollback("quarantine")
    with pytest.raises(FunnelError, match="table 'events' has nothing to roll back"):
        warehouse.rollback("events")
    assert contents(warehouse) == {D1: ["a"]}


def test_a_table_is_widened_when_the_configuration_gains_a_column(company: Company) -> None:
    publish_with(warehouse_at(company.config), "users", D1, [{"user_id": "ann", "age": 30.0}])
    text = company.config.read_text(encoding="utf-8").replace('numeric = ["age"]', 'numeric = ["age", "income"]')
    company.config.write_text(text, encoding="utf-8")
    widened = warehouse_at(company.config)
    assert widened.arrow("users", first=D1, last=D1).num_rows == 1, "it can be read before it is widened"
    publish_with(widened, "users", D2, [{"user_id": "bob", "age": 40.0, "income": 5.0}])
    rows = company.rows("users")
    assert [(row["user_id"], row["age"], row["income"]) for row in rows] == [("ann", 30.0, None), ("bob", 40.0, 5.0)]


def test_a_column_that_changes_its_type_is_one_line(company: Company) -> None:
    warehouse_at(company.config).staging("users")
    text = company.config.read_text(encoding="utf-8")
    text = text.replace('categorical = ["city_tier"]', "").replace('numeric = ["age"]', 'numeric = ["city_tier"]')
    company.config.write_text(text, encoding="utf-8")
    with pytest.raises(FunnelError, match=r"table 'users'.*city_tier") as raised:
        warehouse_at(company.config).staging("users")
    assert "\n" not in str(raised.value)


def republish_days(config: Path, writer: int, days: list[date]) -> None:
    warehouse = warehouse_at(config)
    for day in days:
        publish(warehouse, day, day, {day: [f"writer {writer}"] * 2})


@pytest.mark.slow
def test_publishers_of_different_dates_lose_nothing(company: Company) -> None:
    # The first publish also creates the catalog and the table, which all six try at once.
    writers, each = 6, 3
    days = {writer: [D1 + timedelta(days=writer + writers * n) for n in range(each)] for writer in range(writers)}
    with ProcessPoolExecutor(writers, mp_context=PROCESSES) as pool:
        running = [pool.submit(republish_days, company.config, writer, days[writer]) for writer in days]
        for each_run in running:
            each_run.result()
    expected = {day: [f"writer {writer}"] * 2 for writer in days for day in days[writer]}
    assert contents(warehouse_at(company.config)) == expected


def read_until(config: Path, started: Event, done: Event) -> list[list[str]]:
    """What each read of the table returns, pinned and through Arrow."""
    warehouse, seen = warehouse_at(config), []
    while not done.is_set():
        seen.append(reasons_in(warehouse, warehouse.pin("quarantine", first=D2, last=D2)))
        seen.append(contents(warehouse).get(D2, []))
        started.set()
    return seen


def test_a_reader_sees_the_old_rows_or_the_new_never_neither(company: Company) -> None:
    warehouse, rounds, rows = warehouse_at(company.config), 12, 50
    publish(warehouse, D1, D3, {D1: ["a"], D2: ["0"] * rows, D3: ["c"]})
    with PROCESSES.Manager() as manager, ProcessPoolExecutor(1, mp_context=PROCESSES) as pool:
        started, done = manager.Event(), manager.Event()
        reader = pool.submit(read_until, company.config, started, done)
        started.wait(240)
        for n in range(1, rounds):
            publish(warehouse, D2, D2, {D2: [str(n)] * rows})
        done.set()
        looks = reader.result()
    versions = {look[0] for look in looks if look}
    assert all(len(look) == rows and len(set(look)) == 1 for look in looks), "an empty, a half or a mixed partition"
    assert len(versions) > 2, "the reader never met a publish"


def test_a_stage_that_the_configuration_gains_widens_the_scores(company: Company) -> None:
    publish_with(warehouse_at(company.config), "user_scores", D1, [{"user_id": "ann", "p_click": 0.5}])
    text = company.config.read_text(encoding="utf-8").replace(
        "stages = [", 'stages = [\n  { name = "open", event = "sms_open", window_days = 2 },'
    )
    company.config.write_text(text, encoding="utf-8")
    publish_with(warehouse_at(company.config), "user_scores", D2, [{"user_id": "bob", "p_open": 0.7, "p_click": 0.6}])
    rows = [(row["user_id"], row["p_open"], row["p_click"]) for row in company.rows("user_scores")]
    assert rows == [("ann", None, 0.5), ("bob", 0.7, 0.6)]


def test_the_rows_of_an_earlier_time(company: Company) -> None:
    warehouse, seen = warehouse_at(company.config), []
    for n in range(3):
        publish(warehouse, D1, D2, {D1: [f"a{n}"], D2: [f"b{n}"]})
        time.sleep(0.01)
        seen.append((datetime.now(UTC), [f"a{n}", f"b{n}"]))
        time.sleep(0.01)
    for at, rows in seen:
        assert reasons_in(warehouse, warehouse.pin("quarantine", at=at)) == rows
    before = warehouse.oldest_commit()
    assert before is not None
    assert warehouse.pin("quarantine", at=before - timedelta(days=1)).files == ()


def test_maintenance_compacts_expires_and_removes_what_nobody_needs(company: Company) -> None:
    warehouse = warehouse_at(company.config)
    for n in range(4):
        publish(warehouse, D1, D1, {D1: [f"a{n}"]})
    files = [staged(warehouse, D2, [f"b{n}"]) for n in range(20)]
    warehouse.publish("quarantine", files, first=D2, last=D2, summary={})
    left = staged(warehouse, D3, ["never published"])
    context = company.context()
    maintain(context)
    before, damages = warehouse.damages_of("quarantine")
    assert damages == []
    assert _exists(warehouse, left), "a night may be about to publish it"
    maintain(context, now=datetime.now(UTC) + timedelta(days=30))
    assert contents(warehouse) == {D1: ["a3"], D2: sorted(f"b{n}" for n in range(20))}
    assert not _exists(warehouse, left)
    assert len(warehouse.pin("quarantine").files) == 2
    snapshots, damages = warehouse.damages_of("quarantine")
    assert snapshots < before
    assert damages == []
    publish(warehouse, D1, D1, {D1: ["after"]})
    assert contents(warehouse)[D1] == ["after"]


def _exists(warehouse: Warehouse, path: str) -> bool:
    table = warehouse._load("quarantine")
    assert table is not None
    return table.io.new_input(path).exists()


def test_only_the_default_catalog_is_relocated(company: Company, funnel: Callable[..., Ended]) -> None:
    publish(warehouse_at(company.config), D1, D1, {D1: ["a"]})
    ended = funnel("warehouse", "relocate", "-c", company.config)
    if "catalog = {" not in company.config.read_text(encoding="utf-8"):
        assert ended.code == 0
        return
    assert "[warehouse] catalog is set" in ended.complaint
    assert contents(warehouse_at(company.config)) == {D1: ["a"]}
