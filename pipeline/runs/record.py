"""The record of a stage's run: status, rows in and out, seconds, input snapshots, versions, audits."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from pipeline.audits.findings import Finding, require_no_failures
from pipeline.audits.unreadable import ColumnRead, shorten
from pipeline.dates import DateRange
from pipeline.errors import FunnelError, Terminated, TransientError, describe_error
from pipeline.runs.context import Context, code_version
from pipeline.runs.erasures import read_pending
from pipeline.runs.termination import raise_on_sigterm
from pipeline.text import show
from pipeline.warehouse.damage import describe
from pipeline.warehouse.exclusion import writing
from pipeline.warehouse.failures import UnreachableError
from pipeline.warehouse.retries import LockedError, one_attempt
from pipeline.warehouse.warehouse import Pinned

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WAITED_FOR = (LockedError, UnreachableError)
"""Errors of a catalog whose wait is over."""


@dataclass
class Counts:
    """Rows of one date. In a stage that rejects rows, `rows_in` = `rows_out` + `duplicates` + `quarantined`."""

    rows_in: int = 0
    rows_out: int = 0
    duplicates: int = 0
    quarantined: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class StageWarning:
    """A warning's line, and its topic, by which two nights' warnings are compared."""

    topic: str
    line: str


@dataclass
class StageRun:
    """What a stage reads and reports. At its end it becomes one row a date in `runs`, and one a finding in `audits`.

    `read_by_day` has what became of the source's columns, by table and column: "users.age".
    """

    context: Context
    stage: str
    dates: DateRange
    by_day: dict[date, Counts] = field(default_factory=dict)
    read_by_day: dict[date, dict[str, ColumnRead]] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    output_snapshot: int | None = None
    model_version: str | None = None
    warnings: list[StageWarning] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def read(self, name: str, *, first: date | None = None, last: date | None = None) -> "DataFrame":
        """Read a table's rows in [first, last] as a Spark frame, and record the snapshot as an input."""
        # Imported late, since most stages run without Spark.
        from pipeline.engines.spark import read_pinned

        return read_pinned(self.context.spark, self.pin(name, first=first, last=last))

    def pin(self, name: str, *, first: date | None = None, last: date | None = None) -> Pinned:
        """Pin a table's files in [first, last] for another reader, and record the snapshot as an input."""
        return self.record_input(self.context.warehouse.pin(name, first=first, last=last))

    def record_input(self, pinned: Pinned) -> Pinned:
        """Record a snapshot pinned earlier as an input; returns it."""
        if pinned.snapshot_id is not None:
            self.inputs[pinned.table] = pinned.snapshot_id
        return pinned

    def record_findings(self, findings: Sequence[Finding]) -> None:
        """Record an audit's findings, and their warnings.

        Raises:
            AuditError: a critical expectation failed.
        """
        self.findings += findings
        self.warnings += [StageWarning(each.topic, each.warning) for each in findings if each.status == "warning"]
        require_no_failures(findings)

    @property
    def total(self) -> Counts:
        return sum(self.by_day.values(), Counts())


@contextmanager
def recorded(context: Context, stage: str, dates: DateRange) -> Iterator[StageRun]:
    """Run a stage and record how it ended.

    Raises:
        FunnelError: whatever the stage or Spark raised, prefixed by the stage and its dates; the files that it staged
            and did not publish are gone.
        Terminated: by SIGTERM, with the same prefix.
    """
    with writing(context.settings, notify=context.notify):
        if pending := read_pending(context.settings):
            context.notify(f"warning: {pending} is not finished: run `funnel erase`")
        with _recorded(context, stage, dates) as run:
            yield run


@contextmanager
def _recorded(context: Context, stage: str, dates: DateRange) -> Iterator[StageRun]:
    run = StageRun(context, stage, dates)
    started, clock = datetime.now(UTC), time.monotonic()
    try:
        with raise_on_sigterm():
            context.warehouse.require_writable()
            yield run
    except GeneratorExit:
        raise
    except BaseException as error:
        damage, explained = _find_damage(run, error), _explain_worker_error(error)
        _remove_staged(context)
        message = damage or explained or describe_error(error)
        # The stage's own error is the one to report, even if recording it fails too; nothing is waited for twice.
        with suppress(Exception), one_attempt() if isinstance(error, WAITED_FOR) else nullcontext():
            _write(run, started, time.monotonic() - clock, status="failed", message=message)
            _write_audits(run)
        if isinstance(error, Terminated):
            raise Terminated(f"{stage} {dates}: {error}") from None
        if isinstance(error, FunnelError):
            raise type(error)(f"{stage} {dates}: {error}", stage=stage) from error
        if damage or explained:
            raise FunnelError(f"{stage} {dates}: {message}", stage=stage) from error
        if kind := _classify_spark_error(error):
            raise kind(f"{stage} {dates}: Spark: {message}", stage=stage) from error
        raise
    seconds = time.monotonic() - clock
    _write_audits(run)
    _write(run, started, seconds, status="ok", message="")
    for warning in run.warnings:
        context.notify(f"warning: {stage} {dates}: {warning.line}")
    context.notify(f"{stage:<9} {dates}  {_describe_rows(run.total)}  {seconds:.1f} s")


def _remove_staged(context: Context) -> None:
    """Remove what the failed stage has written and not published."""
    with suppress(Exception):
        # A job that goes on would write on.
        if "spark" in vars(context):
            context.spark.sparkContext.cancelAllJobs()
        context.warehouse.discard_staged()


def _find_damage(run: StageRun, error: BaseException) -> str | None:
    """The damaged file, in one line, if the error is that one of the run's inputs cannot be read; else None."""
    if isinstance(error, FunnelError) or not re.search("parquet|no such file|not exist", describe_error(error), re.I):
        return None
    with suppress(Exception):
        for name in run.inputs:
            if damage := run.context.warehouse.damage_of(name, deep=True):
                return describe(name, damage)
    return None


def _explain_worker_error(error: BaseException) -> str | None:
    """Why Spark's executors cannot run our Python, in one line, if that is what the error says; else None."""
    if not _is_of_spark(error):
        return None
    from pipeline.engines.executors import explain_worker_error

    return explain_worker_error(str(error), os.environ.get("PYSPARK_PYTHON", "python3"))


def _is_of_spark(error: BaseException) -> bool:
    # Imported late, since most stages run without Spark.
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    return isinstance(error, PySparkException | Py4JJavaError)


def _classify_spark_error(error: BaseException) -> type[FunnelError] | None:
    """The kind of FunnelError that an error of Spark's is; None for other errors and for our own code in a worker."""
    from pyspark.errors import AnalysisException, PythonException

    if not _is_of_spark(error) or isinstance(error, PythonException):
        return None
    # A wrong query stays wrong; an unreadable file or a full disk may pass.
    return FunnelError if isinstance(error, AnalysisException) else TransientError


def _describe_rows(total: Counts) -> str:
    text = f"{total.rows_out:,} rows"
    if total.duplicates or total.quarantined:
        text += f" of {total.rows_in:,} ({total.duplicates:,} duplicate, {total.quarantined:,} quarantined)"
    return text


def _write(run: StageRun, started: datetime, seconds: float, *, status: str, message: str) -> None:
    shared: dict[str, Any] = {
        "run_id": run.context.run_id,
        "stage": run.stage,
        "status": status,
        "seconds": seconds / len(run.dates),
        "started_at": started,
        "inputs": list(run.inputs.items()),
        "output_snapshot": run.output_snapshot,
        "model_version": run.model_version,
        "code_version": code_version(),
        "warnings": "\n".join(show(warning.line) for warning in run.warnings),
        "warning_topics": "\n".join(show(warning.topic) for warning in run.warnings),
        "message": message,
    }
    rows = []
    for day in run.dates:
        counts = run.by_day.get(day, Counts())
        rows.append(shared | vars(counts) | _describe_columns(run.read_by_day.get(day, {})) | {"ds": day})
    run.context.warehouse.append("runs", rows)


def _describe_columns(read: Mapping[str, ColumnRead]) -> dict[str, list[tuple[str, Any]]]:
    broken = {name: column for name, column in read.items() if column.unreadable}
    return {
        "values_in": [(name, column.values) for name, column in read.items()],
        "unreadable": [(name, column.unreadable) for name, column in broken.items()],
        "unreadable_examples": [(name, shorten(column.example or "")) for name, column in broken.items()],
    }


def _write_audits(run: StageRun) -> None:
    """Write one row a finding; those of a range audited as a whole go to its last date."""
    shared = {"ds": run.dates.last, "checked_at": datetime.now(UTC), "run_id": run.context.run_id}
    if run.findings:
        run.context.warehouse.append("audits", [vars(finding) | shared for finding in run.findings])
