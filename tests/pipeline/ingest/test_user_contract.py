"""Random profiles against the contract of the landing in plain Python: types, values, bytes that are no UTF-8, days."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from math import inf, nan
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.audits.unreadable import ColumnRead
from pipeline.dates import DateRange
from pipeline.ingest.landing import land_users
from pipeline.runs.record import StageRun
from tests.support.company import Company

DAYS = [date(2026, 3, 1) + timedelta(days=n) for n in range(3)]
FILES_A_CASE, ROWS_A_FILE, CASES = 8, 50, 5
"""Together 2,000 rows."""
COLUMNS = ("user_id", "consent", "city_tier", "age")


@dataclass(frozen=True)
class Cell:
    """A value of the source, what it is read as, and how it is told of if it cannot be read."""

    written: Any
    read: Any = None
    lost: str | None = None


NOTHING = Cell(None)
NO_UTF8 = Cell(b"jos\xe9", None, "jos\ufffd")
USERS = {
    pa.string(): [Cell(b"u1", "u1"), Cell(b" u2\t", "u2"), Cell(b"17", "17"), Cell(b" ", ""), NO_UTF8, NOTHING],
    pa.int64(): [Cell(17, "17"), Cell(0, "0"), NOTHING],
    pa.float64(): [Cell(17.0, "17"), Cell(nan), NOTHING],
}
TIERS = {
    pa.string(): [Cell(b"gold", "gold"), Cell("\u00a0gold".encode(), "gold"), Cell(b"a,b", "a,b"), NO_UTF8, NOTHING],
    pa.int8(): [Cell(1, "1"), Cell(2, "2"), NOTHING],
    pa.bool_(): [Cell(True, "true"), NOTHING],
}
CONSENTS = {
    pa.string(): [
        *(Cell(word, True) for word in (b"true", b" YES ", b"1", b"1.0", b"Ja")),
        *(Cell(word, False) for word in (b"false", b"n", b"0", b"NEIN")),
        Cell(b"granted", False, "granted"),
        Cell(b"\xff", False, "\ufffd"),
        Cell(b""),
        NOTHING,
    ],
    pa.bool_(): [Cell(True, True), Cell(False, False), NOTHING],
    pa.int64(): [Cell(1, True), Cell(0, False), Cell(2, False, "2"), NOTHING],
}
AGES = {
    pa.float64(): [Cell(41.0, 41.0), Cell(nan), Cell(inf, None, "Infinity"), NOTHING],
    pa.decimal128(10, 2): [Cell(Decimal("41.50"), 41.5), NOTHING],
    pa.bool_(): [Cell(True, 1.0), NOTHING],
}
WORDS = [Cell(b" 41 ", 41.0), Cell(b"yes", 1.0), Cell(b"No", 0.0), Cell(b"nan"), Cell(b""), Cell(b"x", None, "x")]
WITH_POINTS = [
    *WORDS,
    Cell(b"4.5", 4.5),
    Cell(b"1e3", 1000.0),
    Cell(b"4,5", None, "4,5"),
    Cell(b"\xb5", None, "\ufffd"),
]
WITH_COMMAS = [
    *WORDS,
    Cell(b"4,5", 4.5),
    Cell(b"1.000,50", 1000.5),
    Cell(b"1 000", 1000.0),
    Cell(b"4.5", None, "4.5"),
    Cell(b"1e3", None, "1e3"),
]


def column(kind: pa.DataType, cells: list[Cell]) -> pa.Array:
    """A column of the type; text is written as its bytes, whatever they are."""
    written = [cell.written for cell in cells]
    return pa.array(written, pa.binary()).view(kind) if pa.types.is_string(kind) else pa.array(written, kind)


@st.composite
def a_file(draw: st.DrawFn, ages: list[Cell]) -> tuple[date, pa.Table, list[dict[str, Cell]]]:
    """A day, the rows of a file, and what each cell means."""
    kinds = {"uid": USERS, "sms_consent": CONSENTS, "city_tier": TIERS, "age": {pa.string(): ages} | AGES}
    columns, cells = {}, {}
    for (name, by_type), ours in zip(kinds.items(), COLUMNS, strict=True):
        kind = draw(st.sampled_from(list(by_type)))
        cells[ours] = [draw(st.sampled_from(by_type[kind])) for _ in range(ROWS_A_FILE)]
        columns[name] = column(kind, cells[ours])
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return draw(st.sampled_from(DAYS)), pa.table(columns), rows


def reason_of(row: dict[str, Cell]) -> str | None:
    if row["user_id"].lost:
        return "users: user is no UTF-8"
    return None if row["user_id"].read else "users: null user"


def settled(rows: list[dict[str, Cell]]) -> tuple[Any, ...]:
    """What holds of a user's profiles of one day: a withdrawal wins, and what they contradict each other on is null."""
    given = {name: {row[name].read for row in rows} - {None} for name in COLUMNS[1:]}
    one = {name: next(iter(values)) if len(values) == 1 else None for name, values in given.items()}
    return (min(given["consent"], default=None), one["city_tier"], one["age"])


def measured(rows: list[tuple[date, dict[str, Cell]]]) -> dict[tuple[date, str], ColumnRead]:
    found: dict[tuple[date, str], ColumnRead] = defaultdict(ColumnRead)
    for day, row in rows:
        lands = reason_of(row) is None
        for name in COLUMNS:
            there, lost = row[name].read is not None or row[name].lost is not None, row[name].lost is not None
            found[day, name] += ColumnRead(there, lost, lands and there, lands and lost, row[name].lost)
    return dict(found)


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("decimal_comma", [False, True])
def test_every_profile_is_read_settled_and_counted(make_company: Callable[..., Company], decimal_comma: bool) -> None:
    files = st.lists(
        a_file(WITH_COMMAS if decimal_comma else WITH_POINTS), min_size=FILES_A_CASE, max_size=FILES_A_CASE
    )
    users = f"""[source.users]
        missing_day = "empty"
        decimal_comma = {str(decimal_comma).lower()}
        consent_words = {{ ja = true, Nein = false }}"""

    @given(files)
    @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def compare(files: list[tuple[date, pa.Table, list[dict[str, Cell]]]]) -> None:
        company = make_company(replace={"[source.users]": users})
        rows = []
        for number, (day, table, cells) in enumerate(files):
            company.write(f"users/{day}", day, table)
            written = company.folder / "source" / "users" / str(day) / str(day)
            (written / "part-0.parquet").rename(written / f"{number}.parquet")
            rows += [(day, row) for row in cells]
        profiles = defaultdict(list)
        for day, row in rows:
            if reason_of(row) is None:
                profiles[day, row["user_id"].read].append(row)
        run = StageRun(company.context(), "ingest", DateRange(DAYS[0], DAYS[-1]))
        with land_users(run) as landing:
            assert landing is not None
            found = [row.asDict() for row in landing.kept.collect()]
            rejected = sorted((row["landed_on"], row["reason"]) for row in landing.rows.collect() if row["reason"])
        assert rejected == sorted((day, reason) for day, row in rows if (reason := reason_of(row)))
        assert {
            (row["landed_on"], row["user_id"]): (row["consent"], row["city_tier"], row["age"]) for row in found
        } == {key: settled(each) for key, each in profiles.items()}
        assert len(found) == len(profiles)
        assert {(day, name): each for day, by in landing.read.items() for name, each in by.items()} == measured(rows)

    compare()
