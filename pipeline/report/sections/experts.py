"""Experts by stage: the share of each expert in every stage's tower, as measured when the night's model was trained."""

from pipeline.report.formats import format_percent
from pipeline.report.night import Night
from pipeline.report.parts import Cell, Note, Section, Table


def build(night: Night) -> Section | None:
    if not night.scores:
        return None
    found = {
        (feature, stage): value
        for feature, stage, value in night.query(
            "SELECT feature, stage, arg_max(value, ds) FROM metrics "
            "WHERE name = 'expert_use' AND model_version = $model GROUP BY ALL",
            model=night.scores["model"],
        )
    }
    if not found:
        return None
    names = sorted({feature for feature, _ in found}, key=_split_number)
    stages = [stage for stage in night.stages if any(key[1] == stage for key in found)]
    largest = max(found.values())
    rows = [[name, *(_make_cell(found.get((name, stage), 0.0), largest) for stage in stages)] for name in names]
    favourites = {stage: max(names, key=lambda name: found.get((name, stage), 0.0)) for stage in stages}
    summary = ", ".join(
        f"{stage} leans most on {name} ({format_percent(found[name, stage])})" for stage, name in favourites.items()
    )
    return Section(
        "experts",
        "Experts by stage",
        "Inside the model several small networks, the experts, share the work, and each stage weighs them for itself. "
        "Columns that look alike mean stages that learn from the same signals. An expert near 0 everywhere is idle.",
        [
            Note(summary[0].upper() + summary[1:] + "."),
            Table("Share of each expert", ["Expert", *stages], rows, is_heat_map=True),
        ],
    )


def _make_cell(value: float, largest: float) -> Cell:
    return Cell(format_percent(value) if value else "–", share=value / largest)


def _split_number(name: str) -> tuple[str, int]:
    """For sorting 'expert 2' before 'expert 10'."""
    kind, _, number = name.rpartition(" ")
    return (kind, int(number)) if number.isdigit() else (name, 0)
