"""Text of the data in tools: all of it is shown, and none of it acts on a terminal, a page, a log or a spreadsheet."""

import csv
import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analyst.csv_output import FormulaMarks
from pipeline.audits.audit import audit
from pipeline.campaigns.targets import make_list
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.report.report import report
from pipeline.runs.record import StageWarning, recorded
from pipeline.text import is_formula
from tests.support.campaigns import D, campaign, make_night
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish, publish_scores

HOSTILE = (
    "[red]x[/]",
    "[/]",
    "[link=https://example.org]x[/link]",
    ":smile:",
    "\x1b[31mred\x1b[0m",
    "\x9b2J",
    "bell\x07",
    "left\u202etxt.exe",
    "two\nlines",
    "two\rreturns",
    "a\u2028b",
    "<script>alert(1)</script>",
    "&amp; <b>",
    "%s {x} $x$",
    "=1+1",
    "@sum",
    "\t=1",
    "a,b",
    'a "b"',
)
ACTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e]")
"""Characters that must not reach a terminal, a log or a page."""
SHOWN = {"\x1b": "\\x1b", "\x9b": "\\x9b", "\x07": "\\x07", "\u202e": "\\u202e", "\n": "\\n", "\r": "\\r"}
SHOWN |= {"\u2028": "\\u2028", "\t": "\\t"}


def escape(text: str) -> str:
    return "".join(SHOWN.get(character, character) for character in text)


@pytest.fixture
def sql(company: Company, funnel: Callable[..., Ended]) -> Callable[..., Ended]:
    publish(company, "users", D, [{"user_id": f"u{n:02}", "city_tier": text} for n, text in enumerate(HOSTILE)])
    return lambda query, *options: funnel("sql", query, "-c", company.config, *options)


def test_a_table_shows_text_as_it_is_its_headers_too(sql: Callable[..., Ended]) -> None:
    ended = sql('SELECT city_tier AS "[bold]h[/]\x1b[1m" FROM users ORDER BY user_id')
    assert (ended.code, ended.err) == (0, "")
    assert not ACTS.search(ended.out)
    header, _, *cells = [line.strip() for line in ended.out.splitlines() if line.strip()]
    assert header == "[bold]h[/]\\x1b[1m"
    assert cells == [escape(text).strip() for text in HOSTILE]


def test_null_is_told_from_empty_text(sql: Callable[..., Ended]) -> None:
    assert sql("SELECT NULL AS a, '' AS b, 1 AS c").out.split()[-2:] == ["(null)", "1"]


@pytest.mark.parametrize("to_file", [False, True])
def test_csv_has_no_formula_and_can_be_read_back(sql: Callable[..., Ended], company: Company, to_file: bool) -> None:
    out = company.folder / "out.csv"
    query = 'SELECT city_tier AS "=h", user_id FROM users ORDER BY user_id'
    ended = sql(query, "--format", "csv", *(["--out", out] if to_file else []))
    assert ended.code == 0
    # Read as bytes: a line's end within a cell is part of it.
    text = out.read_bytes().decode() if to_file else ended.out
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    cells = [header[0], *(row[0] for row in rows)]
    assert not any(is_formula(cell) for cell in cells)
    if to_file:
        assert [read_back(cell) for cell in cells] == ["=h", *HOSTILE]
    assert "4 texts that a spreadsheet would take for formulas" in ended.err
    assert "'=h'" in ended.err and "--format parquet" in ended.err


def read_back(cell: str) -> str:
    """A cell as it was, by the rule of the page."""
    return re.sub("^'(?='*[=+\\-@\t\r\n＝＋－＠])", "", cell)


@given(st.lists(st.text(st.sampled_from("'=+-@\t\n\r1 a,＝"), max_size=5) | st.text(), min_size=1))
def test_marks_can_be_taken_off_again(texts: list[str]) -> None:
    encodable = [text.encode("utf-8", "ignore").decode() for text in texts]
    marked = FormulaMarks().mark_column(pa.array([*encodable, None], pa.string())).to_pylist()
    assert marked.pop() is None
    assert not any(is_formula(text) for text in marked)
    assert [read_back(text) for text in marked] == encodable


def test_numbers_with_a_sign_are_left_alone() -> None:
    numbers = ["+447700900123", "+44 7700 900123", "-1", "-1.5e3", "+1,5", "007"]
    marks = FormulaMarks()
    assert marks.mark_column(pa.array(numbers)).to_pylist() == numbers
    assert marks.count == 0


def test_ids_that_csv_cannot_carry_safely_are_told_and_parquet_takes_them(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    unsafe = ["=1+1", "@sum", "-1+2", "+cmd|' /C calc'!A0", "a\tb", "a\x1bb", "a\u202eb"]
    ids = ["+447700900123", *unsafe]
    company = make_night(make_company, {id: 0.9 - n / 100 for n, id in enumerate(ids)}, campaign())
    make_list(company.context(), D, "spring")
    command = ("export", "--ds", D, "--campaign", "spring", "-c", company.config)
    ended = funnel(*command)
    assert "7 of 8 user ids, such as '=1+1', are formulas to a spreadsheet" in ended.complaint
    assert not (company.folder / "targets").exists()
    assert funnel(*command, "--format", "parquet").code == 0
    (file,) = (company.folder / "targets").iterdir()
    assert pq.read_table(file)["user_id"].to_pylist() == ids


def test_a_telephone_number_is_exported_as_it_is(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    company = make_night(make_company, {"+447700900123": 0.9, "-5": 0.8}, campaign())
    make_list(company.context(), D, "spring")
    assert funnel("export", "--ds", D, "--campaign", "spring", "-c", company.config).code == 0
    (file,) = (company.folder / "targets").iterdir()
    assert file.read_text("utf-8") == "user_id\n+447700900123\n-5\n"


def test_a_run_s_lines_and_records_are_lines(company: Company) -> None:
    with recorded(company.context(), "ingest", DateRange(D, D)) as run:
        run.warnings += [StageWarning("odd", f"odd: {text}") for text in HOSTILE]
    with pytest.raises(FunnelError) as raised, recorded(company.context(), "ingest", DateRange(D, D)):
        raise FunnelError(f"cannot read {' '.join(HOSTILE)}")
    assert not ACTS.search(str(raised.value))
    assert not any(ACTS.search(line) or "\n" in line for line in company.lines)
    for row in company.rows("runs"):
        assert not ACTS.search(row["warnings"] + row["message"])
        assert len(row["warnings"].splitlines()) in (0, len(HOSTILE))


def test_an_audit_s_examples_are_one_line() -> None:
    import great_expectations.expectations as gxe

    frame = pd.DataFrame({"user_id": list(HOSTILE)})
    (finding,) = audit(frame, [gxe.ExpectColumnValuesToBeInSet(column="user_id", value_set=[])], what="x", keys=())
    assert finding.observed is not None and "[red]x[/]" in finding.observed
    assert not ACTS.search(finding.observed) and "\n" not in finding.observed


def test_a_report_shows_text_as_it_is(company: Company) -> None:
    publish_scores(company, D, {"ann": 0.5, "bob": 0.4})
    at = datetime(2026, 3, 2, tzinfo=UTC)
    run = {"run_id": "night", "stage": "ingest", "status": "ok", "seconds": 1.0, "started_at": at, "inputs": []}
    counts = dict.fromkeys(("rows_in", "rows_out", "duplicates", "quarantined"), 0)
    # As an earlier release has recorded them.
    warnings = "\n".join(text for text in HOSTILE if "\n" not in text and "\r" not in text and "\u2028" not in text)
    row = run | counts | {"warnings": warnings, "message": "", "ds": D, "warning_topics": ""}
    company.context().warehouse.append("runs", [row])
    page = Path(report(company.context(), D)).read_text("utf-8")
    assert not ACTS.search(page)
    assert "<script>" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\\x1b[31mred" in page and "left\\u202etxt.exe" in page and "[red]x[/]" in page
