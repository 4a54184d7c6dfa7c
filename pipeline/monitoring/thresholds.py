"""How far a monitored figure may go: the thresholds, the configuration's over these, and what is said past one."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.figures import BOUNDS
from pipeline.config.sections import Threshold
from pipeline.config.settings import Settings


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
class Judged:
    """One line of each figure past its threshold: those that warn only, and those that stop the night."""

    warnings: Sequence[str]
    stops: Sequence[str]


def judge(figures: Sequence[Measured], settings: Settings) -> Judged:
    """Hold figures against `[monitoring.thresholds]`, and those it does not name against the thresholds above.

    Scores are late after `operations.scores_due_hours`, unless the threshold of `hours_to_scores` says otherwise.
    """
    given = settings.monitoring.thresholds
    usual = {name: Threshold(warn=bound.warn) for name, bound in BOUNDS.items()}
    usual["hours_to_scores"] = Threshold(warn=settings.operations.scores_due_hours)
    warnings, stops = [], []
    for figure in figures:
        if figure.name not in BOUNDS or not figure.is_judged:
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
    match BOUNDS[figure.name].side:
        case "below":
            return value + figure.chance < bound
        case "change":
            value = abs(value)
        case "factor":
            value = max(value, 1 / value) if value > 0 else float("inf")
    return value - figure.chance > bound


def _line(figure: Measured, bound: float | None) -> str:
    about = BOUNDS[figure.name]
    sign = "<" if about.side == "below" else ">"
    shown = f"{bound:g}"
    if about.side == "factor" and figure.value < 1:
        sign, shown = "<", f"1/{bound:g}"
    elif about.side == "change" and figure.value < 0:
        sign, shown = "<", f"-{bound:g}"
    said = about.saying.format(of=figure.feature or figure.stage)
    against = f" ({figure.against})" if figure.against else ""
    return f"{said} {figure.value:.3g} {sign} {shown}{against}"
