"""What goes wrong outside: one line on stderr, exit code 1, and every table as it was."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.dates import DateRange
from pipeline.ingest.ingest import ingest
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS, sms
from tests.support.places import ROOT

DAYS = [date(2026, 3, 1) + timedelta(days=n) for n in range(6)]
LAST = DAYS[-1]
NEXT = LAST + timedelta(days=1)
USERS = [{"uid": "ann", "sms_consent": True, "city_tier": "1", "age": 30.0}]


def contents(company: Company) -> Mapping[str, tuple[str, ...]]:
    """What readers see of every table but the records of runs and audits, and that no file lies there half way."""
    warehouse = company.context().warehouse
    seen = {name: warehouse.pin(name).files for name in warehouse.tables if name not in ("runs", "audits")}
    folder = company.folder.resolve() / "warehouse"
    staged = {f"file://{path}" for name in seen for path in (folder / "funnel" / name).rglob("data/*/*/*.parquet")}
    assert staged <= {path for files in seen.values() for path in files}, "staged files that nobody will publish"
    return seen


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """Six nights are loaded; the tests break the one after them. Stages' windows are 3, 7 and 14 days."""
    company = Company.make(tmp_path_factory.mktemp("lender"))
    for day in DAYS:
        company.land(day, [sms(f"{day}-{n}", f"user{n}", f"{day}T10:00:00+08:00") for n in range(5)], USERS)
    ingest(company.context(), DateRange(DAYS[0], LAST))
    return company


@pytest.fixture
def refused(lender: Company, funnel: Callable[..., Ended]) -> Callable[..., str]:
    """Run a command that must fail and change nothing; its one line."""

    def run(*arguments: object, config: Path | None = None) -> str:
        before = contents(lender)
        line = funnel(*arguments, "-c", config or lender.config).complaint
        assert contents(lender) == before
        return line

    return run


def broken_night(lender: Company, name: str) -> Path:
    """A configuration over the lender's warehouse whose source is a folder of its own."""
    config = lender.folder / f"{name}.toml"
    text = lender.config.read_text(encoding="utf-8").replace('"source/', f'"{name}/')
    config.write_text(text, encoding="utf-8")
    return config


def deliver(lender: Company, name: str, table: pa.Table) -> None:
    for kind, rows in (("events", table), ("users", pa.Table.from_pylist(USERS))):
        lender.write(f"../{name}/{kind}", NEXT, rows)


EVENTS = pa.schema([(name, pa.string()) for name in ("id", "uid", "type", "ts", "campaign", "offer")])
WITHOUT_TIME = pa.Table.from_pylist([sms("1", "ann", None)], schema=EVENTS).drop_columns("ts")


def test_a_source_path_that_is_not_there(refused: Callable[..., str], lender: Company) -> None:
    line = refused("nightly", "--ds", NEXT)
    assert line.startswith(
        f"ingest {NEXT}: source.events.path: nothing at {lender.folder.resolve()}/source/events/{NEXT}"
    )
    assert line.endswith("has the source delivered this date?")
    failed = [row for row in lender.rows("runs") if row["ds"] == NEXT and row["status"] == "failed"]
    assert {row["stage"] for row in failed} == {"ingest"}
    assert any(row["message"] and row["message"] in line for row in failed)


def test_a_range_counts_the_days_that_are_not_there(refused: Callable[..., str]) -> None:
    line = refused("backfill", "--start", DAYS[0], "--end", NEXT + timedelta(days=2))
    assert f"source/events/{NEXT} (and 2 more of 9 days)" in line


def test_an_empty_day_stops_the_night_or_is_allowed(
    refused: Callable[..., str], lender: Company, funnel: Callable[..., Ended]
) -> None:
    config = broken_night(lender, "empty")
    deliver(lender, "empty", pa.Table.from_pylist([], schema=EVENTS))
    line = refused("ingest", "--ds", NEXT, config=config)
    assert "audit of the landing days of events" in line and "is_unexpectedly_empty: True" in line
    before = contents(lender)["events"]
    config.write_text(config.read_text(encoding="utf-8") + '[audit]\nempty_day = "warning"\n', encoding="utf-8")
    ended = funnel("ingest", "--ds", NEXT, "-c", config)
    assert (ended.code, ended.err) == (0, "")
    assert "warning: ingest" in ended.out and "is_unexpectedly_empty: True" in ended.out
    assert contents(lender)["events"] == before
    recorded = [row for row in lender.rows("runs") if row["ds"] == NEXT and row["status"] == "ok"]
    assert "is_unexpectedly_empty" in recorded[-1]["warnings"]


def test_a_day_whose_every_row_is_broken(refused: Callable[..., str], lender: Company) -> None:
    config = broken_night(lender, "broken")
    rows = [sms(str(n), None if n % 2 else "ann", "no time") for n in range(6)]
    deliver(lender, "broken", pa.Table.from_pylist(rows, schema=EVENTS))
    line = refused("ingest", "--ds", NEXT, config=config)
    assert "quarantine_share: 1, reasons: null user: 3, unparsable time: 3" in line
    assert "nothing was published" in line


def test_a_column_that_the_source_does_not_have(refused: Callable[..., str], lender: Company) -> None:
    config = broken_night(lender, "narrow")
    deliver(lender, "narrow", WITHOUT_TIME)
    line = refused("ingest", "--ds", NEXT, config=config)
    assert "source.events.columns.event_time = 'ts' does not fit the source" in line
    assert line.endswith("the source has: id, uid, type, campaign, offer")


def test_a_file_that_cannot_be_read(refused: Callable[..., str], lender: Company) -> None:
    config = broken_night(lender, "torn")
    deliver(lender, "torn", pa.Table.from_pylist([sms("1", "ann", "x")], schema=EVENTS))
    path = lender.folder / "torn" / "events" / NEXT.isoformat() / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    line = refused("ingest", "--ds", NEXT, config=config)
    assert "source.events cannot be read as parquet" in line
    assert "torn/events/2026-03-07/part-0.parquet" in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({'path = "source/events/{ds}"': 'format = "parket"\npath = "source/events/{ds}"'}, "cannot be read as parket"),
        (
            {'path = "source/events/{ds}"': 'path = "source/events/{ds}"\nwhere = "colour = 1"'},
            "source.events.where = 'colour = 1' does not fit the source",
        ),
        ({'event = "type"': 'event = "upper(("'}, "source.events.columns.event = 'upper((' does not fit the source"),
        ({'"offer" }': '"tone" }'}, "source.events.context.offer = 'tone' does not fit the source"),
        ({'numeric = ["age"]': 'numeric = ["income"]'}, "source.users.columns.income = 'income' does not fit"),
    ],
)
def test_a_mapping_that_does_not_fit(
    refused: Callable[..., str], lender: Company, change: Mapping[str, str], told: str
) -> None:
    config = lender.folder / "changed.toml"
    text = lender.config.read_text(encoding="utf-8")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")
    assert told in refused("ingest", "--ds", LAST, config=config)


def test_a_table_s_folder_that_cannot_be_written(funnel: Callable[..., Ended], make_company: Callable) -> None:
    company = make_company(replace=WITHOUT_USERS)
    company.land(LAST, [sms("1", "ann", f"{LAST}T10:00:00+08:00")])
    company.context().warehouse.staging("events")
    data = company.folder / "warehouse" / "funnel" / "events" / "data"
    data.write_text("a file, not a folder", encoding="utf-8")
    line = funnel("ingest", "--ds", LAST, "-c", company.config).complaint
    assert re.match(rf"ingest {LAST}: Spark: .*not a directory.*{data}", line)
    assert company.rows("events") == []


def test_a_warehouse_that_cannot_be_written(funnel: Callable[..., Ended], make_company: Callable) -> None:
    company = make_company('[warehouse]\npath = "taken/warehouse"\n')
    company.land(LAST)
    (company.folder / "taken").write_text("a file, not a folder", encoding="utf-8")
    for command in (("ingest", "--ds", LAST), ("tables",), ("sql", "SELECT * FROM events"), ("rollback", "events")):
        line = funnel(*command, "-c", company.config).complaint
        assert "taken/warehouse cannot be opened: Not a directory; see [warehouse]" in line


AHEAD = date.today() + timedelta(days=2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nightly", "--ds", AHEAD), f"--ds {AHEAD} is not over yet in Asia/Shanghai; the newest night is "),
        (("train", "--as-of", AHEAD), f"--as-of {AHEAD} is not over yet"),
        (("backfill", "--start", LAST, "--end", AHEAD), f"--end {AHEAD} is not over yet"),
        (("nightly", "--ds", "03/01/2026"), "--ds: got '03/01/2026', takes a date such as 2026-01-31"),
        (("backfill", "--start", LAST, "--end", DAYS[0]), f"the range {LAST} to {DAYS[0]} ends before it starts"),
        (("score", "--ds", LAST), f"score {LAST}: no model trained on data up to {LAST} was promoted"),
        (("score", "--ds", LAST, "--model", "best"), "no model 'best' in "),
        (("rollback", "scores"), "no table 'scores'; the tables are events, quarantine, users, activity"),
        (("rollback", "user_scores"), "table 'user_scores' has nothing to roll back"),
        (("sql", "SELECT * FROM scores"), "funnel sql: no table or view 'scores'; did you mean user_scores"),
    ],
)
def test_a_command_that_cannot_be_done(refused: Callable[..., str], arguments: tuple[object, ...], told: str) -> None:
    assert told in refused(*arguments)


def test_a_wrong_key_of_the_configuration(refused: Callable[..., str], lender: Company) -> None:
    config = lender.folder / "wrong.toml"
    text = lender.config.read_text(encoding="utf-8")
    config.write_text(text.replace("windows_days", "window_days"), encoding="utf-8")
    line = refused("nightly", "--ds", LAST, config=config)
    assert line == f"{config}: features.window_days is not a key of the configuration; did you mean 'windows_days'?"


def test_a_process_of_its_own_ends_the_same_way(lender: Company) -> None:
    """What the JVM and Python print by themselves is on no test's stderr but a real process's."""
    config = broken_night(lender, "process")
    deliver(lender, "process", WITHOUT_TIME)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", "ingest", "--ds", NEXT.isoformat(), "-c", str(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "\tat " not in ended.stderr, "a Java trace"
    said = [line for line in ended.stderr.splitlines() if not line.startswith("WARNING: Using incubator modules")]
    assert len(said) == 1, ended.stderr
    assert said[0].startswith(f"error: ingest {NEXT}: source.events.columns.event_time = 'ts' does not fit the source")


def test_training_where_nothing_is_loaded(funnel: Callable[..., Ended], company: Company) -> None:
    line = funnel("train", "--as-of", LAST, "-c", company.config).complaint
    assert line == f"train {LAST}: no exposure has landed up to {LAST}: load history first (funnel backfill)"
    assert not (company.folder / "models").exists()


def test_training_before_any_label_is_mature(funnel: Callable[..., Ended], make_company: Callable) -> None:
    company = make_company(replace=WITHOUT_USERS)
    company.land(LAST, [sms("1", "ann", f"{LAST}T10:00:00+08:00")])
    assert funnel("backfill", "--start", LAST, "--end", LAST, "-c", company.config).code == 0
    line = funnel("train", "--as-of", LAST, "-c", company.config).complaint
    assert f"no exposure has a mature label of stage 'click' by {LAST}: its window is 3 days" in line
    assert f"train as of {LAST + timedelta(days=3)} or later" in line


def test_a_stage_without_a_positive(funnel: Callable[..., Ended], make_company: Callable) -> None:
    company = make_company(replace=WITHOUT_USERS | {"[spark]": "[training]\nmin_positives = 2\n[spark]"})
    days = [DAYS[0] + timedelta(days=n) for n in range(24)]
    for day in days:
        events = [sms(f"{day}-{n}", f"user{n}", f"{day}T10:00:00+08:00") for n in range(4)]
        clicks = [sms(f"{day}-click", "user1", f"{day}T11:00:00+08:00", type="sms_click")]
        company.land(day, events + clicks)
    assert funnel("backfill", "--start", days[0], "--end", days[-1], "-c", company.config).code == 0
    line = funnel("train", "--as-of", days[-1], "-c", company.config).complaint
    assert "stage 'register' has 0 positives among " in line
    assert "fewer than training.min_positives = 2: load more history, widen its window_days, or leave the stage" in line
    assert not (company.folder / "models").exists()
    line = funnel("score", "--ds", days[-1], "-c", company.config).complaint
    assert "no model trained on data up to" in line
