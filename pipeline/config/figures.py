"""The figures that `monitor` writes to `metrics`, declared once: meaning, unit and threshold of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.config.sections import Threshold


@dataclass(frozen=True)
class Bound:
    """How far a figure may go.

    Args:
        description: the figure's name in a warning; `{subject}` stands for the stage or feature.
        side: which values are bad: "above" or "below" the threshold; "change": above it or below its negative;
            "factor": above it or below its inverse.
        warn: the default threshold; None: only the configuration sets one.
    """

    description: str
    side: Literal["above", "below", "change", "factor"]
    warn: float | None = None


@dataclass(frozen=True)
class Figure:
    """A figure's title and explanation for readers, its unit, what it is measured per, and its bound.

    Args:
        per: measured once per night, per stage, per feature, per mapped column of the source, or ("model") per stage
            and model version.
        bound: None for a figure that cannot have a threshold.
    """

    title: str
    explanation: str
    kind: Literal["count", "share", "hours", "probability", "index", "ratio"]
    per: Literal["night", "stage", "feature", "column", "model"] = "night"
    bound: Bound | None = None


FIGURES: Mapping[str, Figure] = {
    "rows_landed": Figure("Rows landed", "events and users that arrived and were kept", "count"),
    "rows_landed_ratio": Figure(
        "Events landed, relative to usual",
        "relative to the median of the last 7 nights",
        "ratio",
        bound=Bound("events landed, relative to the median of the last 7 nights,", "factor", 2.0),
    ),
    "quarantined_share": Figure(
        "Quarantined",
        "share of the rows read, events and users, that were rejected",
        "share",
        bound=Bound("quarantined share", "above"),
    ),
    "unreadable_share": Figure(
        "Unreadable values",
        "share of a source column's values that were there and could not be read",
        "share",
        "column",
        Bound("share of the values of {subject} that could not be read", "above"),
    ),
    "hours_to_scores": Figure(
        "Scores ready after",
        "time from the end of the day to its scores",
        "hours",
        bound=Bound("hours from the end of the day to its scores", "above"),
    ),
    "users_scored": Figure("Users scored", "every eligible user", "count"),
    "users_scored_ratio": Figure(
        "Users scored, relative to usual",
        "relative to the median of the last 7 nights",
        "ratio",
        bound=Bound("users scored, relative to the median of the last 7 nights,", "factor", 2.0),
    ),
    "users_in_common": Figure(
        "Also scored the night before",
        "share of tonight's users",
        "share",
        bound=Bound("share of users also scored the night before", "below"),
    ),
    "mean_score": Figure(
        "Mean score", "share of users expected to reach the stage after one exposure each", "probability", "stage"
    ),
    # The default bounds of an index are Siddiqi's: from 0.25 on a shift is large (Credit Risk Scorecards, Wiley 2006).
    "score_psi": Figure(
        "Shift of the scores",
        "PSI relative to the night before: 0 is no shift, above 0.1 deserves a look, above 0.25 is large",
        "index",
        "stage",
        Bound("shift of the scores of {subject}: PSI", "above", 0.25),
    ),
    "score_psi_training": Figure(
        "Shift of the scores since training",
        "PSI relative to how the same model scored the users known when it was trained; read it like the one above",
        "index",
        "stage",
        Bound("drift of the scores of {subject}: PSI", "above", 0.25),
    ),
    "feature_psi": Figure(
        "Shift of a feature since training",
        "PSI relative to the users known when the model was trained: above 0.1 deserves a look, above 0.25 is large",
        "index",
        "feature",
        Bound("drift of {subject}: PSI", "above", 0.25),
    ),
    "feature_missing_share": Figure(
        "Missing values",
        "share of users without a value",
        "share",
        "feature",
        Bound("missing share of {subject}", "above"),
    ),
    "feature_missing_change": Figure(
        "Change in missing values",
        "share of users without a value, minus that share at training",
        "share",
        "feature",
        Bound("change in the missing share of {subject}", "change", 0.1),
    ),
    "feature_missing_untaught": Figure(
        "Missing values, compared with the examples",
        "share of users without a value, minus that share of the examples that taught the model",
        "share",
        "feature",
        Bound("missing share of {subject}, compared with the examples that taught the model,", "change", 0.1),
    ),
    "feature_unseen_share": Figure(
        "Values unseen at training",
        "share of users whose value no user had at training",
        "share",
        "feature",
        Bound("share of users with a value of {subject} unseen at training", "above", 0.05),
    ),
    "matured_exposures": Figure(
        "Exposures with a known outcome", "on the latest days whose windows have passed", "count", "model"
    ),
    "matured_positives": Figure("Of these, reached the stage", "within its window", "count", "model"),
    "matured_auc": Figure(
        "Ranking (AUC)",
        "chance that of two exposures, one followed by the stage and one not, the first had the higher score: 0.5 is a "
        "coin toss, 1 is perfect",
        "index",
        "model",
        Bound("ranking of {subject}: AUC", "below", 0.55),
    ),
    "matured_calibration_error": Figure(
        "Calibration error",
        "mean distance between scores and observed rates, over 15 groups of users",
        "share",
        "model",
        Bound("calibration error of {subject}", "above"),
    ),
    "matured_calibration_gap": Figure(
        "Calibration gap",
        "how far expected positives lie from observed ones, as a share of the observed, beyond what chance explains",
        "share",
        "model",
        Bound("calibration gap of {subject}", "above", 0.25),
    ),
    # A useless top band has everyone's rate.
    "matured_lift": Figure(
        "Lift of the top band",
        "observed rate in band 10 relative to that of all exposures",
        "ratio",
        "model",
        Bound("lift of the top band of {subject}", "below", 1.0),
    ),
}
"""Every figure by its name in `metrics`, in report order."""

BOUNDS: Mapping[str, Bound] = {name: figure.bound for name, figure in FIGURES.items() if figure.bound}


def check_thresholds(thresholds: Mapping[str, Threshold]) -> None:
    """Check the keys and values of `[monitoring.thresholds]`.

    Raises:
        ValueError: a key is not a figure that can have a threshold, or `stop` comes before `warn`.
    """
    for name, threshold in thresholds.items():
        if name not in BOUNDS:
            raise ValueError(f"monitoring.thresholds: {name!r} is not one of the figures {', '.join(BOUNDS)}")
        if threshold.warn is None or threshold.stop is None:
            continue
        is_below = BOUNDS[name].side == "below"
        if threshold.stop < threshold.warn if not is_below else threshold.stop > threshold.warn:
            raise ValueError(
                f"monitoring.thresholds.{name}: stop = {threshold.stop:g} comes before warn = {threshold.warn:g}; "
                f"{'less' if is_below else 'more'} of this figure is worse"
            )
