"""What became of the values of the source's columns: those that were there and could not be read are told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from pipeline.audits.findings import Finding

EXAMPLE_LENGTH = 60


@dataclass(frozen=True)
class ColumnRead:
    """One mapped column on one landing day.

    Args:
        values: rows in which something was there.
        unreadable: those among them whose value could not be read.
        landed, landed_unreadable: the same among the rows that were not rejected.
        example: an unreadable value as it was written; None without any.
    """

    values: int = 0
    unreadable: int = 0
    landed: int = 0
    landed_unreadable: int = 0
    example: str | None = None

    def __add__(self, other: "ColumnRead") -> "ColumnRead":
        examples = [each.example for each in (self, other) if each.example is not None]
        return ColumnRead(
            self.values + other.values,
            self.unreadable + other.unreadable,
            self.landed + other.landed,
            self.landed_unreadable + other.landed_unreadable,
            min(examples, default=None),
        )

    @property
    def landed_share(self) -> float:
        return self.landed_unreadable / self.landed if self.landed else 0.0


ColumnsRead = Mapping[date, Mapping[str, ColumnRead]]
"""By landing day and column."""


def audit_columns(
    read: ColumnsRead, *, audited: str, faults: Mapping[str, tuple[str, str]], max_share: float
) -> list[Finding]:
    """Check that every value of every mapped column could be read.

    One that could not is a warning, and a failure if they are more than `max_share` of a day's. Rows that were
    rejected do not count for the share: the audit of the quarantine stops for them.

    Args:
        audited: the table, for messages.
        faults: by column, what its unreadable values are, e.g. "no number", and what becomes of them.

    Returns: a finding for each column.
    """
    findings = []
    for column, (fault, effect) in faults.items():
        days = {day: columns[column] for day, columns in read.items() if column in columns}
        findings.append(_make_finding(audited, column, days, fault, effect, max_share))
    return findings


def _make_finding(
    audited: str, column: str, days: Mapping[date, ColumnRead], fault: str, effect: str, max_share: float
) -> Finding:
    total = sum(days.values(), ColumnRead())
    broken = sorted(day for day, each in days.items() if each.unreadable)
    over = [day for day in broken if days[day].landed_share > max_share]
    observed = None
    if broken:
        on = f" on {len(broken)} of {len(days)} days, the first {broken[0]}" if len(days) > 1 else ""
        example = shorten(total.example or "")
        observed = (
            f"{column}: {total.unreadable:,} of {total.values:,} values are {fault}, such as {example!r}{on}; {effect}"
        )
    if over:
        observed = f"{observed}; more than audit.max_unreadable_share = {max_share:g}" + (
            f" on {over[0]}" if len(days) > 1 else ""
        )
    return Finding(
        audited=audited,
        name="values_are_readable",
        expectation=f"values_are_readable(max_share={max_share:g})",
        columns=column,
        severity="critical",
        status="failed" if over else "warning" if broken else "ok",
        observed=observed,
        is_sentence=True,
    )


def shorten(text: str) -> str:
    """A value as a message shows it."""
    return text if len(text) <= EXAMPLE_LENGTH else f"{text[:EXAMPLE_LENGTH]}…"
