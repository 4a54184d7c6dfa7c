"""Fit a model to examples: the configuration of network and training, the examples required, and the fit itself."""

import os
from collections.abc import Callable, Mapping
from datetime import date, timedelta

import numpy as np
import torch
from pydantic import ValidationError

from model import (
    Bundle,
    ModelConfig,
    Progress,
    TrainConfig,
    TrainingError,
    fit,
)
from pipeline.config.sections import Training
from pipeline.config.settings import Settings, describe_mistake
from pipeline.errors import ConfigError, FunnelError
from pipeline.training.evaluation import LabelledExposures
from pipeline.training.inputs import model_features

OnProgress = Callable[[Progress], None]


def with_training(settings: Settings, **changes: object) -> Settings:
    """The configuration with some keys of `[training]` overridden, for a manual run; None keeps a value.

    Raises:
        ConfigError: a value is not allowed; names the key, the value and what is allowed.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        training = Training.model_validate({**settings.training.model_dump(), **given})
    except ValidationError as error:
        raise ConfigError(describe_mistake(error, "training")) from None
    return settings.model_copy(update={"training": training})


def require_positives(exposures: LabelledExposures, settings: Settings, as_of: date) -> None:
    """Check that every stage has labels to learn from.

    Raises:
        FunnelError: no exposure has landed, or a stage lacks mature labels or `training.min_positives`.
    """
    minimum = settings.training.min_positives
    if not exposures.table.num_rows:
        raise FunnelError(f"no exposure has landed up to {as_of}: load history first (funnel backfill)")
    first = exposures.days.min().item()
    for position, stage in enumerate(settings.funnel.stages):
        taught = exposures.labels[~exposures.held_out[:, position], position]
        mature, positives = int((~np.isnan(taught)).sum()), int(np.nansum(taught))
        if not mature:
            ready = first + timedelta(days=stage.window_days)
            raise FunnelError(
                f"no exposure has a mature label of stage {stage.name!r} by {as_of}: its window is "
                f"{stage.window_days} days and the first exposure was on {first}; train as of {ready} or later"
            )
        if positives < minimum:
            raise FunnelError(
                f"stage {stage.name!r} has {positives} positives among {mature:,} mature exposures to learn from by "
                f"{as_of}, fewer than training.min_positives = {minimum}: load more history, widen its window_days, "
                "or leave the stage out of funnel.stages"
            )


def fit_bundle(
    exposures: LabelledExposures, settings: Settings, trained_on: Mapping[str, object], on_progress: OnProgress | None
) -> Bundle:
    """Fit and calibrate a model on the labels that are not held out.

    Args:
        trained_on: kept with the bundle; plain JSON values.

    Raises:
        FunnelError: training diverged, or the examples do not fit the configuration.
    """
    # One thread per physical core: a thread that waits for a busy core costs more than it gives.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    try:
        return fit(
            exposures.table,
            features=model_features(settings),
            tasks=settings.funnel.stage_names,
            held_out=exposures.held_out,
            model=model_config(settings),
            training=train_config(settings),
            trained_on=trained_on,
            on_progress=on_progress,
        )
    except (TrainingError, ValueError) as error:
        raise FunnelError(str(error)) from error


def model_config(settings: Settings) -> ModelConfig:
    options = settings.training
    return ModelConfig(
        architecture=options.architecture,
        head="chain",  # user_scores promises stages that never rise
        numeric_embedding=options.numeric_embedding,
        experts=options.experts,
        expert_units=options.expert_units,
        gate_units=options.gate_units,
        tower_units=options.tower_units,
        dropout=options.dropout,
    )


def train_config(settings: Settings) -> TrainConfig:
    options = settings.training
    return TrainConfig(
        seed=options.seed,
        batch_size=options.batch_size,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        patience=options.patience,
        context_dropout=options.context_dropout,
        device=options.device,
    )
