"""Find the figures past their thresholds, and word the warnings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.config.figures import BOUNDS
from pipeline.config.sections import Threshold
from pipeline.config.settings import Settings
from pipeline.text import format_number


@dataclass(frozen=True)
class Measurement:
    """One figure of a night, and the stage, feature or model it is about, if any.

    Args:
        chance: how far chance alone may move the value; only what lies beyond it counts as past a threshold.
        is_checked: whether thresholds apply.
        basis: what it was compared with or measured on, shown in its warning.
    """

    name: str
    value: float
    stage: str | None = None
    feature: str | None = None
    model_version: str | None = None
    chance: float = 0.0
    is_checked: bool = True
    basis: str = ""


@dataclass(frozen=True)
class Breach:
    """A figure past a bound, which warns or stops the night."""

    measurement: Measurement
    severity: Literal["warn", "stop"]
    bound: float

    @property
    def topic(self) -> str:
        """What a warning of it is about, whatever its numbers."""
        measurement = self.measurement
        return f"{measurement.name} {measurement.feature or measurement.stage or ''}".strip()

    def __str__(self) -> str:
        """One line for a warning or a failure."""
        name, value = self.measurement.name, self.measurement.value
        about = BOUNDS[name]
        sign = "<" if about.side == "below" else ">"
        shown = format_number(self.bound, 6)
        if about.side == "factor" and value < 1:
            sign, shown = "<", f"1/{shown}"
        elif about.side == "change" and value < 0:
            sign, shown = "<", f"-{shown}"
        described = about.description.format(subject=self.measurement.feature or self.measurement.stage)
        suffix = f" ({self.measurement.basis})" if self.measurement.basis else ""
        return f"{described} {format_number(value)} {sign} {shown}{suffix}"


def resolve_thresholds(settings: Settings) -> Mapping[str, Threshold]:
    """The threshold of each figure: from `[monitoring.thresholds]`, else its default.

    The default of `hours_to_scores` is `operations.scores_due_hours`.
    """
    defaults = {name: Threshold(warn=bound.warn) for name, bound in BOUNDS.items()}
    defaults["hours_to_scores"] = Threshold(warn=settings.operations.scores_due_hours)
    return defaults | settings.monitoring.thresholds


def find_breach(measurement: Measurement, thresholds: Mapping[str, Threshold]) -> Breach | None:
    """The bound that a figure is past, `stop` before `warn`; None if it is within both or has no threshold."""
    if measurement.name not in thresholds or not measurement.is_checked:
        return None
    threshold = thresholds[measurement.name]
    if threshold.stop is not None and is_past(measurement, threshold.stop):
        return Breach(measurement, "stop", threshold.stop)
    if threshold.warn is not None and is_past(measurement, threshold.warn):
        return Breach(measurement, "warn", threshold.warn)
    return None


def is_past(measurement: Measurement, bound: float) -> bool:
    """Whether a figure is past a bound by more than chance explains.

    >>> is_past(Measurement("feature_psi", 0.3), 0.25), is_past(Measurement("feature_psi", 0.3, chance=0.1), 0.25)
    (True, False)
    >>> is_past(Measurement("users_scored_ratio", 0.4), 2.0), is_past(Measurement("feature_missing_change", -0.2), 0.1)
    (True, True)
    """
    value = measurement.value
    match BOUNDS[measurement.name].side:
        case "below":
            return value + measurement.chance < bound
        case "change":
            value = abs(value)
        case "factor":
            value = max(value, 1 / value) if value > 0 else float("inf")
    return value - measurement.chance > bound
