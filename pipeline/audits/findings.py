"""The findings of an audit, one for each expectation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import AuditError


@dataclass(frozen=True)
class Finding:
    """One expectation that was checked.

    Args:
        audited: the name of the frame, e.g. "events".
        name: the expectation's name, e.g. "expect_column_values_to_be_between".
        expectation: its name and arguments, e.g. "expect_column_values_to_be_between(min_value=0)".
        columns: those that it is about, comma-separated; empty if it is about the whole table.
        severity: how bad its failure is: "critical", "warning" or "info".
        status: "ok", "warning" (it does not hold; the run goes on) or "failed" (the run stops).
        observed: what was found instead, with offending rows; None if it holds.
        is_sentence: whether `observed` says all that a reader needs, without the expectation.
    """

    audited: str
    name: str
    expectation: str
    columns: str
    severity: str
    status: Literal["ok", "warning", "failed"]
    observed: str | None = None
    is_sentence: bool = False

    @property
    def topic(self) -> str:
        """What a warning of it is about, whatever its numbers."""
        return f"{self.audited} {self.name} {self.columns}".strip()

    @property
    def line(self) -> str:
        """What was observed, after the expectation unless it needs none."""
        return self.observed or "" if self.is_sentence else f"{self.expectation}: {self.observed}"

    @property
    def warning(self) -> str:
        """The line of its warning."""
        return f"audit of {self.audited}: {self.line}"


def require_no_failures(findings: Sequence[Finding]) -> list[str]:
    """Return one line for each warning.

    Raises:
        AuditError: a critical expectation failed; names the first and counts the others.
    """
    failed = [finding for finding in findings if finding.status == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more critical failures)" if len(failed) > 1 else ""
        raise AuditError(f"audit of {failed[0].audited} failed: {failed[0].line}{more}; nothing was published")
    return [finding.warning for finding in findings if finding.status == "warning"]
