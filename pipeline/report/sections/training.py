"""What the night's model was worth when it was trained: its figures on the days that training held out."""

from datetime import date

from pipeline.report.formats import format_percent
from pipeline.report.night import Night
from pipeline.report.parts import Section, Table

FIGURES = {
    "held_out_auc": "AUC, as a night scores",
    "held_out_auc_in_context": "AUC, with its context",
    "held_out_log_loss": "Log loss",
    "held_out_ece": "Calibration error",
}
"""The figures in the table, in its order."""


def build(night: Night) -> Section | None:
    if not night.scores:
        return None
    found: dict[tuple[str, str], float] = {}
    as_of: date | None = None
    for stage, name, value, day in night.query(
        "SELECT stage, name, arg_max(value, ds), max(ds) FROM metrics "
        "WHERE name LIKE 'held_out_%' AND model_version = $model GROUP BY ALL",
        model=night.scores["model"],
    ):
        found[stage, name], as_of = value, day
    rows = [
        [
            stage,
            f"{found[stage, 'held_out_rows']:,.0f}",
            f"{found[stage, 'held_out_positives']:,.0f}",
            _format_rate(found[stage, "held_out_positives"], found[stage, "held_out_rows"]),
            *(_format(found.get((stage, name))) for name in FIGURES),
        ]
        for stage in night.stages
        if (stage, "held_out_rows") in found and (stage, "held_out_positives") in found
    ]
    if not rows:
        return None
    return Section(
        "training",
        "What training held out",
        f"Model {night.scores['model']} was trained as of {as_of} and did not learn from the latest days, so its "
        f"figures there show what it is worth. A night does not know the context of the {night.exposure} to come; the "
        "second AUC is what the model reaches where it does.",
        [
            Table(
                f"Held-out {night.exposures}, by stage",
                ["Stage", night.exposures.capitalize(), "Positives", "Rate", *FIGURES.values()],
                rows,
            )
        ],
    )


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _format_rate(positives: float, rows: float) -> str:
    return format_percent(positives / rows) if rows else "–"
