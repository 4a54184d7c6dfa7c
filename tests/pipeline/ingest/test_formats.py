"""Every format that the page names, on small real files: the rows are those of the same content in Parquet."""

import gzip
import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.orc
import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.arrivals import days_delivered, find_missing
from pipeline.ingest.delivered import find_delivered
from pipeline.ingest.landing import land_events, land_users
from pipeline.runs.record import StageRun
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS

D1, D2 = (date(2026, 3, 1) + timedelta(days=n) for n in range(2))
Row = dict[str, Any]
AT_TEN = "2026-03-01T10:00:00+08:00"
"""02:00 in UTC."""

pytestmark = pytest.mark.usefixtures("spark")


def events(day: date) -> list[Row]:
    """Two rows, whose values formats are tempted to change: zeros ahead, digits beyond 2^53, a comma, a null."""
    time = f"{day}T10:00:00+08:00"
    first = {"id": f"00{day.day}", "uid": "9007199254740993", "type": "sms_sent", "ts": time, "campaign": "a, b"}
    return [first | {"offer": "1.50"}, {**first, "id": f"x{day.day}", "campaign": None, "offer": "é"}]


def users(day: date) -> list[Row]:
    return [{"uid": "9007199254740993", "sms_consent": day == D1, "city_tier": "01", "age": 41.5}]


def csv_lines(rows: list[Row]) -> str:
    return "\n".join([",".join(rows[0]), *(",".join(map(_cell, row.values())) for row in rows)]) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f'"{value}"' if "," in str(value) else str(value)


def json_lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_orc(path: Path, rows: list[Row]) -> None:
    pa.orc.write_table(pa.Table.from_pylist(rows), path)


def write_parquet(path: Path, rows: list[Row]) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)


WRITERS: Mapping[str, tuple[str, Callable[[Path, list[Row]], Any]]] = {
    "csv": ("csv", lambda path, rows: path.write_text(csv_lines(rows))),
    "csv.gz": ("csv", lambda path, rows: path.write_bytes(gzip.compress(csv_lines(rows).encode()))),
    "csv.zst": (
        "csv",
        lambda path, rows: path.write_bytes(pa.compress(csv_lines(rows).encode(), "zstd", asbytes=True)),
    ),
    "json": ("json", lambda path, rows: path.write_text(json_lines(rows))),
    "json.gz": ("json", lambda path, rows: path.write_bytes(gzip.compress(json_lines(rows).encode()))),
    "orc": ("orc", write_orc),
    "parquet": ("parquet", write_parquet),
}
"""By a file's ending: the format's name in the configuration, and what writes rows to a file."""


def make(folder: Path, kind: str, where: str, columns: str = "") -> Company:
    """A company whose events and users lie, by day, in files of a kind.

    Args:
        where: a file's folder below `source/events` and `source/users`.
        columns: what is mapped besides.
    """
    format, write = WRITERS[kind]
    path = where if "landed_on" not in columns else ""
    replace = {}
    for name, rows_of in (("events", events), ("users", users)):
        for day in (D1, D2):
            there = folder / "source" / name / where.format(ds=day)
            there.mkdir(parents=True)
            write(there / f"part.{kind}", rows_of(day))
        replace[f'path = "source/{name}/{{ds}}"'] = f'format = "{format}"\npath = "source/{name}/{path}"'
    if columns:
        replace['user_id = "uid"'] = f'user_id = "uid", {columns}'
    return Company.make(folder, replace=replace)


def land(company: Company) -> list[list[Row]]:
    """Events and users of both days as they would land."""
    run = StageRun(company.context(), "ingest", DateRange(D1, D2))
    with land_events(run) as landed, land_users(run) as profiles:
        assert profiles is not None
        return [sorted((row.asDict() for row in each.kept.collect()), key=_place) for each in (landed, profiles)]


def _place(row: Row) -> str:
    return str(row.get("event_id", row["landed_on"]))


@pytest.fixture(scope="module")
def as_parquet(spark: None, tmp_path_factory: pytest.TempPathFactory) -> list[list[Row]]:
    rows = land(make(tmp_path_factory.mktemp("parquet"), "parquet", "{ds}"))
    assert [(row["event_id"], row["user_id"], row["campaign_id"], row["context"]) for row in rows[0]] == [
        ("001", "9007199254740993", "a, b", {"offer": "1.50"}),
        ("002", "9007199254740993", "a, b", {"offer": "1.50"}),
        ("x1", "9007199254740993", None, {"offer": "é"}),
        ("x2", "9007199254740993", None, {"offer": "é"}),
    ]
    assert [(row["consent"], row["city_tier"], row["age"]) for row in rows[1]] == [
        (True, "01", 41.5),
        (False, "01", 41.5),
    ]
    return rows


@pytest.mark.parametrize("kind", [each for each in WRITERS if each != "parquet"])
def test_a_format_lands_as_parquet_does(as_parquet: list[list[Row]], tmp_path: Path, kind: str) -> None:
    assert land(make(tmp_path, kind, "{ds}")) == as_parquet


@pytest.mark.parametrize("kind", ["parquet", "csv.gz"])
def test_folders_of_hive_name_the_landing_day(as_parquet: list[list[Row]], tmp_path: Path, kind: str) -> None:
    company = make(tmp_path, kind, "dt={ds}")
    assert land(company) == as_parquet
    assert days_delivered(company.settings) == [D1, D2]
    assert find_missing(company.settings, D2) is None
    assert f"nothing at {tmp_path}/source/events/dt=2026-03-03" in str(find_missing(company.settings, date(2026, 3, 3)))


def test_folders_of_hive_are_a_column(as_parquet: list[list[Row]], tmp_path: Path) -> None:
    company = make(tmp_path, "parquet", "dt={ds}", 'landed_on = "dt"')
    assert land(company) == as_parquet
    assert find_delivered(company.context(), [D1, D2, date(2026, 3, 3)]) == [D1, D2]
    # Its path names no day to wait for; `ready` does.
    text = company.config.read_text().replace("[source.events]", '[source.events]\nready = "source/events/dt={ds}"')
    company.config.write_text(text)
    assert find_missing(company.settings, D2) is None
    assert "source.events.ready: nothing at" in str(find_missing(company.settings, date(2026, 3, 3)))


def test_folders_of_hive_by_year_month_and_day(as_parquet: list[list[Row]], tmp_path: Path) -> None:
    folders = "y={ds:%Y}/m={ds:%m}/d={ds:%d}"
    assert land(make(tmp_path, "parquet", folders, 'landed_on = "make_date(y, m, d)"')) == as_parquet


@pytest.mark.parametrize(
    ("own", "differs"),
    [
        (pa.array([D1]), False),
        (pa.array(["2026-03-01"]), False),
        (pa.array([datetime(2026, 3, 1, 17)]), True),
        (pa.array(["spring"]), True),
    ],
)
def test_a_column_that_a_folder_hides(make_company: Callable[..., Company], own: pa.Array, differs: bool) -> None:
    where = {
        '"source/events/{ds}"': '"source/events"',
        'user_id = "uid", event': 'user_id = "uid", landed_on = "dt", event',
    }
    company = make_company(replace=WITHOUT_USERS | where)
    folder = company.folder / "source" / "events" / f"dt={D1}"
    folder.mkdir(parents=True)
    pa.parquet.write_table(pa.Table.from_pylist(events(D1)[:1]).append_column("dt", own), folder / "part.parquet")
    run = StageRun(company.context(), "ingest", DateRange(D1, D1))
    if differs:
        with pytest.raises(
            FunnelError, match=r"columns.landed_on = 'dt': 'dt' is a column of the files and a folder.*dt="
        ):
            land_events(run).__enter__()
        # Named in the path, the folder is no column, and the files keep theirs.
        text = company.config.read_text().replace('"source/events"', '"source/events/dt={ds}"')
        company.config.write_text(
            text.replace(', landed_on = "dt"', ', campaign_id = "dt"').replace(', campaign_id = "campaign"', "")
        )
        run = StageRun(company.context(), "ingest", DateRange(D1, D1))
    with land_events(run) as landed:
        (row,) = landed.kept.collect()
    assert row["landed_on"] == D1
    assert row["campaign_id"] in (("spring", "2026-03-01 17:00:00") if differs else ("a, b",))


def write_orc_times(path: Path, times: pa.Array) -> None:
    ids = [str(number) for number in range(len(times))]
    rows = {"id": ids, "uid": ["ann"] * len(ids), "type": ["sms_sent"] * len(ids), "campaign": ids, "offer": ids}
    nested = pa.array(
        [{"at": time, "x": 1} for time in times.to_pylist()], pa.struct([("at", times.type), ("x", pa.int8())])
    )
    pa.orc.write_table(pa.table({**rows, "ts": times, "nested": nested}), path)


@pytest.mark.parametrize("column", ["ts", "nested.at"])
def test_orc_s_times_without_a_zone_are_the_funnel_s(make_company: Callable[..., Company], column: str) -> None:
    company = make_company(
        replace=WITHOUT_USERS
        | {"[source.events]": '[source.events]\nformat = "orc"', 'event_time = "ts"': f'event_time = "{column}"'}
    )
    folder = company.folder / "source" / "events" / D1.isoformat()
    folder.mkdir(parents=True)
    write_orc_times(folder / "wall.orc", pa.array([datetime(2026, 3, 1, 10), None], pa.timestamp("us")))
    write_orc_times(folder / "instant.orc", pa.array([datetime(2026, 3, 1, 3, tzinfo=UTC)], pa.timestamp("us", "UTC")))
    spark = company.context().spark
    instants = spark.sql(
        "SELECT '9' AS id, 'ann' AS uid, 'sms_sent' AS type, '9' AS campaign, '9' AS offer, "
        "TIMESTAMP '2026-03-01 04:00:00Z' AS ts, named_struct('at', TIMESTAMP '2026-03-01 04:00:00Z') AS nested"
    )
    instants.write.mode("append").orc(str(folder))
    run = StageRun(company.context(), "ingest", DateRange(D1, D1))
    with land_events(run) as landed:
        found = sorted(row["event_time"].astimezone(UTC).hour for row in landed.kept.collect())
        assert [row["reason"] for row in landed.quarantined.collect()] == ["unparsable time"]
    assert found == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (
            "log.csv",
            gzip.compress(csv_lines(events(D1)).encode()),
            "it is compressed by gzip: give its name the ending .gz",
        ),
        ("log.csv.gz", gzip.compress(csv_lines(events(D1) * 2000).encode())[:-200], "log.csv.gz"),
    ],
)
def test_gzip_that_cannot_be_read_stops_the_night(
    make_company: Callable[..., Company], name: str, content: bytes, line: str
) -> None:
    from pipeline.ingest.ingest import ingest

    company = make_company(replace=WITHOUT_USERS | {"[source.events]": '[source.events]\nformat = "csv"'})
    folder = company.folder / "source" / "events" / D1.isoformat()
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    with pytest.raises(FunnelError, match=line):
        ingest(company.context(), DateRange(D1, D1))
    assert company.rows("events") == []
