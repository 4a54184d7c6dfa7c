"""Whether a model fits the configuration: the stages, the features, and the values of the planned context."""

import difflib
from datetime import date
from pathlib import Path

from model import Bundle, BundleError
from pipeline.config.features import declared_features
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.features.features import planned_context
from pipeline.runs.record import StageWarning

MOST_VALUES = 10


def load_fitting(path: Path, settings: Settings, ds: date) -> Bundle:
    """Load a model that predicts what the configuration says, from features that it declares.

    Args:
        ds: the night, which a model that fits could be trained as of.

    Raises:
        FunnelError: it does not, or the bundle cannot be read.
    """
    try:
        bundle = Bundle.load(path)
    except BundleError as error:
        raise FunnelError(str(error)) from error
    if misfit := describe_misfit(bundle, settings):
        raise FunnelError(
            f"model {path.name} {misfit}: set that back, or train a model that fits with funnel train --as-of {ds}"
        )
    return bundle


def describe_misfit(bundle: Bundle, settings: Settings) -> str | None:
    """Why a model's scores would not be what the configuration says they are; None if they would.

    What models of earlier versions did not keep is not compared.
    """
    funnel, kept = settings.funnel, bundle.trained_on
    if bundle.task_names != funnel.stage_names:
        return f"knows the stages {', '.join(bundle.task_names)}, funnel.stages has {', '.join(funnel.stage_names)}"
    windows = {stage.name: stage.window_days for stage in funnel.stages}
    for stage, days in kept.get("windows_days", windows).items():
        if days != windows[stage]:
            return f"predicts {stage} within {days} days, funnel.stages has {windows[stage]}"
    for key, now in (("attribution", funnel.attribution), ("timezone", funnel.timezone)):
        if kept.get(key, now) != now:
            return f"was trained with funnel.{key} = {kept[key]!r}, which is {now!r} now"
    declared = {each.name: each.meaning for each in declared_features(settings)}
    if gone := [name for name in bundle.spec.names if name not in declared]:
        return f"needs {', '.join(gone)}, which [features] no longer makes"
    for name in bundle.spec.names:
        if (meant := kept.get("features", {}).get(name, declared[name])) != declared[name]:
            return f"knows {name} as {meant}, [features] makes it {declared[name]}"
    return None


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
