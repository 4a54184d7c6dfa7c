"""The analysts' SQL: read-only, without Spark, with one line when something is wrong."""

import io
from collections.abc import Callable
from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.analyst import connect
from pipeline.engines.views import all_views
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish as publish_rows
from tests.support.nights import publish_scores

D1, D2 = date(2026, 3, 1), date(2026, 3, 2)


def publish(company: Company, day: date, *people: str) -> None:
    """Put events into the warehouse by hand: an analyst's query needs no Spark, nor does its test."""
    noon = pd.Timestamp(day, tz="Asia/Shanghai") + timedelta(hours=12)
    rows = [
        {
            "event_id": f"{day}-{person}",
            "user_id": person,
            "event": "exposure",
            "event_time": noon,
            "context": [("offer", "cash")],
        }
        for person in people
    ]
    publish_rows(company, "events", day, rows)


@pytest.fixture
def sql(company: Company, funnel: Callable[..., Ended]) -> Callable[..., Ended]:
    """`funnel sql` over two days of events."""
    publish(company, D1, "ann", "bob")
    publish(company, D2, "ann")
    return lambda query, *options: funnel("sql", query, "-c", company.config, *options)


def test_a_table_on_the_terminal(sql: Callable[..., Ended]) -> None:
    ended = sql("SELECT landed_on, count(*) AS people FROM events GROUP BY ALL ORDER BY 1")
    assert (ended.code, ended.err) == (0, "")
    cells = [line.split() for line in ended.out.splitlines() if line.strip(" ─━╺╸")]
    assert cells == [["landed_on", "people"], ["2026-03-01", "2"], ["2026-03-02", "1"]]


def test_times_are_shown_in_the_funnel_s_zone(sql: Callable[..., Ended]) -> None:
    assert sql("SELECT strftime(event_time, '%H:%M') AS at FROM events", "--format", "csv").out.split() == [
        '"at"',
        *['"12:00"'] * 3,
    ]


def test_a_time_that_python_cannot_hold_is_shown_as_duckdb_writes_it(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    """West of Greenwich, the first instant of the year 1 is in the year before, of which Python has none."""
    company = make_company(timezone="America/New_York")
    first = pa.scalar(-62135596800_000_000, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    publish_rows(company, "events", D1, [{"event_id": "1", "user_id": "ann", "event_time": first}])
    for options in ((), ("--format", "csv")):
        ended = funnel("sql", "SELECT user_id, event_time FROM events", "-c", company.config, *options)
        assert (ended.code, ended.err) == (0, "")
        assert "ann" in ended.out
        assert "BC" in ended.out


def test_csv_to_the_terminal_and_to_a_file(sql: Callable[..., Ended], company: Company) -> None:
    query = "SELECT user_id, context, landed_on FROM events ORDER BY landed_on, user_id"
    printed = sql(query, "--format", "csv")
    assert (printed.code, printed.err) == (0, "")
    frame = pd.read_csv(io.StringIO(printed.out))
    assert list(frame["user_id"]) == ["ann", "bob", "ann"]
    assert all("offer" in context and "cash" in context for context in frame["context"])
    out = company.folder / "people.csv"
    assert sql(query, "--format", "csv", "--out", out).code == 0
    pd.testing.assert_frame_equal(pd.read_csv(out), frame)


def test_parquet_to_a_file(sql: Callable[..., Ended], company: Company) -> None:
    out = company.folder / "people.parquet"
    ended = sql("SELECT * FROM events ORDER BY landed_on, user_id", "--format", "parquet", "--out", out)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    table = pq.read_table(out)
    assert table.column("user_id").to_pylist() == ["ann", "bob", "ann"]
    assert table.column_names == company.context().warehouse.tables["events"].schema.names


def test_a_table_without_rows_has_its_columns(sql: Callable[..., Ended]) -> None:
    ended = sql("SELECT user_id, p_click FROM user_scores", "--format", "csv")
    assert (ended.code, ended.out.strip(), ended.err) == (0, '"user_id","p_click"', "")
    assert "0" in sql("SELECT count(*) FROM user_scores JOIN events USING (user_id)").out


def test_a_column_that_the_configuration_gained_is_null_in_old_rows(
    sql: Callable[..., Ended], company: Company
) -> None:
    text = company.config.read_text(encoding="utf-8")
    publish_rows(company, "users", D1, [{"user_id": "ann"}])
    company.config.write_text(text.replace('["age"]', '["age", "income"]'), encoding="utf-8")
    assert sql("SELECT user_id, income FROM users", "--format", "csv").out.splitlines()[1:] == ['"ann",']


def test_a_publish_shows_at_once(sql: Callable[..., Ended], company: Company) -> None:
    publish(company, D2, "cat", "dan")
    ended = sql(f"SELECT user_id FROM events WHERE landed_on = '{D2}' ORDER BY 1", "--format", "csv")
    assert ended.out.split() == ['"user_id"', '"cat"', '"dan"']


@pytest.mark.parametrize(
    ("query", "options", "told"),
    [
        ("SELEC 1", (), "syntax error"),
        ("SELECT nothing FROM events", (), '"nothing" not found'),
        ("SELECT * FROM evnts", (), "no table or view 'evnts'; did you mean events"),
        ("SELECT * FROM nothing_like_it", (), "'nothing_like_it'. Tables: events, quarantine, users, "),
        ("SELECT * FROM latest_score", (), "did you mean latest_scores"),
        ("SELECT p_klick FROM latest_scores", (), 'Candidate bindings: "p_click"'),
        ("SELECT user_id::INT FROM events", (), "Could not convert string"),
        ("SELECT user_id::INT FROM events", ("--format", "csv"), "Could not convert string"),
        ("SELECT 1; SELECT 2", (), "takes one SELECT"),
        ("", (), "takes one SELECT"),
        ("PIVOT bands ON stage USING sum(users)", (), "a PIVOT has to list its values"),
        ("SELECT * FROM read_text('/etc/hostname')", (), "it reads the warehouse and files in the current folder"),
        ("SELECT 1", ("--format", "parquet"), "a Parquet result needs a file: --out"),
        ("SELECT 1", ("--format", "parquet", "--out", "/nowhere/at/all.parquet"), "/nowhere/at/all.parquet"),
        ("SELECT 1", ("--format", "csv", "--out", "/nowhere/at/all.csv"), "/nowhere/at/all.csv"),
    ],
)
def test_a_mistake_is_one_line(sql: Callable[..., Ended], query: str, options: tuple[str, ...], told: str) -> None:
    assert told in sql(query, *options).complaint


@pytest.mark.parametrize(
    "write",
    [
        "CREATE TABLE mine (a INT)",
        "CREATE VIEW mine AS SELECT 1",
        "CREATE TABLE mine AS PIVOT bands ON stage USING sum(users)",
        "INSERT INTO runs (run_id) VALUES ('mine')",
        "UPDATE runs SET run_id = 'mine'",
        "DELETE FROM runs",
        "DROP VIEW events",
        "COPY (SELECT 1) TO '{folder}/mine.csv'",
        "COPY events FROM '{folder}/mine.csv'",
        "EXPORT DATABASE '{folder}/mine'",
        "ATTACH '{folder}/mine.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "BEGIN",
        "SELECT 1; COPY (SELECT 1) TO '{folder}/mine.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/mine.csv'",
        "EXPLAIN /* really */ ANALYZE COPY (SELECT 1) TO '{folder}/mine.csv'",
        "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{folder}/mine.csv'",
        "WITH mine AS (COPY (SELECT 1) TO '{folder}/mine.csv') FROM mine",
        "WITH mine AS (DELETE FROM runs RETURNING *) FROM mine",
        "EXPLAIN ANALYZE WITH mine AS (COPY (SELECT 1) TO '{folder}/mine.csv') FROM mine",
        "SELECT * FROM (WITH mine AS (COPY (SELECT 1) TO '{folder}/mine.csv') FROM mine)",
    ],
)
def test_a_write_is_refused_and_leaves_nothing(
    company: Company, funnel: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    monkeypatch.chdir(company.folder)
    complaint = funnel("sql", write.format(folder=company.folder)).complaint
    assert complaint.startswith(("funnel sql only reads", "funnel sql takes one SELECT", "funnel sql: Parser Error"))
    assert [path.name for path in company.folder.iterdir()] == ["funnel.toml"]


def test_other_ways_of_reading(sql: Callable[..., Ended]) -> None:
    for query, shown in (
        ("FROM events SELECT user_id", "bob"),
        ("DESCRIBE latest_scores", "band_complete"),
        ("SHOW TABLES", "funnel_by_day"),
        ("EXPLAIN ANALYZE SELECT count(*) FROM events", "analyzed_plan"),
        ("PIVOT events ON event IN ('exposure', 'click') USING count(*) GROUP BY user_id", "exposure"),
        ("SELECT 'COPY; DELETE' AS text; -- and a comment", "COPY; DELETE"),
    ):
        ended = sql(query)
        assert (ended.code, ended.err) == (0, "")
        assert shown in ended.out


def test_a_list_in_the_current_folder_can_be_joined(
    sql: Callable[..., Ended], company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    (company.folder / "my list.csv").write_text("user_id,note\nbob,vip\n", encoding="utf-8")
    query = "SELECT user_id, note FROM events JOIN 'my list.csv' USING (user_id)"
    monkeypatch.chdir(company.folder)
    assert sql(query, "--format", "csv").out.split() == ['"user_id","note"', '"bob","vip"']
    (company.folder / "elsewhere").mkdir()
    monkeypatch.chdir(company.folder / "elsewhere")
    query = query.replace("'my list.csv'", f"'{company.folder}/my list.csv'")
    assert "files in the current folder" in sql(query, "--format", "csv").complaint
    assert sql("SELECT 1 AS one", "--format", "csv", "--out", company.folder / "one.csv").code == 0


def test_a_notebook_reads_in_three_lines(company: Company) -> None:
    publish_scores(company, D2, {"ann": 0.25, "bob": 0.5})
    db = connect(str(company.config))
    frame = db.sql("SELECT user_id, p_click, ds FROM latest_scores ORDER BY user_id").df()
    expected = pd.DataFrame({"user_id": ["ann", "bob"], "p_click": [0.25, 0.5], "ds": pd.Timestamp(D2)})
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)


def test_views_of_a_funnel_with_other_stages(make_company: Callable[..., Company]) -> None:
    """One stage, named like an SQL keyword."""
    company = make_company(
        replace={
            '{ name = "click",    event = "sms_click",            window_days = 3 },': "",
            '{ name = "register", event = "register",             window_days = 7 },': "",
            'name = "complete"': 'name = "end"',
        }
    )
    publish_rows(company, "user_scores", D2, [{"user_id": "ann", "p_end": 0.5, "band_end": 10}])
    connection = connect(company.settings)
    assert connection.sql("SELECT stage, band, users FROM bands").fetchall() == [("end", 10, 1)]
    assert all(connection.sql(f"FROM {name}").columns for name in all_views(company.settings))


def test_tables_lists_the_views(funnel: Callable[..., Ended], company: Company) -> None:
    ended = funnel("tables", "--views", "-c", company.config)
    assert (ended.code, ended.err) == (0, "")
    (line,) = (line for line in ended.out.splitlines() if "bands" in line.split()[:1])
    assert line.split(maxsplit=1)[1].strip() == "One band of one stage on one night."


def test_tables_lists_what_the_warehouse_holds(
    sql: Callable[..., Ended], funnel: Callable[..., Ended], company: Company
) -> None:
    ended = funnel("tables", "-c", company.config)
    assert (ended.code, ended.err) == (0, "")
    (line,) = (line for line in ended.out.splitlines() if "events" in line)
    assert line.split()[:5] == ["events", "3", "2", "2", "2026-03-02"]
    assert "user_scores" not in ended.out


def test_rollback_from_the_command_line(
    sql: Callable[..., Ended], funnel: Callable[..., Ended], company: Company
) -> None:
    publish(company, D2, "wrong")
    before = company.context().warehouse.pin("events").snapshot_id
    ended = funnel("rollback", "events", "-c", company.config)
    assert (ended.code, ended.err) == (0, "")
    snapshot = company.context().warehouse.pin("events").snapshot_id
    assert snapshot != before
    assert ended.out == f"events is at snapshot {snapshot} again\n"
    assert sorted({row["user_id"] for row in company.rows("events")}) == ["ann", "bob"]
