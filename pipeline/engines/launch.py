"""Starts Spark's JVM so that no property of it shows in the list of processes."""

import atexit
import logging
import os
import shlex
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from py4j.java_gateway import JavaGateway
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway

from pipeline.engines.masters import is_one_process
from pipeline.engines.scratch import Scratch, open_scratch
from pipeline.errors import TransientError

JAVA_OPTIONS = "spark.driver.extraJavaOptions"
LOCAL_FOLDERS = "spark.local.dir"
SECONDS_TO_ANSWER = 10


def start_jvm(properties: Mapping[str, str]) -> None:
    """Start the process's JVM and its Spark context, unless it has a JVM.

    PySpark would name each property on the command line, which every user of the machine can read; here they are in
    files that only the owner can read, and that are removed once the JVM has read them.

    Raises:
        TransientError: no master of a standalone cluster answers, or it ended the application at once.
    """
    if SparkContext._gateway is not None:
        return
    _require_answer(properties["spark.master"])
    # As Spark does: the variable wins.
    parents = (os.environ.get("SPARK_LOCAL_DIRS") or properties.get(LOCAL_FOLDERS) or tempfile.gettempdir()).split(",")
    scratch = open_scratch([Path(each.strip()) for each in parents])
    folders = ",".join(str(each.folder) for each in scratch)
    given = {**properties, LOCAL_FOLDERS: folders}
    with _submitting(given, scratch[0].folder):
        gateway: JavaGateway = launch_gateway(popen_kwargs={"pass_fds": [each.lock for each in scratch]})
    _remove_at_exit(gateway, scratch)
    # py4j logs each Ctrl-C with its traceback, through the root logger.
    logging.getLogger().addFilter(_is_no_interrupt)
    with _keeping_ctrl_c():
        context = SparkContext(gateway=gateway, conf=SparkConf(_jvm=gateway.jvm).setAll([*given.items()]))
    if not is_one_process(given["spark.master"]):
        # A cluster takes a driver that just goes away for one that died, and starts its executors again.
        atexit.register(_stop, context)


def _require_answer(master: str) -> None:
    """Ask a standalone cluster for a sign of life: Spark would wait a minute, and then tell of a stopped context."""
    if not master.startswith("spark://"):
        return
    reasons = []
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER).close()
        except (OSError, ValueError) as error:
            reasons.append(f"{address}: {getattr(error, 'strerror', None) or error}")
        else:
            return
    raise TransientError(f"no master of Spark answers at {master} ({'; '.join(reasons)}); see [spark] master")


def _stop(context: SparkContext) -> None:
    # The JVM may be gone already.
    with suppress(Exception), warnings.catch_warnings(action="ignore"):
        context.stop()


@contextmanager
def _keeping_ctrl_c() -> Iterator[None]:
    """Undo Spark's handler of Ctrl-C, which calls the JVM amid another call: a stage that ends cancels its jobs."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("KeyboardInterrupt while sending command")


@contextmanager
def _submitting(properties: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Let `launch_gateway` start a JVM with these properties, and with Spark's own defaults for others."""
    options, submitted = folder / "java.options", folder / "spark.properties"
    options.write_text("\n".join(map(_quote_option, shlex.split(properties[JAVA_OPTIONS]))), encoding="utf-8")
    # The JVM's own options would be on the command line, too; of a file, it has the name.
    lines = {**properties, JAVA_OPTIONS: f"@{options}"}.items()
    submitted.write_text("".join(f"{_escape(key)}={_escape(value)}\n" for key, value in lines), encoding="ascii")
    arguments = ["--load-spark-defaults", "--properties-file", str(submitted)]
    given = os.environ.get("PYSPARK_SUBMIT_ARGS", "pyspark-shell")
    variables = {"PYSPARK_SUBMIT_ARGS": f"{shlex.join(arguments)} {given}"}
    if "SPARK_LOCAL_DIRS" in os.environ:
        variables["SPARK_LOCAL_DIRS"] = properties[LOCAL_FOLDERS]
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        options.unlink()
        submitted.unlink()


def _remove_at_exit(gateway: JavaGateway, scratch: list[Scratch]) -> None:
    """Let the JVM remove the folders when it ends: last, when Spark has removed what was in them."""
    for each in scratch:
        gateway.jvm.java.io.File(str(each.folder)).deleteOnExit()


def _quote_option(option: str) -> str:
    """An option as a file of `java @file` has it."""
    return '"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escape(text: str) -> str:
    """A key or a value as a file of Java's properties has it."""
    plain = "".join(f"\\{each}" if each in "\\=:#! " else each for each in text)
    plain = plain.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t").replace("\f", "\\f")
    # Java reads UTF-16 there.
    return "".join(each if each.isascii() else _utf_16(each) for each in plain)


def _utf_16(character: str) -> str:
    code = character.encode("utf-16-be").hex()
    return "".join(f"\\u{code[place : place + 4]}" for place in range(0, len(code), 4))
