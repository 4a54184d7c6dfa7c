"""The report's parts on how the night ran: audits, stages, and where to look next."""

from collections.abc import Sequence
from itertools import groupby

from pipeline.report.night import Night
from pipeline.report.parts import Cell, Command, Mark, Part, Section, Table

_MARKS: dict[str, Mark] = {"ok": "good", "warning": "warn", "failed": "bad"}
_SAID = {"ok": "holds", "warning": "warned", "failed": "failed"}


def audits(night: Night) -> Section | None:
    """What was checked before anything was published, and what did not hold."""
    found = night.query(
        "SELECT audited, expectation, columns, severity, status, observed FROM audits WHERE ds = $ds "
        "QUALIFY checked_at = max(checked_at) OVER (PARTITION BY audited) "
        "ORDER BY audited, status = 'ok', status = 'warning', columns, expectation",
        ds=night.ds,
    )
    if not found:
        return None
    broken = [row for row in found if row[4] != "ok"]
    parts: list[Part] = [_audit_summary(found)]
    if broken:
        rows: list[list[Cell | str]] = [
            [
                f"{audited}: {columns or 'the whole table'}",
                Cell(_SAID[status], "", _MARKS[status]),
                Cell(observed or "", expectation),
            ]
            for audited, expectation, columns, _, status, observed in broken
        ]
        parts.append(Table("What did not hold", ["Checked", "Result", "Observed"], rows, is_text=True))
    every: list[list[Cell | str]] = [
        [
            f"{audited}: {columns or 'the whole table'}",
            Cell(_SAID[status], "", _MARKS[status]),
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
        "Checks on the very files that were about to be published. A failed one stops the night and leaves the table "
        "as it was; a warning lets it pass and is told.",
        parts,
    )


def _audit_summary(found: Sequence[tuple[str, ...]]) -> Table:
    rows = []
    for audited, group in groupby(found, key=lambda row: row[0]):
        states = [row[4] for row in group]
        held, warned, failed = (states.count(status) for status in _MARKS)
        rows.append(
            [
                audited,
                f"{len(states):,}",
                Cell(f"{held:,}", "", "good" if held else ""),
                Cell(f"{warned:,}", "", "warn" if warned else ""),
                Cell(f"{failed:,}", "", "bad" if failed else ""),
            ]
        )
    return Table("Checks by table", ["Table", "Checks", "Hold", "Warned", "Failed"], rows)


def stages(night: Night) -> Section:
    """The latest run of each stage."""
    rows = [
        [
            run["stage"],
            Cell(run["status"], "", "good" if run["status"] == "ok" else "bad"),
            f"{run['rows_in']:,}",
            f"{run['rows_out']:,}",
            f"{run['duplicates']:,}",
            f"{run['quarantined']:,}",
            str(len(run["warnings"].splitlines())),
            f"{run['seconds']:.1f}",
            run["started"],
        ]
        for run in night.runs
    ]
    columns = ["Stage", "Status", "Rows in", "Rows out", "Duplicate", "Quarantined", "Warnings", "Seconds", "Started"]
    return Section(
        "stages",
        "Stages",
        f"The steps of the night: the latest run of each, in the order they started; times of "
        f"{night.settings.funnel.timezone}.",
        [Table("Stages", columns, rows)],
    )


def where_next(night: Night) -> Section:
    """Queries to go on with."""
    last = night.stages[-1]
    commands = [
        Command(
            "What was rejected, and why:",
            f'funnel sql "SELECT reason, count(*), any_value(raw) FROM quarantine\n'
            f"            WHERE landed_on = '{night.ds}' GROUP BY reason\"",
        ),
        Command(
            "Every run of this night, failed ones too:",
            f'funnel sql "SELECT stage, status, started_at, seconds, message FROM runs\n'
            f"            WHERE ds = '{night.ds}' ORDER BY started_at\"",
        ),
    ]
    if night.scores:
        commands.insert(
            0,
            Command(
                "Whom to text first, best last-stage score on top:",
                f'funnel sql "SELECT user_id, p_{last}, band_{last} FROM user_scores\n'
                f"            WHERE ds = '{night.ds}' ORDER BY p_{last} DESC LIMIT 1000\" --format csv",
            ),
        )
    return Section("next", "Where to look next", "To type where the funnel's configuration lies.", commands)
