"""`funnel sql` without a query: at a terminal, and with statements piped in."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish_scores
from tests.support.places import ROOT

NIGHT = date(2026, 3, 1)


@pytest.fixture
def piped(company: Company, funnel: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """`funnel sql` over a night of two users, with this text on stdin."""
    publish_scores(company, NIGHT, {"ann": 0.25, "bob": 0.5})

    def run(text: str, *options: object) -> Ended:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        return funnel("sql", "-c", company.config, *options)

    return run


def test_statements_from_a_pipe_run_in_turn(piped: Callable[..., Ended]) -> None:
    ended = piped("SELECT ';' AS a;\n-- a comment;\nSELECT user_id\nFROM latest_scores ORDER BY 1", "--format", "csv")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.split() == ['"a"', '";"', '"user_id"', '"ann"', '"bob"']


def test_the_first_mistake_in_a_pipe_ends_it(piped: Callable[..., Ended]) -> None:
    ended = piped("SELECT 1 AS a; COPY user_scores TO 'mine.csv'; SELECT 2 AS b", "--format", "csv")
    assert ended.complaint == "funnel sql only reads and takes one SELECT"
    assert ended.out.split() == ['"a"', "1"]


def test_a_pipe_with_one_statement_can_go_to_a_file(piped: Callable[..., Ended], company: Company) -> None:
    out = company.folder / "users.csv"
    assert piped("SELECT user_id FROM user_scores ORDER BY 1;", "--format", "csv", "--out", out).code == 0
    assert out.read_text(encoding="utf-8").split() == ['"user_id"', '"ann"', '"bob"']
    assert "takes one SELECT" in piped("SELECT 1; SELECT 2", "--format", "csv", "--out", out).complaint


def test_a_session_at_a_terminal(company: Company, tmp_path: Path) -> None:
    publish_scores(company, NIGHT, {"ann": 0.25, "bob": 0.5})
    typed = [
        ".help",
        ".tables",
        ".views",
        ".schema user_scores",
        ".schema user_score",
        ".format csv",
        "SELECT user_id, p_click FROM",
        "latest_scores ORDER BY user_id;",
        "CREATE TABLE mine (a INT);",
        "SELECT nothing FROM user_scores;",
        ".dance",
        "SELECT 41 + 1 AS answer;",
        ".quit",
    ]
    terminal, own_end = pty.openpty()
    command = [sys.executable, "-m", "pipeline", "sql", "-c", str(company.config)]
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb", "COLUMNS": "200"}
    with subprocess.Popen(
        command, cwd=ROOT, stdin=own_end, stdout=own_end, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        os.close(own_end)
        os.write(terminal, "".join(f"{line}\n" for line in typed).encode())
        out = everything_from(terminal)
        _, err = process.communicate(timeout=240)
    os.close(terminal)
    assert process.returncode == 0, err
    for shown in ("Ctrl-D", "user_scores", "One user scored on the newest night", "band_complete"):
        assert shown in out
    assert '"ann",0.25' in out and '"bob",0.5' in out
    assert '"answer"\r\n42' in out, "errors end nothing"
    mistakes = [line for line in err.splitlines() if line]
    assert [line.partition(":")[0] for line in mistakes] == ["error"] * 4
    tolds = ("did you mean user_scores", "only reads", '"nothing" not found', "no such command: .dance")
    assert all(told in line for line, told in zip(mistakes, tolds, strict=True))
    assert "latest_scores ORDER BY" in (tmp_path / ".funnel_sql_history").read_text(encoding="utf-8")


def everything_from(terminal: int) -> str:
    """What a process showed until it closed its terminal, which Linux signals by an error."""
    shown = b""
    with suppress(OSError):
        while piece := os.read(terminal, 65536):
            shown += piece
    return shown.decode()
