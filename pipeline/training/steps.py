"""Train as of a date, in steps that each can run alone: examples, fit, judge on later days, register, promote.

A step hands the next one nothing but the model's version: what it made lies in the tables and in the model's run.
Each can run again after a kill and ends in the same.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from model import (
    Bundle,
    Categorical,
    ExpertUse,
    Feature,
    ModelConfig,
    Numeric,
    Progress,
    TrainConfig,
    TrainingError,
    fit,
)
from pipeline.config.sections import Training
from pipeline.config.settings import Settings, describe_mistake
from pipeline.dates import DateRange
from pipeline.errors import ConfigError, FunnelError
from pipeline.features.examples import context_columns, examples
from pipeline.features.features import planned_context
from pipeline.models.promotion import Verdict
from pipeline.models.registry import Registry
from pipeline.models.tracking import TrainingRun
from pipeline.monitoring.baseline import record_baseline
from pipeline.runs.context import Context, code_version
from pipeline.runs.record import Counts, StageRun, recorded
from pipeline.scoring.predict import with_constants
from pipeline.training.evaluation import LabelledExposures, compare, cross_fitted, figures, read_examples, user_folds
from pipeline.training.plots import expert_use_of, plot_reliability
from pipeline.warehouse.tables import behaviour_columns

VERDICT = "verdict.json"
TAG_LENGTH = 1000
"""MLflow's servers take tags of a few thousand characters, the oldest of 5,000 bytes."""
OnProgress = Callable[[Progress], None]


def train(context: Context, as_of: date, *, on_progress: OnProgress | None = None) -> str:
    """All steps: build examples as of a date, fit a model, judge it, register it, promote it if the verdict says so.

    Returns: the model's version.

    Raises:
        FunnelError: what any step raises; nothing is registered unless all before it went well.
    """
    examples(context, as_of)
    version = fit_candidate(context, as_of, on_progress=on_progress)
    evaluate(context, version)
    register(context, version)
    promote(context, version)
    return version


def fit_candidate(context: Context, as_of: date, *, on_progress: OnProgress | None = None) -> str:
    """Fit a model to the examples as of a date and leave it in a run of MLflow: a candidate, not yet registered.

    Run again by the same run on the same examples, it returns the candidate that there is.

    Returns: the model's version.

    Raises:
        FunnelError: a stage without mature labels or with too few positives; training that diverged.
    """
    settings, tracking = context.settings, Registry(context.settings).tracking
    with recorded(context, "train", DateRange(as_of, as_of)) as run:
        read = read_examples(context, run, as_of)
        _require_positives(read, settings, as_of)
        made_by = {"run_id": context.run_id, "examples": read.snapshot}
        taught = int((~np.isnan(read.labels)).any(axis=1).sum())
        run.by_day = {as_of: Counts(rows_in=read.table.num_rows, rows_out=taught)}
        if done := tracking.finished(as_of=as_of.isoformat(), **made_by):
            run.model_version = done[0].version
            return done[0].version
        tags = {
            **made_by,
            "architecture": settings.training.architecture,
            "code_version": code_version(),
            "snapshots": json.dumps(run.inputs),
        }
        candidate = tracking.begin(as_of, tags=tags, parameters=_parameters(settings))
        run.model_version = candidate.version
        try:
            bundle = _fit(read, settings, _trained_on(run, read, settings, as_of), on_progress)
        except Exception:
            tracking.fail(candidate)
            raise
        use = expert_use_of(bundle, read.judged.table)
        _log(context, candidate, bundle, read, use)
        _record_metrics(context, bundle, candidate.version, as_of, use)
        _record_baseline(context, bundle, candidate.version, as_of)
        tracking.finish(candidate)
    for stage, metrics in bundle.metrics.items():
        context.notify(
            f"  {stage:<12} AUC {_number(metrics.auc)}  log loss {_number(metrics.log_loss)}  "
            f"calibration error {_number(metrics.ece)}  ({metrics.held_out_positives:,} positives of "
            f"{metrics.held_out_rows:,} held out)"
        )
    return candidate.version


def evaluate(context: Context, version: str) -> Verdict:
    """Judge a candidate beside the champion as of its own date; the verdict and its figures join its run.

    Raises:
        FunnelError: there is no such model, or its examples have been built anew since.
    """
    registry = Registry(context.settings)
    candidate = registry.run(version)
    as_of = candidate.as_of
    with recorded(context, "evaluate", DateRange(as_of, as_of)) as run:
        run.model_version = version
        read = read_examples(context, run, as_of)
        if read.snapshot != candidate.tags["examples"]:
            raise FunnelError(f"the examples that model {version} was trained on are no longer there: train again")
        held = read.judged
        run.by_day = {as_of: Counts(rows_in=read.table.num_rows, rows_out=held.table.num_rows)}
        verdict = compare(context, Bundle.load(registry.bundle_path(version)), version, as_of, held)
        registry.tracking.log_metrics(candidate, figures(verdict))
        registry.tracking.log_json(candidate, VERDICT, verdict.to_dict())
        registry.tracking.tag(candidate, "verdict", verdict.line[:TAG_LENGTH])
    return verdict


def register(context: Context, version: str) -> None:
    """Make a candidate a version of the registered model; nothing happens if it is one.

    Raises:
        FunnelError: there is no such model.
    """
    Registry(context.settings).register(version)


def promote(context: Context, version: str) -> Verdict:
    """Promote a registered model if its verdict says so; one line tells, a warning where it does not.

    Returns: that verdict.

    Raises:
        FunnelError: there is no such model, or it was never judged.
    """
    registry = Registry(context.settings)
    as_of = registry.run(version).as_of
    with recorded(context, "promote", DateRange(as_of, as_of)) as run:
        run.model_version = version
        verdict = verdict_on(registry, version)
        if verdict is None:
            raise FunnelError(f"model {version} was never judged: train again, or promote it yourself (funnel promote)")
        told = f"model {version}: {verdict.line}"
        if verdict.promoted:
            registry.promote(version)
        else:
            run.warnings.append(told)
    if verdict.promoted:
        context.notify(told)
    return verdict


def with_training(settings: Settings, **changes: object) -> Settings:
    """The same configuration with other values of some keys of `[training]`, for a run by hand; None changes nothing.

    Raises:
        ConfigError: one line that names the key, what it got and what it takes.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        training = Training.model_validate({**settings.training.model_dump(), **given})
    except ValidationError as error:
        raise ConfigError(f"training.{describe_mistake(error)}") from None
    return settings.model_copy(update={"training": training})


def verdict_on(registry: Registry, version: str) -> Verdict | None:
    """The verdict that `evaluate` came to; None for a model that was never judged.

    Raises:
        FunnelError: there is no such model.
    """
    stored = registry.tracking.read_json(registry.run(version), VERDICT)
    return Verdict.from_dict(stored) if stored else None


def model_features(settings: Settings) -> list[Feature]:
    """The model's inputs: counts on a log scale, recencies, attributes, and the exposure's context."""
    behaviour = behaviour_columns(settings)
    return [
        *(Numeric(name, transform="log") for name in behaviour),
        *(Numeric(name) for name in settings.features.numeric),
        *(Categorical(name) for name in settings.features.categorical),
        *(Categorical(name, context=True) for name in context_columns(settings)),
    ]


def _require_positives(read: LabelledExposures, settings: Settings, as_of: date) -> None:
    needed = settings.training.min_positives
    if not read.table.num_rows:
        raise FunnelError(f"no exposure has landed up to {as_of}: load history first (funnel backfill)")
    first = read.days.min().item()
    for position, stage in enumerate(settings.funnel.stages):
        taught = read.labels[~read.held_out[:, position], position]
        mature, positives = int((~np.isnan(taught)).sum()), int(np.nansum(taught))
        if not mature:
            ready = first + timedelta(days=stage.window_days)
            raise FunnelError(
                f"no exposure has a mature label of stage {stage.name!r} by {as_of}: its window is "
                f"{stage.window_days} days and the first exposure was on {first}; train as of {ready} or later"
            )
        if positives < needed:
            raise FunnelError(
                f"stage {stage.name!r} has {positives} positives among {mature:,} mature exposures to learn from by "
                f"{as_of}, fewer than training.min_positives = {needed}: load more history, widen its window_days, "
                "or leave the stage out of funnel.stages"
            )


def _fit(
    read: LabelledExposures, settings: Settings, trained_on: Mapping[str, object], on_progress: OnProgress | None
) -> Bundle:
    # One thread a physical core: a thread that waits for a busy core costs more than it gives (measured: with
    # other work on two cores, two threads trained 6-34k rows/s, one 77-80k).
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    try:
        return fit(
            read.table,
            features=model_features(settings),
            tasks=settings.funnel.stage_names,
            held_out=read.held_out,
            model=_model_config(settings),
            training=_train_config(settings),
            trained_on=trained_on,
            on_progress=on_progress,
        )
    except (TrainingError, ValueError) as error:
        raise FunnelError(str(error)) from error


def _trained_on(run: StageRun, read: LabelledExposures, settings: Settings, as_of: date) -> dict[str, object]:
    return {
        "as_of": as_of.isoformat(),
        "snapshots": run.inputs,
        "code_version": code_version(),
        "attribution": settings.funnel.attribution,
        "windows_days": {stage.name: stage.window_days for stage in settings.funnel.stages},
        "held_out_from": read.held_out_from(settings.funnel.stage_names),
    }


def _parameters(settings: Settings) -> dict[str, object]:
    """What shaped a model, for comparing runs: all of `[training]`, and what the labels and features were."""
    return {
        **settings.training.model_dump(),
        "stages": ", ".join(f"{stage.name} within {stage.window_days} days" for stage in settings.funnel.stages),
        "attribution": settings.funnel.attribution,
        "windows_days": settings.features.windows_days,
    }


def _log(
    context: Context, candidate: TrainingRun, bundle: Bundle, read: LabelledExposures, use: ExpertUse | None
) -> None:
    """Leave figures, plots and the bundle in the candidate's run."""
    tracking, held = Registry(context.settings).tracking, read.judged
    found = {
        f"{name}_{stage}": float(value)
        for stage, metrics in bundle.metrics.items()
        for name, value in vars(metrics).items()
        if isinstance(value, int | float)
    }
    tracking.log_metrics(candidate, found)
    with tempfile.TemporaryDirectory() as folder:
        plots = Path(folder) / "plots"
        plots.mkdir()
        if held.table.num_rows:
            fair = cross_fitted(bundle, held.table, held.labels, user_folds(held.table))
            plot_reliability(held.labels, fair, bundle.task_names, plots / "reliability.png")
        if use:
            use.plot(plots / "expert_use.png")
        bundle.save(Path(folder) / candidate.bundle)
        tracking.log_folder(candidate, Path(folder))


def _record_metrics(context: Context, bundle: Bundle, version: str, as_of: date, use: ExpertUse | None) -> None:
    """Write each stage's figures into `metrics`, in place of those that this run wrote before it was killed.

    `expert_use` is the share of an expert, the row's `feature`, in what a stage takes of all of them.
    """
    shared = {"ds": as_of, "model_version": version, "run_id": context.run_id}
    rows = [
        shared
        | {
            "name": name if name.startswith(("train_", "held_out_")) else f"held_out_{name}",
            "stage": stage,
            "value": float(value),
        }
        for stage, metrics in bundle.metrics.items()
        for name, value in vars(metrics).items()
        if isinstance(value, int | float)
    ]
    if use:
        rows += [
            shared | {"name": "expert_use", "stage": stage, "feature": f"expert {expert}", "value": float(share)}
            for stage, shares in zip(use.tasks, use.mean, strict=True)
            for expert, share in zip(use.experts, shares, strict=True)
        ]
    names = ", ".join(sorted({f"'{row['name']}'" for row in rows}))
    own = f"ds = '{as_of}' AND run_id = '{context.run_id}' AND name IN ({names})"
    context.warehouse.replace("metrics", rows, where=own)


def _record_baseline(context: Context, bundle: Bundle, version: str, as_of: date) -> None:
    """Keep what the users of the model's own night are like, and how it scores them, as a night would."""
    sample = context.warehouse.arrow("feature_samples", first=as_of, last=as_of)
    if not sample.num_rows:
        return
    scores = bundle.predict(with_constants(sample, planned_context(context.settings))).calibrated
    record_baseline(context, version, as_of, sample, scores)


def _model_config(settings: Settings) -> ModelConfig:
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


def _train_config(settings: Settings) -> TrainConfig:
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


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
