"""Audits: what was checked before anything was published, and what did not pass."""

from collections.abc import Sequence
from itertools import groupby

from pipeline.report.night import Night
from pipeline.report.parts import Cell, Mark, Part, Section, Table

_MARKS: dict[str, Mark] = {"ok": "good", "warning": "warn", "failed": "bad"}
_RESULTS = {"ok": "passed", "warning": "warned", "failed": "failed"}


def build(night: Night) -> Section | None:
    found = night.query(
        "SELECT audited, expectation, columns, severity, status, observed FROM audits WHERE ds = $ds "
        "QUALIFY checked_at = max(checked_at) OVER (PARTITION BY audited) "
        "ORDER BY audited, status = 'ok', status = 'warning', columns, expectation",
        ds=night.ds,
    )
    if not found:
        return None
    broken = [row for row in found if row[4] != "ok"]
    parts: list[Part] = [_summarise(found)]
    if broken:
        rows: list[list[Cell | str]] = [
            [
                f"{audited}: {columns or 'the whole table'}",
                Cell(_RESULTS[status], "", _MARKS[status]),
                Cell(observed or "", expectation),
            ]
            for audited, expectation, columns, _, status, observed in broken
        ]
        parts.append(Table("Checks that did not pass", ["Checked", "Result", "Observed"], rows, is_text=True))
    every: list[list[Cell | str]] = [
        [
            f"{audited}: {columns or 'the whole table'}",
            Cell(_RESULTS[status], "", _MARKS[status]),
            Cell(expectation, severity),
        ]
        for audited, expectation, columns, severity, status, _ in found
    ]
    parts.append(
        Table(
            "Every check", ["Checked", "Result", "Expectation"], every, folded=f"All {len(found)} checks", is_text=True
        )
    )
    return Section(
        "audits",
        "Audits",
        "Checks on the very files about to be published. A failed check stops the night and leaves the table as it "
        "was; a warning is reported and lets the files pass.",
        parts,
    )


def _summarise(found: Sequence[tuple[str, ...]]) -> Table:
    rows = []
    for audited, group in groupby(found, key=lambda row: row[0]):
        states = [row[4] for row in group]
        passed, warned, failed = (states.count(status) for status in _MARKS)
        rows.append(
            [
                audited,
                f"{len(states):,}",
                Cell(f"{passed:,}", "", "good" if passed else ""),
                Cell(f"{warned:,}", "", "warn" if warned else ""),
                Cell(f"{failed:,}", "", "bad" if failed else ""),
            ]
        )
    return Table("Checks by table", ["Table", "Checks", "Passed", "Warned", "Failed"], rows)
