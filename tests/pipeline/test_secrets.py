"""Secrets of a configuration in a night's run: not in what it prints, writes or keeps, nor in the list of processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from pipeline.engines.scratch import PREFIX, open_scratch
from tests.support.commands import Ended
from tests.support.company import JAVA_OPTIONS, Company
from tests.support.places import ROOT

DAY = date(2026, 3, 1)
SECRET = "Pl4nted"
URL = f"https://me:{SECRET}/with-slash@db.example/x?token={SECRET}0123"
EVENT = {"id": "1", "uid": "u1", "type": "sms_sent", "ts": "2026-03-01 10:00:00"}
CONF = f"""
conf."spark.hadoop.fs.s3a.secret.key" = "{SECRET}-in-conf"
conf."spark.hadoop.fs.x.endpoint" = "{URL} = ü\\\\#!\\t"
"""
PRINT_CONF = """
import sys
from pathlib import Path
from pipeline.config.settings import load
from pipeline.runs.context import Context
context = Context(load(Path(sys.argv[1])))
conf = context.spark.sparkContext.getConf()
for name in ("spark.hadoop.fs.s3a.secret.key", "spark.hadoop.fs.x.endpoint", "spark.local.dir"):
    print(conf.get(name))
print(context.spark._jvm.System.getProperty("x.password"))
context.spark._jvm.org.slf4j.LoggerFactory.getLogger("driver").error(conf.get("spark.hadoop.fs.x.endpoint"))
context.spark.range(9).selectExpr("id % 2 AS user_id").repartition(2).cache().count()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hidden(make_company: Callable[..., Company]) -> Company:
    company = make_company(CONF, replace={JAVA_OPTIONS: f"{JAVA_OPTIONS} '-Dx.password={SECRET} \\\\\\\\ 1'"})
    company.land(DAY, [EVENT], [{"uid": "u1"}])
    return company


@pytest.mark.usefixtures("spark")
def test_spark_gets_its_properties_by_no_command_line_and_a_killed_one_leaves_nothing(
    hidden: Company, tmp_path: Path
) -> None:
    log = tmp_path / "stderr.log"
    with log.open("wb") as errors:
        running = subprocess.Popen(
            [sys.executable, "-c", PRINT_CONF, str(hidden.config)],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert running.stdout is not None
    seen = b""
    os.set_blocking(running.stdout.fileno(), False)
    printed = ""
    while "ready" not in printed:
        assert running.poll() is None, printed
        seen += b"".join(map(command_of, Path("/proc").glob("[0-9]*")))
        printed += (running.stdout.read() or b"").decode()
        time.sleep(0.02)
    assert b"SparkSubmit" in seen
    assert SECRET.encode() not in seen
    assert "spark: ERROR driver: https://***@db.example/x?token=*** " in log.read_text(encoding="utf-8")
    key, endpoint, scratch, password, _ = printed.splitlines()
    assert (key, endpoint, password) == (f"{SECRET}-in-conf", f"{URL} = ü\\#!\t", rf"{SECRET} \\ 1")
    folder = Path(scratch)
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    assert [*folder.rglob("*.data")], "rows that Spark keeps"
    assert SECRET not in "".join(path.read_text(errors="ignore") for path in folder.rglob("*") if path.is_file())

    assert open_scratch([tmp_path])[0].folder != folder, "a second process leaves the first one's folder alone"
    assert folder.exists()
    needle = str(tmp_path).encode()
    (jvm,) = [int(each.name) for each in Path("/proc").glob("[0-9]*") if needle in environment_of(each)]
    os.kill(jvm, signal.SIGKILL)
    running.kill()
    running.wait()
    assert folder.exists(), "a killed JVM removes nothing"
    end = time.monotonic() + 20
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.1)
        open_scratch([tmp_path])
    assert not folder.exists()


@pytest.mark.usefixtures("spark")
def test_a_night_keeps_no_secret(
    hidden: Company, funnel: Callable[..., Ended], caplog: pytest.LogCaptureFixture
) -> None:
    said = [funnel("ingest", "-c", hidden.config, "--ds", DAY)]
    assert said[0].code == 0, said[0].err
    text = hidden.config.read_text(encoding="utf-8")
    hidden.config.write_text(
        text.replace('columns = { event_id = "id"', f'where = "nowhere = \'{URL}\'"\ncolumns = {{ event_id = "id"'),
        encoding="utf-8",
    )
    said.append(funnel("ingest", "-c", hidden.config, "--ds", DAY))
    assert said[1].code == 1 and "nowhere" in said[1].err
    for command in (("report", "--ds", DAY), ("doctor",), ("tables",), ("sql", "SELECT * FROM runs")):
        said.append(funnel(command[0], "-c", hidden.config, *command[1:]))
    (message,) = [row["message"] for row in hidden.rows("runs") if row["status"] == "failed"]
    assert "nowhere" in message
    for kept in (*(ended.out + ended.err for ended in said), caplog.text, str(hidden.rows("runs"))):
        assert SECRET not in kept
    written = [path for path in hidden.folder.rglob("*") if path.is_file() and path != hidden.config]
    assert any(path.suffix == ".html" for path in written)
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


def command_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes() if b"SparkSubmit" in command_of(process) else b""
    except OSError:
        return b""


def test_scratch_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
    open_scratch([tmp_path])
    assert (tmp_path / "theirs").exists() and elsewhere.exists()
