"""Feature drift: how far each feature of tonight's users has moved since training, furthest first."""

from collections.abc import Sequence

from pipeline.report.formats import format_figure, format_percent, format_points
from pipeline.report.night import Night
from pipeline.report.parts import Cell, Note, Section, Table, measured_cell

NAMES = (
    "feature_psi",
    "feature_missing_share",
    "feature_missing_change",
    "feature_missing_untaught",
    "feature_unseen_share",
)
FeatureFigures = dict[str, tuple[float, str | None]]
"""A feature's figures by name: the value, and the threshold it is past."""
UNFOLDED = 12
"""Features shown at once; the rest are folded away."""
LARGE = 0.25
"""A population stability index from which a shift is called large (Siddiqi, Credit Risk Scorecards, Wiley 2006)."""


def build(night: Night) -> Section | None:
    found: dict[str, FeatureFigures] = {}
    for feature, name, value, past in night.query(
        "SELECT feature, name, value, past FROM metrics WHERE ds = $ds AND name IN (SELECT unnest($names)) "
        "AND feature IS NOT NULL",
        ds=night.ds,
        names=list(NAMES),
    ):
        found.setdefault(feature, {})[name] = (value, past)
    if not found:
        return None
    order = sorted(found, key=lambda feature: (-found[feature].get("feature_psi", (0.0, None))[0], feature))
    rows = [_make_row(feature, found[feature]) for feature in order]
    past_threshold = sum(any(past for _, past in figures.values()) for figures in found.values())
    columns = ["Feature", "Shift (PSI)", "Missing", "Change since training", "Compared with examples", "Unseen values"]
    model = (night.scores or {}).get("model", "the model")
    summary = (
        f"{past_threshold} of {len(rows)} features past a threshold."
        if past_threshold
        else f"None of {len(rows)} features past a threshold."
    )
    tables = [Table("Features furthest from training", columns, rows[:UNFOLDED])]
    if rows[UNFOLDED:]:
        tables.append(Table("The other features", columns, rows[UNFOLDED:], folded=f"The other {len(rows) - UNFOLDED}"))
    return Section(
        "drift",
        "Feature drift",
        f"How far tonight's users differ from those {model} was trained on, feature by feature. The index (PSI) is 0 "
        "if nothing moved; above 0.1 it deserves a look, above 0.25 the shift is large. Missing values are compared "
        "with the users known at training, and with the examples that taught the model: of a feature that these "
        "lacked, it has learned nothing. Unseen values are those that no user had at training.",
        [Note(summary, mark="warn" if past_threshold else "good"), *tables],
    )


def _make_row(feature: str, figures: FeatureFigures) -> Sequence[Cell | str]:
    absent = (None, None)
    psi, psi_past = figures.get("feature_psi", absent)
    missing, missing_past = figures.get("feature_missing_share", absent)
    change, change_past = figures.get("feature_missing_change", absent)
    untaught, untaught_past = figures.get("feature_missing_untaught", absent)
    unseen, unseen_past = figures.get("feature_unseen_share", absent)
    return [
        feature,
        measured_cell(format_figure(psi, "index"), psi_past, share=psi and min(psi / LARGE, 1.0)),
        measured_cell(format_percent(missing), missing_past),
        measured_cell("–" if change is None else format_points(change), change_past),
        measured_cell("–" if untaught is None else format_points(untaught), untaught_past),
        measured_cell(format_percent(unseen), unseen_past),
    ]
