"""Stage, audit, commit: how a frame becomes a partition that readers see."""

from collections.abc import Callable, Mapping

from pyspark.sql import DataFrame

from pipeline.audits.findings import Finding
from pipeline.dates import DateRange
from pipeline.engines.spark import cached, read_as_written, stage
from pipeline.runs.record import StageRun
from pipeline.warehouse.warehouse import Pinned

Check = Callable[[DataFrame], list[Finding]]
"""Audits a frame and returns what it found."""


def stage_audit_publish(run: StageRun, name: str, frame: DataFrame, check: Check | None = None) -> Pinned:
    """Stage a frame, audit the files, and make them the table's partitions of the run's dates.

    Returns: the published files.

    Raises:
        AuditError: a critical expectation failed; the table is unchanged.
    """
    staged = stage(frame, run.context.warehouse, name)
    if check:
        audit_staged(run, staged, check)
    run.output_snapshot = publish(run, staged, run.dates)
    return staged


def audit_staged(run: StageRun, staged: Pinned, check: Check) -> None:
    """Audit the staged files themselves, and record the findings with the run.

    Raises:
        AuditError: a critical expectation failed.
    """
    # The audit reads the rows several times; the `audit` step in tests/benchmarks/results/scoring.md is the cached one.
    with cached(read_as_written(run.context.spark, staged)) as written:
        run.record_findings(check(written))


def publish(run: StageRun, staged: Pinned, dates: DateRange, properties: Mapping[str, str] | None = None) -> int | None:
    """Commit staged files as the table's partitions of `dates`; returns the snapshot that readers now see.

    Args:
        properties: more to keep with the snapshot than the stage and the run.
    """
    return run.context.warehouse.publish(
        staged.table,
        staged.files,
        first=dates.first,
        last=dates.last,
        summary={"funnel.stage": run.stage, "funnel.run_id": run.context.run_id, **(properties or {})},
    )
