"""Stage, audit, commit: how a frame becomes a partition that readers see."""

from collections.abc import Callable

from pyspark.sql import DataFrame

from pipeline.audits.findings import Finding
from pipeline.dates import DateRange
from pipeline.engines.spark import cached, read_as_written, stage
from pipeline.runs.context import Context
from pipeline.runs.record import StageRun
from pipeline.warehouse.warehouse import Pinned

Check = Callable[[DataFrame], list[Finding]]
"""Audits a frame and returns what it found."""


def stage_audit_publish(
    context: Context, run: StageRun, name: str, frame: DataFrame, check: Check | None = None
) -> Pinned:
    """Stage a frame, audit the files, and make them the table's partitions of the run's dates.

    Returns: the published files.

    Raises:
        AuditError: a critical expectation failed; the staged files are removed and the table is unchanged.
    """
    staged = stage(frame, context.warehouse, name)
    if check:
        audit_staged(context, run, staged, check)
    run.output_snapshot = publish(context, staged, run.dates, run.stage)
    return staged


def audit_staged(context: Context, run: StageRun, staged: Pinned, check: Check) -> None:
    """Audit the staged files themselves, and record the findings with the run.

    Raises:
        AuditError: a critical expectation failed; the staged files are removed.
    """
    # The audit reads the rows several times; the `audit` step in tests/benchmarks/results/scoring.md is the cached one.
    with cached(read_as_written(context.spark, staged)) as written:
        try:
            run.record_findings(check(written))
        except Exception:
            context.warehouse.discard(staged.table, staged.files)
            raise


def publish(context: Context, staged: Pinned, dates: DateRange, stage_name: str) -> int | None:
    """Commit staged files as the table's partitions of `dates`; returns the snapshot that readers now see."""
    return context.warehouse.publish(
        staged.table,
        staged.files,
        first=dates.first,
        last=dates.last,
        summary={"funnel.stage": stage_name, "funnel.run_id": context.run_id},
    )
