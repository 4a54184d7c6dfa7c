"""Bad input and a broken environment: one line on stderr, exit code 1, and every table unchanged."""

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


EVIDENCE = ("runs", "audits", "stopped_quarantine")


def contents(company: Company) -> Mapping[str, tuple[str, ...]]:
    """The files readers see of every table but those that tell of a failure; fails if others were left behind."""
    warehouse = company.context().warehouse
    seen = {name: warehouse.pin(name).files for name in warehouse.tables if name not in EVIDENCE}
    folder = company.folder.resolve() / "warehouse"
    staged = {f"file://{path}" for name in seen for path in (folder / "funnel" / name / "data").glob("*")}
    assert staged <= {path.rsplit("/", 2)[0] for files in seen.values() for path in files}, "staged files left behind"
    return seen


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("spark")]


@pytest.fixture(scope="module")
def lender(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A company with six nights loaded; the tests break the one after. Windows are 3, 7 and 14 days."""
    company = Company.make(tmp_path_factory.mktemp("lender"))
    for day in DAYS:
        company.land(day, [sms(f"{day}-{n}", f"user{n}", f"{day}T10:00:00+08:00") for n in range(5)], USERS)
    ingest(company.context(), DateRange(DAYS[0], LAST))
    return company


@pytest.fixture
def refused(lender: Company, funnel: Callable[..., Ended]) -> Callable[..., str]:
    """Run a command that must fail and change nothing; return its one line."""

    def run(*arguments: object, config: Path | None = None) -> str:
        before = contents(lender)
        line = funnel(*arguments, "-c", config or lender.config).complaint
        assert contents(lender) == before
        return line

    return run


def assert_names(line: str, *facts: object) -> None:
    """The line names each fact: the key, value or file that is wrong, and the cure."""
    assert [str(fact) for fact in facts if str(fact) not in line] == [], line


def broken_night(lender: Company, name: str) -> Path:
    """A configuration over the lender's warehouse with a source folder of its own."""
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
    assert line.startswith(f"ingest {NEXT}: ")
    assert_names(line, "source.events.path", f"{lender.folder.resolve()}/source/events/{NEXT}")
    failed = [row for row in lender.rows("runs") if row["ds"] == NEXT and row["status"] == "failed"]
    assert {row["stage"] for row in failed} == {"ingest"}
    assert any(row["message"] and row["message"] in line for row in failed)


def test_a_range_counts_the_days_that_are_not_there(refused: Callable[..., str]) -> None:
    line = refused("backfill", "--start", DAYS[0], "--end", NEXT + timedelta(days=2))
    assert_names(line, f"source/events/{NEXT}", "2 more", "9 days")


def test_an_empty_day_stops_the_night_or_is_allowed(
    refused: Callable[..., str], lender: Company, funnel: Callable[..., Ended]
) -> None:
    config = broken_night(lender, "empty")
    deliver(lender, "empty", pa.Table.from_pylist([], schema=EVENTS))
    line = refused("ingest", "--ds", NEXT, config=config)
    assert_names(line, "audit", "events", "is_unexpectedly_empty: True")
    before = contents(lender)["events"]
    config.write_text(config.read_text(encoding="utf-8") + '[audit]\nempty_day = "warning"\n', encoding="utf-8")
    ended = funnel("ingest", "--ds", NEXT, "-c", config)
    assert (ended.code, ended.err) == (0, "")
    assert_names(ended.out, "warning: ingest", "is_unexpectedly_empty: True")
    assert contents(lender)["events"] == before
    recorded = [row for row in lender.rows("runs") if row["ds"] == NEXT and row["status"] == "ok"]
    assert "is_unexpectedly_empty" in recorded[-1]["warnings"]


def test_a_day_whose_every_row_is_broken(refused: Callable[..., str], lender: Company) -> None:
    config = broken_night(lender, "broken")
    rows = [sms(str(n), None if n % 2 else "ann", "no time") for n in range(6)]
    deliver(lender, "broken", pa.Table.from_pylist(rows, schema=EVENTS))
    line = refused("ingest", "--ds", NEXT, config=config)
    assert_names(line, "quarantine_share: 1", "null user: 3", "unparsable time: 3")


def test_a_column_that_the_source_does_not_have(refused: Callable[..., str], lender: Company) -> None:
    config = broken_night(lender, "narrow")
    deliver(lender, "narrow", WITHOUT_TIME)
    line = refused("ingest", "--ds", NEXT, config=config)
    assert_names(line, "source.events.columns.event_time = 'ts'", "id, uid, type, campaign, offer")


def test_a_file_that_cannot_be_read(refused: Callable[..., str], lender: Company) -> None:
    config = broken_night(lender, "torn")
    deliver(lender, "torn", pa.Table.from_pylist([sms("1", "ann", "x")], schema=EVENTS))
    path = lender.folder / "torn" / "events" / NEXT.isoformat() / "part-0.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    line = refused("ingest", "--ds", NEXT, config=config)
    assert_names(line, "source.events", "parquet", f"torn/events/{NEXT}/part-0.parquet")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({'path = "source/events/{ds}"': 'format = "parket"\npath = "source/events/{ds}"'}, "parket"),
        (
            {'path = "source/events/{ds}"': 'path = "source/events/{ds}"\nwhere = "colour = 1"'},
            "source.events.where = 'colour = 1'",
        ),
        ({'event = "type"': 'event = "upper(("'}, "source.events.columns.event = 'upper(('"),
        ({'"offer" }': '"tone" }'}, "source.events.context.offer = 'tone'"),
        ({'numeric = ["age"]': 'numeric = ["income"]'}, "source.users.columns.income = 'income'"),
    ],
)
def test_a_mapping_that_does_not_fit(
    refused: Callable[..., str], lender: Company, change: Mapping[str, str], wrong: str
) -> None:
    config = lender.folder / "changed.toml"
    text = lender.config.read_text(encoding="utf-8")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")
    assert_names(refused("ingest", "--ds", LAST, config=config), wrong)


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
        assert_names(line, "taken/warehouse", "Not a directory", "[warehouse]")


AHEAD = date.today() + timedelta(days=2)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("nightly", "--ds", AHEAD), [f"--ds {AHEAD}", "Asia/Shanghai"]),
        (("train", "--as-of", AHEAD), [f"--as-of {AHEAD}"]),
        (("backfill", "--start", LAST, "--end", AHEAD), [f"--end {AHEAD}"]),
        (("nightly", "--ds", "03/01/2026"), ["--ds", "'03/01/2026'", "2026-01-31"]),
        (("backfill", "--start", LAST, "--end", DAYS[0]), [f"{LAST} to {DAYS[0]}", "ends before it starts"]),
        (("score", "--ds", LAST), [f"score {LAST}: ", "no model", "promoted"]),
        (("score", "--ds", LAST, "--model", "best"), ["no model 'best'", "models"]),
        (("rollback", "scores"), ["no table 'scores'", "events, quarantine, users, activity"]),
        (("rollback", "user_scores"), ["'user_scores'", "nothing to roll back"]),
        (("sql", "SELECT * FROM scores"), ["no table or view 'scores'", "user_scores"]),
    ],
)
def test_a_command_that_cannot_run(
    refused: Callable[..., str], arguments: tuple[object, ...], facts: list[object]
) -> None:
    assert_names(refused(*arguments), *facts)


def test_a_wrong_key_of_the_configuration(refused: Callable[..., str], lender: Company) -> None:
    config = lender.folder / "wrong.toml"
    text = lender.config.read_text(encoding="utf-8")
    config.write_text(text.replace("windows_days", "window_days"), encoding="utf-8")
    line = refused("nightly", "--ds", LAST, config=config)
    assert_names(line, config, "features.window_days", "'windows_days'")


def test_a_process_of_its_own_ends_the_same_way(lender: Company) -> None:
    """Only a real process shows what the JVM and Python print to stderr by themselves."""
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
    assert said[0].startswith(f"error: ingest {NEXT}: ")
    assert_names(said[0], "source.events.columns.event_time = 'ts'")


def test_training_where_nothing_is_loaded(funnel: Callable[..., Ended], company: Company) -> None:
    line = funnel("train", "--as-of", LAST, "-c", company.config).complaint
    assert line.startswith(f"train {LAST}: ")
    assert_names(line, "no exposure", "funnel backfill")
    assert not (company.folder / "models").exists()


def test_training_before_any_label_is_mature(funnel: Callable[..., Ended], make_company: Callable) -> None:
    company = make_company(replace=WITHOUT_USERS)
    company.land(LAST, [sms("1", "ann", f"{LAST}T10:00:00+08:00")])
    assert funnel("backfill", "--start", LAST, "--end", LAST, "-c", company.config).code == 0
    line = funnel("train", "--as-of", LAST, "-c", company.config).complaint
    assert_names(line, "'click'", "3 days", LAST + timedelta(days=3))


def test_a_stage_without_a_positive(funnel: Callable[..., Ended], make_company: Callable) -> None:
    company = make_company(replace=WITHOUT_USERS | {"[spark]": "[training]\nmin_positives = 2\n[spark]"})
    days = [DAYS[0] + timedelta(days=n) for n in range(24)]
    for day in days:
        events = [sms(f"{day}-{n}", f"user{n}", f"{day}T10:00:00+08:00") for n in range(4)]
        clicks = [sms(f"{day}-click", "user1", f"{day}T11:00:00+08:00", type="sms_click")]
        company.land(day, events + clicks)
    assert funnel("backfill", "--start", days[0], "--end", days[-1], "-c", company.config).code == 0
    line = funnel("train", "--as-of", days[-1], "-c", company.config).complaint
    assert_names(line, "'register'", "0 positives", "training.min_positives = 2", "window_days", "history")
    assert not (company.folder / "models").exists()
    line = funnel("score", "--ds", days[-1], "-c", company.config).complaint
    assert_names(line, "no model", days[-1])
