"""Features that examples lack where a night has them, or have where it lacks them: what is learned of them misleads."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from pipeline.config.features import UserAttribute, user_features
from pipeline.config.settings import Settings
from pipeline.measures.drift import ERRORS
from pipeline.runs.record import StageWarning

ALLOWED = 0.1
"""How far the missing share of the examples may be from that of a night's users."""


def missing_shares(rows: pa.Table, features: Iterable[str]) -> dict[str, float]:
    """The share of the rows without a value, by feature; nothing without rows."""
    return {name: rows.column(name).null_count / rows.num_rows for name in features if rows.num_rows}


def compare_missing(
    settings: Settings, in_examples: Mapping[str, float], at_night: Mapping[str, float], *, examples: int, users: int
) -> list[StageWarning]:
    """Warn of features whose missing share in the examples is not that of the users of a night.

    Counts are never missing. Days since an event are missing more often early in a user's life, when most messages are
    sent; they are told only where no example has any.

    Args:
        in_examples, at_night: missing shares by feature.
        examples, users: how many each are shares of.
    """
    warnings = []
    for feature in user_features(settings):
        there, here = in_examples[feature.name], at_night[feature.name]
        chance = ERRORS * float(np.sqrt(there * (1 - there) / examples + here * (1 - here) / users))
        is_apart = abs(there - here) > ALLOWED + chance
        if is_apart and (there == 1 or feature.is_steady):
            line = (
                f"{feature.name}: missing in {there:.0%} of the {examples:,} examples, but in {here:.0%} of the users "
                "that a night scores, so what the model learns of it does not hold at night"
            )
            if isinstance(feature.source, UserAttribute) and not feature.source.is_static and there > here:
                line += (
                    "; profiles that land only after the message teach nothing: let them land before it, or, if it "
                    "never changes, name it in features.static"
                )
            warnings.append(StageWarning(f"missing {feature.name}", line))
    return warnings
