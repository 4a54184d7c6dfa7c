"""What an audit found, one value an expectation, and what follows from it: warnings, or a stop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import AuditError


@dataclass(frozen=True)
class Finding:
    """One expectation that was checked.

    audited      what was checked, e.g. "events"
    expectation  its name and arguments, e.g. "expect_column_values_to_be_between(min_value=0)"
    columns      those that it is about, with commas between; empty for one about the whole table
    severity     what its failure is: "critical", "warning" or "info"
    status       "ok", "warning" (it failed, and may) or "failed" (it failed, and stops the run)
    observed     what was found where it failed, with offending rows; None where it holds
    """

    audited: str
    expectation: str
    columns: str
    severity: str
    status: Literal["ok", "warning", "failed"]
    observed: str | None = None

    @property
    def line(self) -> str:
        return f"{self.expectation}: {self.observed}"


def require(findings: Sequence[Finding]) -> list[str]:
    """One line for each finding that warns.

    Raises:
        AuditError: an expectation failed that may not; one line with the first of these, and how many more there are.
    """
    failed = [finding for finding in findings if finding.status == "failed"]
    if failed:
        more = f" (and {len(failed) - 1} more critical failures)" if len(failed) > 1 else ""
        raise AuditError(f"audit of {failed[0].audited} failed: {failed[0].line}{more}; nothing was published")
    return [f"audit of {finding.audited}: {finding.line}" for finding in findings if finding.status == "warning"]
