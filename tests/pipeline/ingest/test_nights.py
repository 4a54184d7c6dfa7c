"""Random days, by nights and by one backfill: the tables are equal, whatever form each day takes."""

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest import ingest as module
from pipeline.ingest.ingest import ingest
from tests.support.company import Company
from tests.support.funnels import WITHOUT_USERS

FIRST = date(2026, 3, 1)
DAYS = [FIRST + timedelta(days=n) for n in range(4)]
COLUMNS = ("id", "uid", "type", "ts", "campaign", "offer", "amount")
Row = dict[str, Any]


@st.composite
def a_row(draw: st.DrawFn, day: date, number_ids: bool) -> Row:
    number = draw(st.integers(1, 12))
    hour = draw(st.integers(0, 30))
    return {
        "id": number if number_ids else f"{number:03}",
        "uid": draw(st.sampled_from(["ann", "bob", " ", None])),
        "type": draw(st.sampled_from(["sms_sent", "sms_sent", "sms_click", "left", None])),
        "ts": datetime(day.year, day.month, day.day) + timedelta(hours=hour),
        "campaign": draw(st.sampled_from(["c", "d", None])),
        "offer": draw(st.sampled_from(["cash", None])),
        "amount": draw(st.sampled_from([1, 2, None])),
    }


@st.composite
def a_day(draw: st.DrawFn, day: date, kind: str) -> list[tuple[str, list[Row]]]:
    """The files of a day, by their folders; a file has columns of its own, and their types."""
    files = []
    for number in range(draw(st.integers(0, 2))):
        rows = draw(st.lists(a_row(day, draw(st.booleans())), max_size=4))
        gone = draw(st.sets(st.sampled_from(["id", "campaign", "offer", "amount"]), max_size=2))
        in_text = draw(st.booleans()) or kind in ("csv", "json")
        scale = draw(st.sampled_from([1, 1.5, "x"]))
        order = draw(st.permutations(COLUMNS))
        for row in rows:
            row["ts"] = f"{row['ts'].isoformat()}+08:00" if in_text else row["ts"]
            row["amount"] = None if row["amount"] is None else row["amount"] * scale
        folder = draw(st.sampled_from(["", "10", "hour=09", "hour=late", "a/b"]))
        files.append(
            (
                f"{folder}/{number}".lstrip("/"),
                [{name: row[name] for name in order if name not in gone} for row in rows],
            )
        )
    return files


@st.composite
def a_source(draw: st.DrawFn) -> tuple[str, list[list[tuple[str, list[Row]]]]]:
    kind = draw(st.sampled_from(["parquet", "json", "csv", "orc"]))
    return kind, [draw(a_day(day, kind)) for day in DAYS]


def write(folder: Path, kind: str, rows: list[Row]) -> None:
    folder.mkdir(parents=True)
    file = folder / f"part.{kind}"
    if kind == "json":
        file.write_text("\n".join(json.dumps({key: row[key] for key in row if row[key] is not None}) for row in rows))
    elif kind == "csv":
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        file.write_text("\n".join([",".join(rows[0]), *lines]) + "\n" if rows else "")
    elif rows:
        module = {"orc": pyarrow.orc, "parquet": pyarrow.parquet}[kind]
        table = pa.Table.from_pylist(rows)
        # ORC has no type for a column of nulls.
        nulls = [name for name in table.column_names if pa.types.is_null(table.schema.field(name).type)]
        module.write_table(table.drop_columns(nulls) if kind == "orc" else table, file)


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
def test_a_backfill_is_its_nights(make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch) -> None:
    # The audits are not what is compared, and take most of the time.
    monkeypatch.setattr(module, "_audit", lambda *_: None)

    @given(a_source())
    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    def compare(source: tuple[str, list[list[tuple[str, list[Row]]]]]) -> None:
        kind, days = source
        replaced = f'[source.events]\nformat = "{kind}"\nmissing_day = "empty"\npath = "source/events/{{ds}}"'
        outcomes = []
        for ranges in ([DateRange(day, day) for day in DAYS], [DateRange(DAYS[0], DAYS[-1])]):
            company = make_company(
                replace=WITHOUT_USERS
                | {
                    '[source.events]\npath = "source/events/{ds}"': replaced,
                    'offer = "offer"': 'offer = "offer", amount = "concat(amount, \'/\', campaign)"',
                }
            )
            for day, files in zip(DAYS, days, strict=True):
                for folder, rows in files:
                    write(company.folder / "source" / "events" / day.isoformat() / folder, kind, rows)
            outcomes.append(land(company, ranges))
        nights, backfill = outcomes
        assert nights == backfill

    compare()


def land(company: Company, ranges: list[DateRange]) -> list[Any] | str:
    """The tables after these runs, or the key that the source does not fit."""
    try:
        for each in ranges:
            ingest(company.context(), each)
    except FunnelError as error:
        return str(error).split(": ")[1].split(" = ")[0]
    counts = ("ds", "rows_in", "rows_out", "duplicates", "quarantined")
    runs = sorted(tuple(row[name] for name in counts) for row in company.rows("runs"))
    return [company.rows("events"), company.rows("quarantine"), runs]
