"""Events and profiles in a real Postgres, by the command line: a driver's JAR, and an address, are all it takes."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.ingest import ingest
from pipeline.secrets import learn
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS
from tests.support.places import ROOT

DRIVER = Path("/usr/share/java/postgresql.jar")
DAY = date(2026, 3, 1)
TABLES = """
CREATE TABLE log (id bigint, uid numeric, type text, ts timestamptz, clock timestamp, campaign uuid,
                  offer numeric(8, 2), landed date);
INSERT INTO log VALUES
  (1, 17, 'sms_sent', '2026-03-01 10:00:00+08', '2026-03-01 10:00:00', '00010203-0405-0607-0809-0a0b0c0d0e0f', 1.5,
   '2026-03-01'),
  (2, 18, 'sms_click', '2026-03-01 11:00:00+08', '2026-03-01 11:00:00', NULL, NULL, '2026-03-01'),
  (3, 17, 'sms_sent', '2026-03-02 10:00:00+08', '2026-03-02 10:00:00', NULL, 2, '2026-03-02');
CREATE TABLE people (uid numeric, sms_consent boolean, city_tier text, age double precision, landed date);
INSERT INTO people VALUES (17, true, '01', 41.5, '2026-03-01'), (18, false, NULL, NULL, '2026-03-01');
"""


def funnel(company: Company, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`funnel` in a process of its own, whose JVM takes `spark.jars`."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments, "-c", company.config],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        # Where the host's clock stands must not matter.
        env=os.environ | {"TZ": "America/New_York"},
    )


def jdbc(name: str, url: str, table: str, columns: str) -> dict[str, str]:
    """Replacements in the tests' funnel that read events or users from a table or a query."""
    path = f'[source.{name}]\npath = "source/{name}/{{ds}}"'
    options = f'options = {{ url = "{url}", user = "funnel", password = "s3cret", {table} }}'
    return {path: f'[source.{name}]\nformat = "jdbc"\n{options}', 'user_id = "uid"': f'user_id = "uid"{columns}'}


@pytest.mark.parametrize("clock", ["ts", "clock"])
def test_a_database_lands(postgres: Any, spark: None, make_company: Callable[..., Company], clock: str) -> None:
    if not DRIVER.exists():
        pytest.skip(f"no driver at {DRIVER}; `make services` installs it where it may")
    database = postgres.create_database().rsplit("/", 1)[-1]
    postgres.execute(database, TABLES)
    url = f"jdbc:postgresql://127.0.0.1:{postgres.port}/{database}"
    query = "query = \"SELECT * FROM people WHERE landed = '{ds}'\""
    company = make_company(
        replace=jdbc("events", url, 'dbtable = "log"', ', landed_on = "landed"')
        | jdbc("users", url, query, "")
        | {'event_time = "ts"': f'event_time = "{clock}"', "[spark]\n": f'[spark]\nconf."spark.jars" = "{DRIVER}"\n'}
    )
    # A query has no landing day but the one in its text, and a table its column.
    text = company.config.read_text().replace(
        'user_id = "uid", landed_on = "landed", consent', 'user_id = "uid", consent'
    )
    company.config.write_text(text)
    ended = funnel(company, "doctor")
    assert f"ok      source         events at {url} with 8 columns; users at {url} with 5 columns" in ended.stdout, (
        ended
    )
    ended = funnel(company, "backfill", "--start", "2026-03-01", "--end", "2026-03-02")
    assert ended.returncode == 0, ended.stderr
    assert "s3cret" not in ended.stdout + ended.stderr
    assert [
        (
            row["event_id"],
            row["user_id"],
            row["event"],
            row["event_time"],
            row["campaign_id"],
            row["context"],
            row["landed_on"],
        )
        for row in company.rows("events")
    ] == [
        ("1", "17", "exposure", at(1, 2), "00010203-0405-0607-0809-0a0b0c0d0e0f", [("offer", "1.5")], DAY),
        ("2", "18", "click", at(1, 3), None, [], DAY),
        ("3", "17", "exposure", at(2, 2), None, [("offer", "2")], date(2026, 3, 2)),
    ]
    assert [(row["user_id"], row["consent"], row["city_tier"], row["age"]) for row in company.rows("users")] == [
        ("17", True, "01", 41.5),
        ("18", False, None, None),
    ]
    postgres.stop()
    try:
        ended = funnel(company, "doctor")
        (line,) = [line for line in ended.stdout.splitlines() if "source " in line]
        assert (
            line.startswith("failed  source         source.events: cannot be read as jdbc: ")
            and "connect to the database" in line
        )
        assert "half written" not in line
    finally:
        postgres.start()


def at(day: int, hour: int) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


@pytest.mark.usefixtures("spark")
def test_without_its_driver_a_database_is_one_line(make_company: Callable[..., Company]) -> None:
    learn({"password": "s3cret"})
    url = "jdbc:mysql://127.0.0.1:1/db"
    company = make_company(replace=WITHOUT_USERS | jdbc("events", url, 'dbtable = "log"', ""))
    with pytest.raises(
        FunnelError, match=r"source.events: cannot be read as jdbc: .*com.mysql.cj.jdbc.Driver.*spark.jars"
    ):
        ingest(company.context(), DateRange(DAY, DAY))
