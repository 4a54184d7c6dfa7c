"""Whether a model fits the configuration: the stages, the features, and the values of the planned context."""

import difflib
from pathlib import Path

from model import Bundle, BundleError
from pipeline.config.features import declared_features
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.features.features import planned_context
from pipeline.runs.record import StageWarning

MOST_VALUES = 10


def load_fitting(path: Path, settings: Settings) -> Bundle:
    """Load a model that knows the stages of the configuration and needs only features that it declares.

    Raises:
        FunnelError: it does not, or the bundle cannot be read.
    """
    try:
        bundle = Bundle.load(path)
    except BundleError as error:
        raise FunnelError(str(error)) from error
    stages = settings.funnel.stage_names
    if bundle.task_names != stages:
        raise FunnelError(
            f"model {path.name} knows the stages {', '.join(bundle.task_names)}, funnel.stages has "
            f"{', '.join(stages)}: train a model for these first"
        )
    declared = {each.name for each in declared_features(settings)}
    gone = [name for name in bundle.spec.names if name not in declared]
    if gone:
        raise FunnelError(
            f"model {path.name} needs {', '.join(gone)}, which [features] no longer makes: declare what was dropped "
            "there again, or train a model without it first"
        )
    return bundle


def warn_of_unknown_context(bundle: Bundle, version: str, settings: Settings) -> list[StageWarning]:
    """A warning of each planned context value that the model has not seen, with those that it has."""
    planned = planned_context(settings)
    warnings = []
    for vocabulary in bundle.spec.categoricals:
        column, known = vocabulary.feature.name, vocabulary.values
        value = planned.get(column)
        if value is None or value in known:
            continue
        name = column.removeprefix("context_")
        alike = difflib.get_close_matches(value, known, n=1)
        guess = f", is it {alike[0]!r}?" if alike else ""
        more = f" and {len(known) - MOST_VALUES:,} more" if len(known) > MOST_VALUES else ""
        line = (
            f"scoring.context.{name} = {value!r} is a value that model {version} has never seen{guess}; it knows "
            f"{', '.join(map(repr, known[:MOST_VALUES])) or 'none'}{more}"
        )
        warnings.append(StageWarning(f"unknown context {name}", line))
    return warnings
