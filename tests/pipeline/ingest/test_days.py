"""A range reads as its nights do: each day by its own columns and types, whatever the days around it look like."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc
import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.ingest import ingest
from pipeline.ingest.landing import land_events, land_users
from pipeline.runs.record import StageRun
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS, sms

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
DAYS = (D1, D2, D3)
Row = dict[str, Any]
EVENTS = '[source.events]\npath = "source/events/{ds}"'

pytestmark = pytest.mark.usefixtures("spark")


def land(company: Company, *days: date, users: bool = False) -> tuple[list[Row], list[str]]:
    """Read and map a range; returns its rows, but for raw content that only rejected ones have, and the warnings."""
    run = StageRun(company.context(), "ingest", DateRange(days[0], days[-1]))
    with land_users(run) if users else land_events(run) as landing:
        rows = [row.asDict(recursive=True) for row in landing.kept.collect()]
    return sorted(rows, key=repr), [warning.line for warning in run.warnings]


def as_nights(company: Company, *days: date) -> list[Row]:
    """What the nights of these days read, one by one; none finds events of another, since nothing is published."""
    return sorted((row for day in days for row in land(company, day)[0]), key=repr)


def event(day: date, number: int, **more: Any) -> Row:
    row = sms(f"{day}-{number}", "ann", f"{day}T10:00:00+08:00", campaign="c", offer="cash") | more
    return {name: value for name, value in row.items() if value is not None}


def at_ten(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 2, tzinfo=UTC)


def test_types_that_change_between_days_and_files(make_company: Callable[..., Company]) -> None:
    company = make_company(replace=WITHOUT_USERS)
    nanoseconds, zoned = pa.timestamp("ns"), pa.timestamp("ns", "UTC")
    tables = {
        D1: pa.Table.from_pylist([event(D1, 1, id=1, build=7)]),
        D2: pa.table({**columns_of(event(D2, 1, build="7b")), "ts": pa.array([datetime(2026, 3, 2, 10)], nanoseconds)}),
        D3: pa.table({**columns_of(event(D3, 1, build=7.5)), "ts": pa.array([at_ten(D3)], zoned)}),
    }
    for day, table in tables.items():
        company.write("events", day, table)
    # Files of one day need not agree either.
    folder = company.folder / "source" / "events" / D3.isoformat()
    pa.parquet.write_table(pa.Table.from_pylist([event(D3, 2, campaign=4)]), folder / "part-1.parquet")
    rows, warnings = land(company, *DAYS)
    found = {row["event_id"]: (row["event_time"].astimezone(UTC), row["campaign_id"]) for row in rows}
    assert found == {
        "1": (at_ten(D1), "c"),
        f"{D2}-1": (at_ten(D2), "c"),
        f"{D3}-1": (at_ten(D3), "c"),
        f"{D3}-2": (at_ten(D3), "4"),
    }
    assert rows == as_nights(company, *DAYS)
    assert warnings == []


def columns_of(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [value] for name, value in row.items()}


def test_types_that_spark_cannot_read(make_company: Callable[..., Company]) -> None:
    company = make_company(replace=WITHOUT_USERS)
    ids = [bytes(range(16)), None]
    strange = {
        "half": pa.array([1.5, None], pa.float16()),
        "wide": pa.array([1, None], pa.decimal256(50, 0)),
        "opens": pa.array([time(9), None], pa.time64("us")),
        "shuts": pa.array([time(9), None], pa.time64("ns")),
        "key": pa.array(ids, pa.uuid()),
        "nested": pa.array([{"at": at_ten(D1)}, None], pa.struct([("at", pa.timestamp("ns", "UTC"))])),
        "nothing": pa.nulls(2),
        "count": pa.array([2**64 - 1, None], pa.uint64()),
        "Build": pa.array([1, None]),
        "BUILD": pa.array([2, None]),
    }
    plain = pa.Table.from_pylist([event(D1, 1), event(D1, 2)]).to_pydict()
    company.write("events", D1, pa.table({**plain, **strange}))
    company.write("events", D2, pa.table({**plain, **strange, "id": pa.array(ids, pa.uuid())}))
    assert [row["event_id"] for row in land(company, D1)[0]] == [f"{D1}-1", f"{D1}-2"]
    with_id, without_id = sorted((row["event_id"] for row in land(company, D2)[0]), key=len)
    assert (with_id, len(without_id)) == ("00010203-0405-0607-0809-0a0b0c0d0e0f", 64)
    for column, cure in (("half", "text"), ("wide", "text"), ("nested", "microseconds"), ("build", "caseSensitive")):
        mapped = make_company(replace=WITHOUT_USERS | {'offer = "offer"': f'offer = "lower({column})"'})
        mapped.write("events", D1, pa.table({**plain, **strange}))
        with pytest.raises(FunnelError) as raised:
            land(mapped, D1)
        for fact in (f"context.offer = 'lower({column})'", column, f"{D1}/part-0.parquet", cure):
            assert fact.lower() in str(raised.value).lower()


@pytest.mark.parametrize("kind", ["csv", "json", "orc", "parquet"])
def test_days_in_subfolders(make_company: Callable[..., Company], kind: str) -> None:
    where = EVENTS.replace("[source.events]", f'[source.events]\nformat = "{kind}"')
    company = make_company(replace=WITHOUT_USERS | {EVENTS: where, 'offer = "offer"': 'offer = "offer", h = "hour"'})
    days = company.folder / "source" / "events"
    folders = {f"{D1}/hour=09": 1, f"{D1}/hour=10": 2, f"{D2}/hour=9 a%3A": 1, f"{D2}/x/hour=11": 2, f"{D3}/hour=09": 1}
    for folder, number in folders.items():
        write(days / folder, kind, [event(date.fromisoformat(folder[:10]), number)])
    # What a committer leaves behind or begins with is no data.
    write(days / f"{D1}/_temporary/0", kind, [event(D1, 3)])
    rows, _ = land(company, *DAYS)
    found = {row["event_id"]: dict(row["context"])["h"] for row in rows}
    assert found == {f"{D1}-1": "9", f"{D1}-2": "10", f"{D2}-1": "9 a:", f"{D2}-2": "11", f"{D3}-1": "9"}
    assert rows == as_nights(company, *DAYS)


def write(folder: Path, kind: str, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"part.{kind}"
    if kind == "json":
        file.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "csv":
        lines = [",".join(map(str, row.values())) for row in rows]
        file.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    else:
        module = {"orc": pyarrow.orc, "parquet": pyarrow.parquet}[kind]
        module.write_table(pa.Table.from_pylist(rows), file)


def test_a_field_that_is_absent_for_a_day_is_null_and_told(make_company: Callable[..., Company]) -> None:
    context = 'tone = "upper(tone)", tier = "user.tier", offer = "offer"'
    company = make_company(
        replace=WITHOUT_USERS
        | {EVENTS: EVENTS.replace("]", ']\nformat = "json"'), 'offer = "offer"': context, '"offer", "hour"': '"hour"'}
    )
    days = company.folder / "source" / "events"
    write(days / D1.isoformat(), "json", [event(D1, 1, offer=None, user={"name": "x"}, amount=1)])
    write(days / D2.isoformat(), "json", [event(D2, 1, tone="low", user={"tier": "a"}, amount=1.5)])
    write(days / D3.isoformat(), "json", [event(D3, 1, campaign=None)])
    rows, warnings = land(company, *DAYS)
    assert [dict(row["context"]) for row in rows] == [
        {},
        {"tone": "LOW", "tier": "a", "offer": "cash"},
        {"offer": "cash"},
    ]
    assert rows == as_nights(company, *DAYS)
    told = " ".join(warnings)
    for column, day in (("offer", D1), ("tone", D1), ("user.tier", D1), ("user", D3), ("campaign", D3)):
        assert f"no column '{column}' on {day}" in told
    # What no day has is a mistake, and so is a day without times.
    write(days / D3.isoformat(), "json", [event(D3, 1, ts=None)])
    with pytest.raises(FunnelError, match=rf"source.events.columns.event_time = 'ts'.*campaign, id, .*{D3}/part.json"):
        land(company, *DAYS)
    wrong = company.config.read_text().replace('"upper(tone)"', '"upper(tune)"')
    company.config.write_text(wrong)
    with pytest.raises(FunnelError, match=r"source.events.context.tone = 'upper\(tune\)'.*tone"):
        land(company, D2)


def test_declared_columns(make_company: Callable[..., Company]) -> None:
    """One that no day has is null; without a header, CSV has them in order; JSON's text is as written."""
    declared = EVENTS.replace("]", ']\nformat = "json"\nschema = "campaign STRING, offer STRING, amount STRING"')
    context = {'offer = "offer"': 'offer = "offer", amount = "amount"'}
    company = make_company(replace=WITHOUT_USERS | {EVENTS: declared} | context)
    folder = company.folder / "source" / "events" / D1.isoformat()
    write(folder, "json", [event(D1, 1, offer=None, campaign=None, amount=1.10)])
    (folder / "part.json").write_text((folder / "part.json").read_text().replace("1.1", "1.10"))
    (row,), warnings = land(company, D1)
    assert (row["campaign_id"], dict(row["context"]), warnings) == (None, {"amount": "1.10"}, [])
    names = "id STRING, uid STRING, type STRING, ts STRING, campaign STRING, offer STRING"
    csv = EVENTS.replace("]", f']\nformat = "csv"\noptions = {{ header = "false" }}\nschema = "{names}"')
    company = make_company(replace=WITHOUT_USERS | {EVENTS: csv})
    folder = company.folder / "source" / "events" / D1.isoformat()
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text(",".join(map(str, event(D1, 1).values())) + "\n")
    (row,), _ = land(company, D1)
    assert (row["event_id"], row["campaign_id"], dict(row["context"])) == (f"{D1}-1", "c", {"offer": "cash"})
    company.config.write_text(company.config.read_text().replace("id STRING", "id TEXTUAL"))
    with pytest.raises(FunnelError, match=r"source.events.schema = 'id TEXTUAL.*TEXTUAL"):
        land(company, D1)


def test_a_day_that_is_missing_stops_the_night_or_is_empty(make_company: Callable[..., Company]) -> None:
    company = make_company(replace=WITHOUT_USERS)
    company.land(D1, [event(D1, 1)])
    with pytest.raises(FunnelError, match=rf"nothing at .*{D2} \(and 1 more of 3 days\).*missing_day = \"empty\""):
        land(company, *DAYS)
    company.config.write_text(company.config.read_text().replace(EVENTS, f'{EVENTS}\nmissing_day = "empty"'))
    assert [row["event_id"] for row in land(company, *DAYS)[0]] == [f"{D1}-1"]
    assert land(company, D3)[0] == []


def test_a_source_without_a_row_is_told_on_the_first_night(make_company: Callable[..., Company]) -> None:
    company = make_company(replace=WITHOUT_USERS | {EVENTS: f"{EVENTS}\nwhere = \"uid = 'nobody'\""})
    company.land(D1, [event(D1, 1)])
    ingest(company.context(), DateRange(D1, D1))
    assert [line for line in company.lines if "the source has no row 2026-03-01, and none landed before" in line]


def test_a_consent_that_is_absent_for_a_day_stops_the_night(company: Company) -> None:
    for day, columns in ((D1, {"uid": ["ann"], "sms_consent": [False]}), (D2, {"uid": ["ann"]})):
        company.write("users", day, pa.table({**columns, "city_tier": ["1"], "age": [30.0]}))
    with pytest.raises(FunnelError, match=rf"source.users.columns.consent = 'sms_consent'.*{D2}/part-0.parquet"):
        land(company, D1, D2, users=True)


def test_quotes_in_csv_are_doubled_as_spreadsheets_write_them(make_company: Callable[..., Company]) -> None:
    company = make_company(replace=WITHOUT_USERS | {EVENTS: f'{EVENTS}\nformat = "csv"'})
    path = company.folder / "source" / "events" / D1.isoformat() / "log.csv"
    path.parent.mkdir(parents=True)
    path.write_text('id,uid,type,ts,campaign,offer\n1,ann,sms_sent,2026-03-01T10:00:00+08:00,"a ""b"", \\c",cash\n')
    assert [row["campaign_id"] for row in land(company, D1)[0]] == ['a "b", \\c']


@pytest.mark.parametrize(
    ("format", "content", "cure"),
    [
        ("csv", "id;uid;type;ts;campaign;offer\n", 'options = { sep = ";" }'),
        ("json", '[\n{"id": "1",\n"uid": "ann"}\n]\n', 'options = { multiLine = "true" }'),
    ],
)
def test_a_file_read_as_one_column_is_told_the_likely_option(
    make_company: Callable[..., Company], format: str, content: str, cure: str
) -> None:
    company = make_company(replace=WITHOUT_USERS | {EVENTS: f'{EVENTS}\nformat = "{format}"'})
    path = company.folder / "source" / "events" / D1.isoformat() / f"log.{format}"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(FunnelError, match="does not fit the source") as raised:
        land(company, D1)
    assert cure in str(raised.value) and "__funnelcast" not in str(raised.value)
