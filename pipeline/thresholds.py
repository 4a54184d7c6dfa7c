"""How far a monitored figure may go: the thresholds, the configuration's over these, and what is said past one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.sections import Threshold

if TYPE_CHECKING:
    from pipeline.config import Settings


@dataclass(frozen=True)
class Measured:
    """One figure of a night; of one stage, of one feature, of one model, or of all.

    Args:
        chance: how far from harmless the value may be by chance alone; a threshold is judged beyond it.
        is_judged: whether a threshold applies at all.
        against: what it was compared with, for a warning's reader.
    """

    name: str
    value: float
    stage: str | None = None
    feature: str | None = None
    model_version: str | None = None
    chance: float = 0.0
    is_judged: bool = True
    against: str = ""


@dataclass(frozen=True)
class Limit:
    """What is said of a figure past its threshold, on which side that lies, and the value from which it warns.

    `above` and `below` are the threshold's sides; `change` is above it or below its negative, `factor` above it or
    below its inverse.
    """

    saying: str
    side: Literal["above", "below", "change", "factor"]
    warn: float | None = None


LIMITS: Mapping[str, Limit] = {
    "rows_landed_ratio": Limit("rows landed, against the median of the last 7 nights", "factor", 2.0),
    "quarantined_share": Limit("share of rows quarantined", "above"),
    "hours_to_scores": Limit("hours from the end of the day to its scores", "above"),
    "users_scored_ratio": Limit("users scored, against the median of the last 7 nights", "factor", 2.0),
    "users_in_common": Limit("share of users scored the night before, too", "below"),
    # Siddiqi's bound for a large shift.
    "score_psi": Limit("shift of the scores of {of}: PSI", "above", 0.25),
    "score_psi_training": Limit("drift of the scores of {of}: PSI", "above", 0.25),
    "feature_psi": Limit("drift of {of}: PSI", "above", 0.25),
    "feature_missing_share": Limit("share of users without {of}", "above"),
    "feature_missing_change": Limit("change of the share of users without {of}", "change", 0.1),
    "feature_unseen_share": Limit("share of users with a value of {of} unseen at training", "above", 0.05),
    # A coin ranks by 0.5, and a useless best tenth has the rate of all.
    "matured_auc": Limit("ranking of {of}: AUC", "below", 0.55),
    "matured_calibration_error": Limit("calibration error of {of}", "above"),
    "matured_calibration_gap": Limit("calibration gap of {of}", "above", 0.25),
    "matured_lift": Limit("lift of the best tenth of {of}", "below", 1.0),
}
"""The figures that can have a threshold, by their names in `metrics`."""


@dataclass(frozen=True)
class Judged:
    """One line of each figure past its threshold: those that warn only, and those that stop the night."""

    warnings: Sequence[str]
    stops: Sequence[str]


def judge(figures: Sequence[Measured], settings: "Settings") -> Judged:
    """Hold figures against `[monitoring.thresholds]`, and those it does not name against the thresholds above.

    Scores are late after `operations.scores_due_hours`, unless the threshold of `hours_to_scores` says otherwise.
    """
    given = settings.monitoring.thresholds
    usual = {name: Threshold(warn=limit.warn) for name, limit in LIMITS.items()}
    usual["hours_to_scores"] = Threshold(warn=settings.operations.scores_due_hours)
    warnings, stops = [], []
    for figure in figures:
        if figure.name not in LIMITS or not figure.is_judged:
            continue
        threshold = given.get(figure.name, usual[figure.name])
        if is_past(figure, threshold.stop):
            stops.append(_line(figure, threshold.stop))
        elif is_past(figure, threshold.warn):
            warnings.append(_line(figure, threshold.warn))
    return Judged(warnings, stops)


def is_past(figure: Measured, bound: float | None) -> bool:
    """Whether a figure lies past a bound by more than chance explains; never past none.

    >>> is_past(Measured("feature_psi", 0.3), 0.25), is_past(Measured("feature_psi", 0.3, chance=0.1), 0.25)
    (True, False)
    >>> is_past(Measured("users_scored_ratio", 0.4), 2.0), is_past(Measured("feature_missing_change", -0.2), 0.1)
    (True, True)
    """
    if bound is None:
        return False
    value = figure.value
    match LIMITS[figure.name].side:
        case "below":
            return value + figure.chance < bound
        case "change":
            value = abs(value)
        case "factor":
            value = max(value, 1 / value) if value > 0 else float("inf")
    return value - figure.chance > bound


def require_sensible(thresholds: Mapping[str, Threshold]) -> None:
    """Check the keys and values of `[monitoring.thresholds]`.

    Raises:
        ValueError: a name is no figure's that can have a threshold, or a stop comes before its warning.
    """
    for name, threshold in thresholds.items():
        if name not in LIMITS:
            raise ValueError(f"monitoring.thresholds: {name!r} is none of the figures {', '.join(LIMITS)}")
        if threshold.warn is None or threshold.stop is None:
            continue
        is_below = LIMITS[name].side == "below"
        if threshold.stop < threshold.warn if not is_below else threshold.stop > threshold.warn:
            raise ValueError(
                f"monitoring.thresholds.{name}: stop = {threshold.stop:g} comes before warn = {threshold.warn:g}; "
                f"{'less' if is_below else 'more'} of this figure is worse"
            )


def _line(figure: Measured, bound: float | None) -> str:
    limit = LIMITS[figure.name]
    sign = "<" if limit.side == "below" else ">"
    shown = f"{bound:g}"
    if limit.side == "factor" and figure.value < 1:
        sign, shown = "<", f"1/{bound:g}"
    elif limit.side == "change" and figure.value < 0:
        sign, shown = "<", f"-{bound:g}"
    said = limit.saying.format(of=figure.feature or figure.stage)
    against = f" ({figure.against})" if figure.against else ""
    return f"{said} {figure.value:.3g} {sign} {shown}{against}"
