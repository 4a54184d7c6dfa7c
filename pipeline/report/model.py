"""The report's parts on the model: how far its inputs have drifted since training, and which experts it uses."""

from collections.abc import Sequence

from pipeline.report.night import Night
from pipeline.report.parts import Cell, Note, Section, Table, measured_cell, percent, points

DRIFT = ("feature_psi", "feature_missing_share", "feature_missing_change", "feature_unseen_share")
Figures = dict[str, tuple[float, str | None]]
"""A feature's figures by name: the value, and the threshold it is past."""
SHOWN = 12
"""Features that stand open; the rest are folded away."""
LARGE = 0.25
"""A population stability index from which a shift is called large (Siddiqi, Credit Risk Scorecards, Wiley 2006)."""


def drift(night: Night) -> Section | None:
    """Each feature tonight against the users whom the model was trained as of, those furthest off first."""
    found: dict[str, Figures] = {}
    for feature, name, value, past in night.query(
        "SELECT feature, name, value, past FROM metrics WHERE ds = $ds AND name IN (SELECT unnest($names)) "
        "AND feature IS NOT NULL",
        ds=night.ds,
        names=list(DRIFT),
    ):
        found.setdefault(feature, {})[name] = (value, past)
    if not found:
        return None
    order = sorted(found, key=lambda feature: (-found[feature].get("feature_psi", (0.0, None))[0], feature))
    rows = [_drift_row(feature, found[feature]) for feature in order]
    past_threshold = sum(any(past for _, past in figures.values()) for figures in found.values())
    columns = ["Feature", "Shift (PSI)", "Missing", "Change since training", "Unseen values"]
    model = (night.scores or {}).get("model", "the model")
    told = (
        f"{past_threshold} of {len(rows)} features past a threshold."
        if past_threshold
        else f"None of {len(rows)} past a threshold."
    )
    tables = [Table("Features furthest from training", columns, rows[:SHOWN])]
    if rows[SHOWN:]:
        tables.append(Table("The other features", columns, rows[SHOWN:], folded=f"The other {len(rows) - SHOWN}"))
    return Section(
        "drift",
        "Drift of the features",
        f"How far tonight's users differ from those that {model} was trained with, feature by feature. The index (PSI) "
        "is 0 where nothing moved; above 0.1 look at it, above 0.25 the shift is large. Unseen are values that no user "
        "had at training.",
        [Note(told, mark="warn" if past_threshold else "good"), *tables],
    )


def _drift_row(feature: str, figures: Figures) -> Sequence[Cell | str]:
    absent = (None, None)
    psi, psi_past = figures.get("feature_psi", absent)
    missing, missing_past = figures.get("feature_missing_share", absent)
    change, change_past = figures.get("feature_missing_change", absent)
    unseen, unseen_past = figures.get("feature_unseen_share", absent)
    return [
        feature,
        measured_cell("–" if psi is None else f"{psi:.3f}", psi_past, share=psi and min(psi / LARGE, 1.0)),
        measured_cell(percent(missing), missing_past),
        measured_cell("–" if change is None else points(change), change_past),
        measured_cell(percent(unseen), unseen_past),
    ]


def experts(night: Night) -> Section | None:
    """How much of each expert every stage's tower takes, as measured when the night's model was trained."""
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
    names = sorted({feature for feature, _ in found}, key=_natural)
    stages = [stage for stage in night.stages if any(key[1] == stage for key in found)]
    most = max(found.values())
    rows = [[name, *(_weight(found.get((name, stage), 0.0), most) for stage in stages)] for name in names]
    favourites = {stage: max(names, key=lambda name: found.get((name, stage), 0.0)) for stage in stages}
    told = ", ".join(
        f"{stage} leans most on {name} ({percent(found[name, stage])})" for stage, name in favourites.items()
    )
    return Section(
        "experts",
        "Experts by task",
        "Inside the model several small networks, the experts, share the work, and each stage weighs them for itself. "
        "Columns that look alike: the stages learn from the same signals. An expert near 0 everywhere is idle.",
        [
            Note(told[0].upper() + told[1:] + "."),
            Table("Share of each expert", ["Expert", *stages], rows, is_heat_map=True),
        ],
    )


def _weight(value: float, most: float) -> Cell:
    return Cell(percent(value) if value else "–", share=value / most)


def _natural(name: str) -> tuple[str, int]:
    """'expert 2' before 'expert 10'."""
    kind, _, number = name.rpartition(" ")
    return (kind, int(number)) if number.isdigit() else (name, 0)
