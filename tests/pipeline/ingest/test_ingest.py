"""Ingest: every source row has one fate, a range equals its nights, and all kinds of sources land alike."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.dates import DateRange
from pipeline.ingest.ingest import ingest
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS, files_by_day, sms

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
LENIENT = "[audit]\nmax_quarantine_share = 1.0\n"
Row = dict[str, Any]

FIRST_DAY = [
    sms("1", "ann", "2026-03-01T10:00:00+08:00", campaign="spring", offer="cash"),
    sms("2", "ann", "2026-03-01T10:05:00+08:00", type="sms_click"),
    sms("2", "ann", "2026-03-01T10:05:00+08:00", type="sms_click"),
    sms(None, "bob", "2026-03-01T11:00:00+08:00", campaign="spring"),
    sms(None, "bob", "2026-03-01T11:00:00+08:00", campaign="spring"),
    sms("3", None, "2026-03-01T12:00:00+08:00"),
    sms("4", "  ", "2026-03-01T12:00:00+08:00"),
    sms("5", "cat", "2026-03-01T12:00:00+08:00", type="unsubscribe"),
    sms("6", "cat", "2026-03-01T12:00:00+08:00", type=None),
    sms("7", "cat", "yesterday at noon"),
    sms("8", "cat", None),
    # The first instant of the next day in Shanghai, and the last one of this.
    sms("9", "cat", "2026-03-02T00:00:00+08:00"),
    sms("10", "cat", "2026-03-01T23:59:59.999999+08:00"),
]
SECOND_DAY = [
    sms("1", "ann", "2026-03-01T10:00:00+08:00", campaign="spring", offer="cash"),
    sms(None, "bob", "2026-03-01T11:00:00+08:00", campaign="spring"),
    sms("9", "cat", "2026-03-02T00:00:00+08:00"),
    sms("11", "dan", "2026-02-20T09:00:00+08:00"),
]
THIRD_DAY = [
    sms("2", "ann", "2026-03-01T10:05:00+08:00", type="sms_click"),
    sms("12", "ann", "2026-03-03T09:00:00+08:00", type="register"),
]
USERS = [
    {"uid": "ann", "sms_consent": True, "city_tier": "1", "age": 30.0},
    {"uid": "bob", "sms_consent": False, "city_tier": None, "age": None},
    {"uid": "bob", "sms_consent": False, "city_tier": None, "age": None},
    {"uid": None, "sms_consent": True, "city_tier": "1", "age": 30.0},
]

pytestmark = pytest.mark.usefixtures("spark")


def land_three_days(company: Company) -> Company:
    company.land(D1, FIRST_DAY, USERS)
    company.land(D2, SECOND_DAY, USERS[:1])
    company.land(D3, THIRD_DAY, USERS[:2])
    return company


@dataclass
class Loaded:
    """A company whose three days were ingested as one range, and what its tables then held."""

    company: Company
    tables: dict[str, list[Row]] = field(init=False)
    files: dict[str, dict[date, tuple[str, ...]]] = field(init=False)

    def __post_init__(self) -> None:
        ingest(self.company.context(), DateRange(D1, D3))
        self.tables = {name: self.company.rows(name) for name in ("events", "users", "quarantine", "runs")}
        self.files = {name: files_by_day(self.company, name) for name in ("events", "users", "quarantine")}


@pytest.fixture(scope="module")
def loaded(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(land_three_days(Company.make(tmp_path_factory.mktemp("loaded"), LENIENT)))


def test_kept_rows_are_mapped(loaded: Loaded) -> None:
    events = {row["event_id"]: row for row in loaded.tables["events"] if row["event_id"].isdigit()}
    assert sorted(events, key=int) == ["1", "2", "9", "10", "11", "12"]
    assert events["1"] == {
        "event_id": "1",
        "user_id": "ann",
        "event": "exposure",
        "event_time": datetime(2026, 3, 1, 2, tzinfo=UTC),
        "campaign_id": "spring",
        "context": [("offer", "cash")],
        "landed_on": D1,
    }
    assert events["2"]["event"] == "click"
    assert events["2"]["context"] == []
    assert events["11"]["landed_on"] == D2, "a late event lands on the day it came, not on the day it happened"


def test_a_key_lands_once_across_days(loaded: Loaded) -> None:
    landed = sorted((row["user_id"], row["event"], row["landed_on"]) for row in loaded.tables["events"])
    assert landed == [
        ("ann", "click", D1),
        ("ann", "exposure", D1),
        ("ann", "register", D3),
        ("bob", "exposure", D1),
        # What was quarantined as too early is no duplicate when its day has come.
        ("cat", "exposure", D1),
        ("cat", "exposure", D2),
        ("dan", "exposure", D2),
    ]


def test_quarantine_has_the_reason_and_the_raw_row(loaded: Loaded) -> None:
    rejected = loaded.tables["quarantine"]
    assert {row["landed_on"] for row in rejected} == {D1}
    reasons = {json.loads(row["raw"]).get("id", "a user"): row["reason"] for row in rejected}
    assert reasons == {
        "3": "null user",
        "4": "null user",
        "5": "unknown event",
        "6": "null event",
        "7": "unparsable time",
        "8": "unparsable time",
        "9": "future time",
        "a user": "users: null user",
    }
    raw = {row["id"]: row for row in (json.loads(each["raw"]) for each in rejected) if "id" in row}
    for source_row in FIRST_DAY:
        if source_row["id"] in raw:
            assert raw[source_row["id"]] == source_row


def test_every_row_in_is_recorded_as_kept_duplicate_or_quarantined(loaded: Loaded) -> None:
    runs = {row["ds"]: row for row in loaded.tables["runs"]}
    counts = {
        day: tuple(runs[day][name] for name in ("rows_in", "rows_out", "duplicates", "quarantined")) for day in runs
    }
    # Events and users of a day together, counted by hand.
    assert counts == {D1: (17, 4 + 2, 2 + 1, 7 + 1), D2: (5, 2 + 1, 2, 0), D3: (4, 1 + 2, 1, 0)}
    assert all(row["stage"] == "ingest" and row["status"] == "ok" for row in runs.values())
    assert len({row["run_id"] for row in runs.values()}) == 1
    assert loaded.company.lines[-1].startswith("ingest    2026-03-01 to 2026-03-03  12 rows of 26 (6 duplicate, 8 quar")


def test_users_land_once_a_day(loaded: Loaded) -> None:
    users = [(row["landed_on"], row["user_id"], row["consent"], row["age"]) for row in loaded.tables["users"]]
    assert sorted(users) == [
        (D1, "ann", True, 30.0),
        (D1, "bob", False, None),
        (D2, "ann", True, 30.0),
        (D3, "ann", True, 30.0),
        (D3, "bob", False, None),
    ]


@pytest.mark.slow
def test_rerunning_a_date_gives_the_same_partition_and_touches_no_other(loaded: Loaded) -> None:
    ingest(loaded.company.context(), DateRange(D2, D2))
    for name in ("events", "users", "quarantine"):
        assert loaded.company.rows(name) == loaded.tables[name]
        again = files_by_day(loaded.company, name)
        assert {day: again[day] for day in again if day != D2} == {
            day: loaded.files[name][day] for day in loaded.files[name] if day != D2
        }
    assert files_by_day(loaded.company, "events")[D2] != loaded.files["events"][D2], "it was written anew"
    again_run = [row for row in loaded.company.rows("runs") if row["ds"] == D2]
    assert len(again_run) == 2
    assert len({(row["rows_in"], row["rows_out"], row["duplicates"]) for row in again_run}) == 1


@pytest.mark.slow
def test_night_by_night_equals_the_range(loaded: Loaded, make_company: Callable[..., Company]) -> None:
    company = land_three_days(make_company(LENIENT))
    for day in (D1, D2, D3):
        ingest(company.context(), DateRange(day, day))
    for name in ("events", "users", "quarantine"):
        assert company.rows(name) == loaded.tables[name]
    columns = ("ds", "rows_in", "rows_out", "duplicates", "quarantined")
    counts = sorted(tuple(row[name] for name in columns) for row in company.rows("runs"))
    assert counts == sorted(tuple(row[name] for name in columns) for row in loaded.tables["runs"])


@pytest.mark.slow
def test_a_key_is_remembered_for_the_look_back(make_company: Callable[..., Company]) -> None:
    for lookback, kept_on in ((1, [D1, D3]), (2, [D1])):
        company = make_company(
            replace=WITHOUT_USERS | {"[source.events]": f"[source.events]\nlookback_days = {lookback}"}
        )
        for day in (D1, D3):
            # The row of the day's own keeps it from being empty, which would stop the night.
            company.land(
                day, [sms("1", "ann", "2026-03-01T10:00:00+08:00"), sms(f"{day}", "bob", f"{day}T10:00:00+08:00")]
            )
            ingest(company.context(), DateRange(day, day))
        assert [row["landed_on"] for row in company.rows("events") if row["user_id"] == "ann"] == kept_on


def write(company: Company, path: str, text: str) -> None:
    file = company.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def landed(company: Company, first: date = D1, last: date = D3) -> list[tuple[Any, ...]]:
    """Ingest a range; returns of each event what tells one source from another."""
    ingest(company.context(), DateRange(first, last))
    return [(row["event_id"], row["user_id"], row["event"], row["landed_on"]) for row in company.rows("events")]


@pytest.mark.slow
def test_a_csv_file_with_a_landing_column_a_filter_and_expressions(make_company: Callable[..., Company]) -> None:
    company = make_company(
        LENIENT,
        replace=WITHOUT_USERS
        | {
            '[source.events]\npath = "source/events/{ds}"': '[source.events]\nformat = "csv"\npath = "log.csv"\n'
            "where = \"brand = 'ours'\"\noptions = { sep = ';' }",
            'event_id = "id"': "event_id = \"concat(sys, '-', id)\", landed_on = 'day'",
            'user_id = "uid"': 'user_id = "lower(uid)"',
            'offer = "offer"': 'offer = "upper(offer)"',
        },
    )
    write(
        company,
        "log.csv",
        "brand;sys;id;uid;type;ts;campaign;offer;day\n"
        "ours;a;1;ANN;sms_sent;2026-03-01T10:00:00+08:00;c;cash;2026-03-01\n"
        "theirs;a;2;ANN;sms_sent;2026-03-01T10:00:00+08:00;c;cash;2026-03-01\n"
        "ours;a;3;BOB;sms_sent;2026-03-01T10:00:00+08:00;;;2026-03-02\n"
        "ours;a;4;BOB;sms_sent;2026-03-01T10:00:00+08:00;c;cash;2026-03-09\n"
        "ours;a;5;BOB;sms_sent;2026-03-01T10:00:00+08:00;c;cash;someday\n"
        "ours;a;6;CAT\n"
        'ours;a;7;"D;AN";sms_sent;2026-03-03T10:00:00+08:00;c;cash;2026-03-03;one column;too many\n',
    )
    assert landed(company) == [
        ("a-1", "ann", "exposure", D1),
        ("a-3", "bob", "exposure", D2),
    ]
    assert [row["context"] for row in company.rows("events")] == [[("offer", "CASH")], []]
    # A landing day that cannot be read loses no row: it is accounted to the last day.
    rejected = {
        json.loads(row["raw"]).get("id"): (row["reason"], row["landed_on"]) for row in company.rows("quarantine")
    }
    too_many = ("more fields than columns", D3)
    assert rejected == {"5": ("unparsable time", D3), "6": ("null event", D3), None: too_many}
    assert sum(row["rows_in"] for row in company.rows("runs")) == 5, (
        "another brand's row and a later day's are not ours"
    )


@pytest.mark.slow
def test_json_without_a_landing_day_lands_on_its_local_date(make_company: Callable[..., Company]) -> None:
    company = make_company(
        LENIENT,
        replace=WITHOUT_USERS
        | {
            '[source.events]\npath = "source/events/{ds}"': '[source.events]\nraw_content = "all"\n'
            'format = "json"\npath = "log"'
        },
    )
    rows = [
        sms("1", "ann", "2026-03-01T16:30:00Z"),  # half past midnight on March 2 in Shanghai
        sms("2", "ann", "2026-03-01T15:30:00Z"),
        sms("3", "ann", "2026-03-04T00:00:00Z"),
        sms("4", "ann", "at some time"),
    ]
    write(company, "log/a.json", "\n".join(json.dumps(row) for row in rows[:2]))
    write(company, "log/b.json", "\n".join(["{not json", *(json.dumps(row) for row in rows[2:])]))
    assert landed(company) == [("1", "ann", "exposure", D2), ("2", "ann", "exposure", D1)]
    reasons = sorted((row["reason"], row["landed_on"]) for row in company.rows("quarantine"))
    assert reasons == [("malformed JSON", D3), ("unparsable time", D3)]
    assert any("{not json" in row["raw"] for row in company.rows("quarantine"))


@pytest.mark.slow
def test_the_date_in_a_reader_s_options(make_company: Callable[..., Company]) -> None:
    company = make_company(
        replace=WITHOUT_USERS
        | {
            '[source.events]\npath = "source/events/{ds}"': '[source.events]\nformat = "csv"\npath = "exports"\n'
            'options = { pathGlobFilter = "*_{ds}.csv" }'
        },
    )
    header = "id,uid,type,ts,campaign,offer\n"
    for day, number in ((D1, 1), (D2, 2), (D3, 3)):
        # The event happened on the first day; that it landed later is known by the file that was asked for alone.
        write(
            company,
            f"exports/events_{day}.csv",
            f"{header}{number},ann,sms_sent,2026-03-01T0{number}:00:00+08:00,c,cash\n",
        )
    assert landed(company, D2, D3) == [("2", "ann", "exposure", D2), ("3", "ann", "exposure", D3)]


@pytest.mark.slow
def test_csv_columns_may_move_appear_and_disappear(make_company: Callable[..., Company]) -> None:
    company = make_company(replace=WITHOUT_USERS | {"[source.events]": '[source.events]\nformat = "csv"'})
    write(
        company,
        f"source/events/{D1}/a.csv",
        "id,uid,type,ts,campaign,offer\n1,ann,sms_sent,2026-03-01T10:00:00+08:00,c,cash\n",
    )
    write(
        company,
        f"source/events/{D2}/a.csv",
        "uid,more,id,type,offer,ts,campaign\nbob,x,2,sms_sent,loan,2026-03-02T10:00:00+08:00,d\n",
    )
    write(company, f"source/events/{D3}/a.csv", "")
    assert landed(company) == [("1", "ann", "exposure", D1), ("2", "bob", "exposure", D2)]
    assert [(row["campaign_id"], row["context"]) for row in company.rows("events")] == [
        ("c", [("offer", "cash")]),
        ("d", [("offer", "loan")]),
    ]
    # Files of one day may differ, too.
    write(
        company,
        f"source/events/{D1}/b.csv",
        "uid,id,type,ts,campaign,offer\ncat,3,sms_sent,2026-03-01T10:00:00+08:00,c,cash\n",
    )
    assert landed(company, D1, D1) == [
        ("1", "ann", "exposure", D1),
        ("2", "bob", "exposure", D2),
        ("3", "cat", "exposure", D1),
    ]


@pytest.mark.slow
def test_a_parquet_column_is_null_where_files_lack_it(make_company: Callable[..., Company]) -> None:
    company = make_company(replace=WITHOUT_USERS)
    for number, day in enumerate((D1, D2, D3)):
        row = sms(str(number), "ann", f"{day}T10:00:00+08:00", campaign="c", offer="cash")
        gone = {D1: "offer", D2: "", D3: "campaign"}[day]
        company.write("events", day, pa.Table.from_pylist([{key: row[key] for key in row if key != gone}]))
    ingest(company.context(), DateRange(D1, D3))
    assert [(row["campaign_id"], row["context"]) for row in company.rows("events")] == [
        ("c", []),
        ("c", [("offer", "cash")]),
        (None, [("offer", "cash")]),
    ]


@pytest.mark.slow
def test_users_in_one_file_without_dates(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'"source/users/{ds}"': '"users"\nformat = "csv"', "sms_consent": "agreed = 'yes'"})
    for day in (D1, D2):
        company.land(day, [sms(day.isoformat(), "ann", f"{day}T10:00:00+08:00")])
    write(company, "users/all.csv", "uid,agreed,city_tier,age\nann,yes,1,30\nbob,no,2,unknown\n")
    ingest(company.context(), DateRange(D1, D1))
    write(company, "users/all.csv", "uid,agreed,city_tier,age\nann,no,1,30\n")
    ingest(company.context(), DateRange(D2, D2))
    users = [(row["landed_on"], row["user_id"], row["consent"], row["age"]) for row in company.rows("users")]
    assert sorted(users) == [(D1, "ann", True, 30.0), (D1, "bob", False, None), (D2, "ann", False, 30.0)]


@pytest.mark.slow
def test_users_without_dates_land_when_they_change(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'"source/users/{ds}"': '"users"\nformat = "csv"', "sms_consent": "agreed"})
    for day in (D1, D2, D3):
        company.land(day, [sms(day.isoformat(), "ann", f"{day}T10:00:00+08:00")])

    def land(day: date, *lines: str) -> list[tuple[Any, ...]]:
        write(company, "users/all.csv", "\n".join(("uid,agreed,city_tier,age", *lines, "")))
        ingest(company.context(), DateRange(day, day))
        rows = company.rows("users")
        return sorted((row["landed_on"], row["user_id"], row["consent"], row["age"]) for row in rows)

    first = [(D1, "ann", True, 30.0), (D1, "bob", False, None), (D1, "cyd", True, None)]
    assert land(D1, "ann,yes,1,30", "bob,no,,", "cyd,yes,2,") == first
    assert land(D2, "ann,yes,1,30", "bob,no,,", "cyd,yes,2,") == first
    changed = [(D3, "ann", False, 30.0), (D3, "cyd", True, 41.0)]
    assert land(D3, "ann,no,1,30", "bob,no,,", "cyd,yes,2,41") == first + changed
    assert land(D3, "ann,no,1,30", "bob,no,,", "cyd,yes,2,41") == first + changed, "again, from the same rows before"
    run = max(company.rows("runs"), key=lambda row: row["started_at"])
    assert (run["rows_in"], run["rows_out"], run["duplicates"]) == (4, 3, 1), "an event, and bob again"
    # Whom the source has no more: without the row, cyd's earlier consent would hold again.
    assert land(D3, "cyd,yes,2,41") == first + changed, "a withdrawal is not lost with the night that it landed on"
    assert land(D3, "ann,,1,30", "cyd,yes,2,41") == first + changed, "nor by the source's silence"
    assert land(D1, "ann,yes,1,31")[:2] == [(D1, "ann", True, 31.0), (D1, "bob", False, None)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a+b c", "per%20cent", "[1]{x,y}*"])
def test_a_folder_s_name_may_have_any_character(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    company = Company.make(folder, replace=WITHOUT_USERS)
    company.land(D1, [sms("1", "ann", "2026-03-01T10:00:00+08:00")])
    assert landed(company, D1, D1) == [("1", "ann", "exposure", D1)]
    ingest(company.context(), DateRange(D1, D1))
    assert len(company.rows("events")) == 1


@pytest.mark.slow
def test_an_unreadable_consent_is_a_withdrawal(
    make_company: Callable[..., Company],
) -> None:
    company = make_company(
        replace={
            '[source.users]\npath = "source/users/{ds}"': '[source.users]\nformat = "csv"\npath = "source/users/{ds}"'
        }
    )
    company.land(D1, [sms("1", "ann", "2026-03-01T10:00:00+08:00")])
    (company.folder / "source" / "users" / D1.isoformat() / "part-0.parquet").unlink()
    said = {"yes": True, "true": True, "1": True, "no": False, "false": False, "revoked": False, "": None}
    lines = "".join(f"u{number},{word},t1,30\n" for number, word in enumerate(said))
    write(company, f"source/users/{D1}/a.csv", f"uid,sms_consent,city_tier,age\n{lines}")
    ingest(company.context(), DateRange(D1, D1))
    assert [row["consent"] for row in sorted(company.rows("users"), key=lambda row: row["user_id"])] == [*said.values()]
