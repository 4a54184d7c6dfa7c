"""Stages: the latest run of each step of the night."""

from pipeline.report.night import Night
from pipeline.report.parts import Cell, Section, Table


def build(night: Night) -> Section:
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
        f"The steps of the night: the latest run of each, in the order they started; times are in "
        f"{night.settings.funnel.timezone}.",
        [Table("Stages", columns, rows)],
    )
