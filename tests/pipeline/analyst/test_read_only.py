"""Nothing that an analyst can say to DuckDB changes a file: not in a command, a pipe, a prompt or a notebook."""

import hashlib
import io
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from pipeline.analyst import connect
from pipeline.analyst.files import SCHEME, LocalFile, ReadOnlyFiles, SharedFile, lock
from pipeline.analyst.query import run_query
from pipeline.analyst.shell import run_shell
from pipeline.config.settings import load
from pipeline.errors import FunnelError
from tests.support.campaigns import D
from tests.support.company import Company
from tests.support.nights import publish_scores

COPY = "COPY (SELECT 1 AS a) TO '{to}'"
TARGETS = ("{part}", "{catalog}", "{folder}/mine.csv", "mine.csv", "funnelcast://{part}", "funnelcast://mine.csv")
SERIALIZED = "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('{quoted}'))"
HOSTILE = [
    *(COPY.replace("{to}", to) for to in TARGETS),
    *(SERIALIZED.replace("{quoted}", f"WITH m AS (COPY (SELECT 1) TO ''{to}'') FROM m") for to in TARGETS),
    *(f"WITH m AS (COPY (SELECT 1) TO '{to}') FROM m" for to in TARGETS),
    *(f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{to}'" for to in TARGETS),
    "COPY (SELECT 1 AS a, 2 AS b) TO '{folder}/mine' (FORMAT parquet, PARTITION_BY a, OVERWRITE true)",
    "COPY (SELECT 1 AS a, 2 AS b) TO 'funnelcast://mine' (FORMAT parquet, PARTITION_BY a)",
    "COPY (SELECT 1 AS a) TO '{folder}/mine' (FORMAT csv, PER_THREAD_OUTPUT true)",
    "COPY (SELECT 1 AS a) TO 'file://{folder}/mine.json'",
    "COPY (SELECT 1 AS a) TO '/dev/shm/{name}.csv'",
    "EXPORT DATABASE '{folder}/mine'",
    "EXPORT DATABASE 'funnelcast://mine'",
    "IMPORT DATABASE '{folder}/mine'",
    "ATTACH '{folder}/mine.db'",
    "ATTACH 'funnelcast://mine.db' AS mine",
    "ATTACH '{catalog}' (TYPE sqlite)",
    "ATTACH '{catalog}' AS mine",
    "SELECT * FROM sqlite_scan('{catalog}', 'iceberg_tables')",
    "COPY FROM DATABASE memory TO mine",
    "INSTALL httpfs",
    "FORCE INSTALL sqlite",
    "INSTALL '{folder}/mine.duckdb_extension'",
    "LOAD httpfs",
    "LOAD '{folder}/mine.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET allowed_paths = ['{part}']",
    "RESET lock_configuration",
    "SET lock_configuration = false",
    "SET temp_directory = '{folder}/mine'",
    "SET home_directory = '{folder}/mine'",
    "SET extension_directory = '{folder}/mine'",
    "SET secret_directory = '{folder}/mine'",
    "SET log_query_path = '{folder}/mine.log'",
    "SET profile_output = '{folder}/mine.json'",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA profiling_output = '{folder}/mine.json'",
    "CALL enable_logging(storage = 'file', storage_path = '{folder}/mine')",
    "CALL enable_logging('QueryLog', storage := 'file', storage_config := {{'path': '{folder}/mine'}})",
    "CREATE PERSISTENT SECRET mine (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE TABLE mine AS FROM read_csv('{folder}/funnel.toml')",
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM 'https://localhost/mine.parquet'",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{folder}/mine.csv''')",
    "PREPARE mine AS COPY (SELECT 1) TO '{folder}/mine.csv'",
    "CHECKPOINT",
    "VACUUM",
]


@pytest.fixture
def place(company: Company, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the statements are told: a company with scores, in whose folder the analyst is."""
    publish_scores(company, D, {"ann": 0.25, "bob": 0.5})
    monkeypatch.chdir(company.folder)
    warehouse = company.folder / "warehouse"
    part = next(iter(sorted((warehouse / "funnel" / "user_scores").rglob("*.parquet"))))
    names = {"folder": company.folder, "catalog": warehouse / "catalog.db", "part": part, "name": company.folder.name}
    return {name: str(value) for name, value in names.items()}


def fingerprints(company: Company) -> dict[str, str]:
    """The files in and below the company's folder, by content, and what is beside shared memory."""
    paths = [*company.folder.rglob("*"), *Path("/dev/shm").glob(f"{company.folder.name}*")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}


def test_a_notebook_s_connection_writes_no_file(company: Company, place: dict[str, str]) -> None:
    before = fingerprints(company)
    for statement in HOSTILE:
        with connect(company.config) as connection, suppress(duckdb.Error):
            connection.execute(statement.format(**place)).fetchall()
        assert fingerprints(company) == before, statement
    with connect(company.config) as connection:
        assert connection.execute("SELECT count(*) FROM user_scores").fetchall() == [(2,)]
        for path in ("/etc/hostname", "../../../../etc/hostname", "lists/../../../../../etc/hostname"):
            assert connection.execute(f"FROM read_text('funnelcast://{path}')").fetchall() == []


def test_a_command_refuses_each_in_one_line(company: Company, place: dict[str, str]) -> None:
    before, settings = fingerprints(company), load(company.config)
    for statement in HOSTILE:
        with pytest.raises(FunnelError) as raised:
            run_query(settings, statement.format(**place))
        assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value), statement
        assert fingerprints(company) == before, statement


def test_nor_do_a_pipe_and_a_prompt(
    company: Company, place: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, settings = fingerprints(company), load(company.config)
    for statement in HOSTILE[:12]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"SELECT 1 AS one; {statement.format(**place)};"))
        with pytest.raises(FunnelError):
            run_shell(settings, format="table", out=None, at=None)
        assert fingerprints(company) == before, statement
    answers = iter([*(f"{statement.format(**place)};" for statement in HOSTILE), ".quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("pipeline.analyst.shell._set_up_history_and_completion", lambda words: None)
    run_shell(settings, format="table", out=None, at=None)
    assert fingerprints(company) == before
    assert len(capsys.readouterr().err.splitlines()) == len(HOSTILE)


def test_files_of_the_current_folder_can_be_read(company: Company, place: dict[str, str], tmp_path: Path) -> None:
    Path("list [1].csv").write_text("user_id;note\nbob;vip\n", encoding="utf-8")
    Path("lists").mkdir()
    Path("lists/more.json").write_text(json.dumps({"user_id": "ann"}), encoding="utf-8")
    Path("link.csv").symlink_to("/etc/hostname")
    with connect(company.config) as connection:
        read = "SELECT note FROM read_csv('funnelcast://list [1].csv', delim = ';')"
        assert connection.execute(read).fetchall() == [("vip",)]
        assert connection.execute("SELECT user_id FROM 'funnelcast://lists/more.json'").fetchall() == [("ann",)]
        with pytest.raises(duckdb.Error, match="No files found"):
            connection.execute("FROM read_csv('funnelcast://link.csv')")


def test_threads_that_share_a_file_read_at_positions_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    file = SharedFile(LocalFile(path))
    file.seek(2)
    found: list[bytes] = []

    def read() -> None:
        file.seek(-3, 2)
        found.append(file.read(2))

    other = threading.Thread(target=read)
    other.start()
    other.join()
    assert (found, file.read(3), file.read()) == ([b"78"], b"234", b"56789")
    file.close()
    file.close()


def test_threads_that_take_turns_read_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    file = SharedFile(LocalFile(path))
    file.seek(1)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(file.read, 3).result() == b"123"
        assert file.read(2) == b"45"
        assert other.submit(file.read, 2).result() == b"67"
    assert (file.tell(), file.read(), file.read(5), file.tell()) == (8, b"89", b"", 10)
    file.close()


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet", "json.gz", "csv.gz"])
def test_many_threads_read_each_kind_of_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT range AS a, md5(range::VARCHAR) AS b FROM range(200000)) TO 'rows.{suffix}'")
        connection.execute("SET threads = 8")
        connection.register_filesystem(ReadOnlyFiles({}, tmp_path))
        lock(connection)
        query = f"SELECT count(*), sum(a), count(DISTINCT b), min(length(b)) FROM '{SCHEME}rows.{suffix}'"
        for _ in range(5):
            assert connection.execute(query).fetchall() == [(200_000, 19_999_900_000, 200_000, 32)]


def test_what_does_not_fit_into_memory_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = '40MB'; SET threads = 2")
        lock(connection)
        rows = "SELECT range AS a, hash(range) AS b FROM range(3000000) ORDER BY b OFFSET 1"
        assert connection.execute(f"SELECT count(*) FROM ({rows})").fetchall() == [(2_999_999,)]
