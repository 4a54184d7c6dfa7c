"""Train as of a date: examples, fit, judge on later days, register, promote if no worse."""

import os
import uuid
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import torch

from model import (
    Bundle,
    Categorical,
    Feature,
    ModelConfig,
    Numeric,
    Progress,
    TrainConfig,
    TrainingError,
    fit,
)
from pipeline.config import Settings
from pipeline.context import Context, code_version
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.examples import context_columns, examples
from pipeline.registry import Registry
from pipeline.runs import Counts, recorded
from pipeline.tables import behaviour_columns

HELD_OUT_SHARE = 0.25
"""At most this share of a stage's mature days is held out, where history is short."""


def train(context: Context, as_of: date, *, on_progress: Callable[[Progress], None] | None = None) -> str:
    """Build examples as of a date, fit a model, register it, and promote it if it is no worse than the champion.

    Returns: the model's version.

    Raises:
        FunnelError: a stage without mature labels or with too few positives; training that diverged.
    """
    examples(context, as_of)
    settings, registry = context.settings, Registry(context.settings)
    with recorded(context, "train", DateRange(as_of, as_of)) as run:
        run.read(context.warehouse.pin("examples", first=as_of, last=as_of))
        table = context.warehouse.arrow("examples", first=as_of, last=as_of)
        table = table.sort_by([("exposure_time", "ascending"), ("exposure_id", "ascending")])
        held_out = held_out_labels(table, settings)
        _require_positives(table, held_out, settings, as_of)
        version = run.model_version = f"{as_of:%Y%m%d}-{uuid.uuid4().hex[:8]}"
        # One thread a physical core: a thread that waits for a busy core costs more than it gives (measured: with
        # other work on two cores, two threads trained 6-34k rows/s, one 77-80k).
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
        try:
            bundle = fit(
                table,
                features=model_features(settings),
                tasks=settings.funnel.stage_names,
                held_out=held_out,
                model=_model_config(settings),
                training=_train_config(settings),
                trained_on={
                    "as_of": as_of.isoformat(),
                    "snapshots": run.inputs,
                    "code_version": code_version(),
                    "attribution": settings.funnel.attribution,
                    "windows_days": {stage.name: stage.window_days for stage in settings.funnel.stages},
                },
                on_progress=on_progress,
            )
            bundle.save(registry.path / version)
        except (TrainingError, ValueError) as error:
            raise FunnelError(str(error)) from error
        rows = int((~np.isnan(_labels(table, settings))).any(axis=1).sum())
        run.by_day = {as_of: Counts(rows_in=table.num_rows, rows_out=rows)}
        _record_metrics(context, bundle, as_of)
        verdict = _promote(registry, bundle, version, as_of, table, held_out, settings)
    for stage, metrics in bundle.metrics.items():
        context.notify(
            f"  {stage:<12} AUC {_number(metrics.auc)}  log loss {_number(metrics.log_loss)}  "
            f"calibration error {_number(metrics.ece)}  ({metrics.held_out_positives:,} positives of "
            f"{metrics.held_out_rows:,} held out)"
        )
    context.notify(f"model {version}: {verdict}")
    return version


def model_features(settings: Settings) -> list[Feature]:
    """The model's inputs: counts on a log scale, recencies, attributes, and the exposure's context."""
    behaviour = behaviour_columns(settings)
    return [
        *(Numeric(name, transform="log") for name in behaviour),
        *(Numeric(name) for name in settings.features.numeric),
        *(Categorical(name) for name in settings.features.categorical),
        *(Categorical(name, context=True) for name in context_columns(settings)),
    ]


def held_out_labels(table: pa.Table, settings: Settings) -> np.ndarray:
    """Which labels judge and calibrate instead of teaching, bool (exposures, stages).

    Each stage holds out its own latest mature days (`training.holdout_days`, at most a quarter of them), so that
    recent exposures still teach the early stages while the rare last stage is judged on days it never saw.
    An exposure between two stages' bounds teaches one stage and judges another; its labels do not overlap.
    """
    days = table.column("exposure_date").to_numpy().astype("datetime64[D]")
    held_out = np.zeros((table.num_rows, len(settings.funnel.stages)), dtype=bool)
    for position, stage in enumerate(settings.funnel.stage_names):
        mature = table.column(f"mature_{stage}").to_numpy(zero_copy_only=False)
        if not mature.any():
            continue
        span = int((days[mature].max() - days[mature].min()).astype(int)) + 1
        kept_back = min(settings.training.holdout_days, int(span * HELD_OUT_SHARE))
        held_out[:, position] = mature & (days > days[mature].max() - np.timedelta64(kept_back, "D"))
    return held_out


def _labels(table: pa.Table, settings: Settings) -> np.ndarray:
    columns = [table.column(f"label_{stage}") for stage in settings.funnel.stage_names]
    return np.column_stack([column.cast(pa.float32()).to_numpy(zero_copy_only=False) for column in columns])


def _require_positives(table: pa.Table, held_out: np.ndarray, settings: Settings, as_of: date) -> None:
    labels, needed = _labels(table, settings), settings.training.min_positives
    if not table.num_rows:
        raise FunnelError(f"no exposure has landed up to {as_of}: load history first (funnel backfill)")
    first = table.column("exposure_date").to_numpy().min().astype("datetime64[D]").item()
    for position, stage in enumerate(settings.funnel.stages):
        taught = labels[~held_out[:, position], position]
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


def _promote(
    registry: Registry,
    challenger: Bundle,
    version: str,
    as_of: date,
    table: pa.Table,
    held_out: np.ndarray,
    settings: Settings,
) -> str:
    """Promote unless the champion has the lower log loss on the same held-out labels, summed over stages.

    Both are judged with the context hidden, as a night scores users.
    """
    champion = registry.champion(as_of)
    if champion is None:
        registry.promote(version, as_of)
        return "promoted, the first champion"
    judged = held_out.any(axis=1)
    rows = table.filter(pa.array(judged))
    labels = np.where(held_out, _labels(table, settings), np.nan)[judged]
    try:
        theirs = _log_loss(
            Bundle.load(registry.bundle_path(champion)).predict(rows, hide_context=True).calibrated, labels
        )
    except (ValueError, FunnelError) as error:
        registry.promote(version, as_of)
        return f"promoted, since champion {champion} cannot score these examples ({error})"
    ours = _log_loss(challenger.predict(rows, hide_context=True).calibrated, labels)
    if ours > theirs:
        return f"not promoted: held-out log loss {ours:.5f}, champion {champion} has {theirs:.5f}"
    registry.promote(version, as_of)
    return f"promoted: held-out log loss {ours:.5f}, champion {champion} had {theirs:.5f}"


def _log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean binary log loss of each stage over its labels that are not NaN, summed over stages."""
    p = np.clip(scores, 1e-12, 1 - 1e-12)
    losses = -np.where(labels > 0.5, np.log(p), np.log1p(-p))
    return float(np.nansum(np.nanmean(np.where(np.isnan(labels), np.nan, losses), axis=0)))


def _record_metrics(context: Context, bundle: Bundle, as_of: date) -> None:
    rows = [
        {
            "ds": as_of,
            "name": name if name.startswith(("train_", "held_out_")) else f"held_out_{name}",
            "stage": stage,
            "value": float(value),
            "run_id": context.run_id,
        }
        for stage, metrics in bundle.metrics.items()
        for name, value in vars(metrics).items()
        if isinstance(value, int | float)
    ]
    context.warehouse.append("metrics", rows)


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
