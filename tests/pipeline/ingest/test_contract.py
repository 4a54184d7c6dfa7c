"""Random sources against the contract of the landing in plain Python: types, values, missing columns, days."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from math import isnan, nan
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.dates import DateRange
from pipeline.ingest.landing import land_events
from pipeline.runs.record import StageRun
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS

ZONE = ZoneInfo("Asia/Shanghai")
FIRST = date(2026, 3, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(4)]
FILES_A_CASE, ROWS_A_FILE, CASES = 8, 50, 5
"""Together 2,000 rows, each of a type, a value and a day of its own."""
EVENTS = {"sms_sent": "exposure", "sms_click": "click", "register": "register"}
Value = Any

TEXTS: dict[pa.DataType, list[Value]] = {
    pa.string(): ["a", " a\t", "\u00a0b", "B", "017", "17.0", "", "  ", None],
    pa.large_string(): ["a", "b ", None],
    pa.int64(): [17, 0, -3, 2**53 + 1, None],
    pa.int8(): [17, None],
    pa.uint64(): [17, 2**64 - 1, None],
    pa.float64(): [17.0, 1.5, -0.25, nan, None],
    pa.float32(): [17.0, 0.5, None],
    pa.decimal128(20, 2): [Decimal("17.00"), Decimal("17.50"), Decimal("0.00"), None],
    pa.bool_(): [True, None],
    pa.date32(): [FIRST, None],
}
EVENT_TEXTS = ["sms_sent", "sms_sent", "sms_sent ", "sms_click", "register", "Register", "", None]
AT_TEN, LONG_AGO = datetime(2026, 3, 1, 2, tzinfo=UTC), "time before 2000-01-01"
TIMES: dict[pa.DataType, list[tuple[Value, datetime | str]]] = {
    pa.string(): [
        ("2026-03-01T10:00:00+08:00", AT_TEN),
        (" 2026-03-01T02:00:00Z ", AT_TEN),
        ("2026-03-01 10:00", AT_TEN),
        ("2026-03-01", AT_TEN - timedelta(hours=10)),
        ("1772330400", AT_TEN),
        ("2026-03-04T23:59:59.999999+08:00", AT_TEN + timedelta(days=3, hours=14, microseconds=-1)),
        ("1999-12-31T15:59:59Z", LONG_AGO),
        ("20260301", "date written as a number"),
        ("2026-03-01T10:00:00 CST", "ambiguous time zone"),
        ("soon", "unparsable time"),
        ("", "unparsable time"),
        (None, "unparsable time"),
    ],
    pa.int64(): [
        (1772330400, AT_TEN),
        (1772330400000, "time in milliseconds"),
        (1772330400000000, "time in microseconds"),
        (2026, "year written as a number"),
        (None, "unparsable time"),
    ],
    pa.timestamp("us", "UTC"): [(AT_TEN, AT_TEN), (datetime(1970, 1, 1, tzinfo=UTC), LONG_AGO)],
    pa.timestamp("ns", "UTC"): [(AT_TEN, AT_TEN), (None, "unparsable time")],
    pa.timestamp("ms"): [(datetime(2026, 3, 1, 10), AT_TEN)],
    pa.timestamp("ns"): [(datetime(2026, 3, 1, 10), AT_TEN), (datetime(1970, 1, 1), LONG_AGO)],
    pa.date32(): [(FIRST, AT_TEN - timedelta(hours=10)), (date(1900, 1, 1), LONG_AGO)],
}


def text(value: Value) -> str | None:
    """A value as text: whole numbers are their digits, blanks at the ends are cut."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return str(int(value)) if value == int(value) else str(value).rstrip("0")
    return str(value).strip()


@st.composite
def a_file(draw: st.DrawFn, *, is_complete: bool) -> tuple[date, pa.Table, list[datetime | str]]:
    """A day, the rows of a file, and what each row's time means."""
    day = draw(st.sampled_from(DAYS))
    columns: dict[str, pa.Array] = {}
    for name in ("id", "uid", "campaign", "offer"):
        kind = draw(st.sampled_from(list(TEXTS)))
        columns[name] = pa.array([draw(st.sampled_from(TEXTS[kind])) for _ in range(ROWS_A_FILE)], kind)
    columns["type"] = pa.array([draw(st.sampled_from(EVENT_TEXTS)) for _ in range(ROWS_A_FILE)])
    kind = draw(st.sampled_from(list(TIMES)))
    times = [draw(st.sampled_from(TIMES[kind])) for _ in range(ROWS_A_FILE)]
    columns["ts"] = pa.array([written for written, _ in times], kind)
    gone = set() if is_complete else draw(st.sets(st.sampled_from(["id", "campaign", "offer"])))
    order = draw(st.permutations([name for name in columns if name not in gone]))
    return day, pa.table({name: columns[name] for name in order}), [meant for _, meant in times]


def fate_of(row: dict[str, Value], meant: datetime | str, day: date) -> tuple[Any, ...] | str:
    """The event that a row is: id, user, event, time, campaign and context; or why it is rejected."""
    event = text(row["type"])
    if not text(row["uid"]):
        return "null user"
    if event is None:
        return "null event"
    if event not in EVENTS:
        return "unknown event"
    if isinstance(meant, str):
        return meant
    if meant >= datetime(day.year, day.month, day.day, tzinfo=ZONE) + timedelta(days=1):
        return "future time"
    offer = text(row.get("offer"))
    context = () if offer is None else (("offer", offer),)
    return (text(row.get("id")) or None, text(row["uid"]), EVENTS[event], meant, text(row.get("campaign")), context)


def identity(event: tuple[Any, ...]) -> tuple[Any, ...]:
    return event[:4] if event[0] is not None else event


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_every_row_has_the_fate_of_the_contract(make_company: Callable[..., Company]) -> None:
    sources = st.tuples(a_file(is_complete=True), *(a_file(is_complete=False) for _ in range(FILES_A_CASE - 1)))

    @given(sources)
    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def compare(files: tuple[tuple[date, pa.Table, list[datetime | str]], ...]) -> None:
        company = make_company(replace=WITHOUT_USERS | {"[source.events]": '[source.events]\nmissing_day = "empty"'})
        fates = []
        for number, (day, table, times) in enumerate(files):
            company.write(f"events/{day}", day, table)
            written = company.folder / "source" / "events" / str(day) / str(day)
            (written / "part-0.parquet").rename(written / f"{number}.parquet")
            fates += [(day, fate_of(row, time, day)) for row, time in zip(table.to_pylist(), times, strict=True)]
        assert land(company) == expect(fates)

    compare()


def expect(fates: list[tuple[date, tuple[Any, ...] | str]]) -> tuple[Counter, Counter]:
    """Rejected rows by day and reason, and kept events by day and identity."""
    rejected = Counter((day, fate) for day, fate in fates if isinstance(fate, str))
    kept: dict[Any, date] = {}
    for day, event in sorted((each for each in fates if not isinstance(each[1], str)), key=lambda each: each[0]):
        kept.setdefault(identity(event), day)
    return rejected, Counter((day, key) for key, day in kept.items())


def land(company: Company) -> tuple[Counter, Counter]:
    run = StageRun(company.context(), "ingest", DateRange(DAYS[0], DAYS[-1]))
    with land_events(run) as landing:
        rows = [row.asDict() for row in landing.rows.collect()]
    rejected = Counter((row["landed_on"], row["reason"]) for row in rows if row["fate"] == "quarantined")
    events: Counter = Counter()
    for row in rows:
        if row["fate"] == "kept":
            event_id = None if len(row["event_id"]) == 64 else row["event_id"]
            context = tuple((row["context"] or {}).items())
            time = row["event_time"].astimezone(UTC)
            event = (event_id, row["user_id"], row["event"], time, row["campaign_id"], context)
            events[row["landed_on"], identity(event)] += 1
    return rejected, events
