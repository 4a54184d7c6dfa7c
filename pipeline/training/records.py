"""What training leaves behind: its MLflow run, rows in `metrics` and `baselines`, and the verdict."""

import tempfile
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa

from model import Bundle, ExpertUse
from pipeline.audits.unreadable import ColumnRead
from pipeline.config.features import user_features
from pipeline.config.settings import Settings
from pipeline.features.features import planned_context
from pipeline.models.promotion import Verdict
from pipeline.models.registry import Registry
from pipeline.models.tracking import Tracking, TrainingRun
from pipeline.monitoring.baseline import MISSING_IN_EXAMPLES, write_baseline
from pipeline.monitoring.readability import RECENT_DAYS, sum_columns_read
from pipeline.runs.context import Context
from pipeline.runs.record import StageWarning
from pipeline.scoring.predict import with_constants
from pipeline.training.evaluation import LabelledExposures, cross_fitted, user_folds
from pipeline.training.missing import compare_missing, missing_shares
from pipeline.training.plots import plot_reliability
from pipeline.warehouse.tables import profile_columns

VERDICT = "verdict.json"
TAG_LENGTH = 1000
"""MLflow's servers take tags of a few thousand characters, the oldest of 5,000 bytes."""


def run_parameters(settings: Settings) -> dict[str, object]:
    """MLflow's parameters, for comparing runs: all of `[training]`, and how labels and features are defined."""
    return {
        **settings.training.model_dump(),
        "stages": ", ".join(f"{stage.name} within {stage.window_days} days" for stage in settings.funnel.stages),
        "attribution": settings.funnel.attribution,
        "windows_days": settings.features.windows_days,
    }


def log_training(
    tracking: Tracking, candidate: TrainingRun, bundle: Bundle, exposures: LabelledExposures, use: ExpertUse | None
) -> None:
    """Log metrics, plots and the bundle to the candidate's run."""
    held = exposures.held_out_part
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


def record_metrics(context: Context, candidate: TrainingRun, bundle: Bundle, use: ExpertUse | None) -> None:
    """Write each stage's figures to `metrics`, replacing what this run wrote before it was killed.

    `expert_use` is the weight a stage gives an expert (the row's `feature`); a stage's weights sum to 1. `window_days`
    and `is_last_touch` (1 or 0) say what its scores predict.
    """
    funnel = context.settings.funnel
    shared = {"ds": candidate.as_of, "model_version": candidate.version, "run_id": context.run_id}
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
    for stage in funnel.stages:
        predicts = {"window_days": stage.window_days, "is_last_touch": funnel.attribution == "last_touch"}
        rows += [shared | {"name": name, "stage": stage.name, "value": float(of)} for name, of in predicts.items()]
    if use:
        rows += [
            shared | {"name": "expert_use", "stage": stage, "feature": f"expert {expert}", "value": float(share)}
            for stage, shares in zip(use.tasks, use.mean, strict=True)
            for expert, share in zip(use.experts, shares, strict=True)
        ]
    names = ", ".join(sorted({f"'{row['name']}'" for row in rows}))
    own = f"ds = '{candidate.as_of}' AND run_id = '{context.run_id}' AND name IN ({names})"
    context.warehouse.replace("metrics", rows, where=own)


def record_baseline(context: Context, candidate: TrainingRun, bundle: Bundle, taught: pa.Table) -> list[StageWarning]:
    """Write to `baselines` the distributions of features and scores of the users known as of the model's date.

    The missing shares of the features in the examples go to `metrics`, as `missing_in_examples`.

    Returns: a warning for each attribute whose values were lost or missing, as drift from such a baseline shows
        nothing; and for each feature whose missing share in the examples is not that of these users.
    """
    sample = context.warehouse.arrow("feature_samples", first=candidate.as_of, last=candidate.as_of)
    if not sample.num_rows:
        return []
    scores = bundle.predict(with_constants(sample, planned_context(context.settings))).calibrated
    write_baseline(context, candidate.version, candidate.as_of, sample, scores)
    names = [feature.name for feature in user_features(context.settings)]
    in_examples, at_night = missing_shares(taught, names), missing_shares(sample, names)
    shared = {"ds": candidate.as_of, "model_version": candidate.version, "run_id": context.run_id}
    context.warehouse.replace(
        "metrics",
        [
            shared | {"name": MISSING_IN_EXAMPLES, "feature": name, "value": share}
            for name, share in in_examples.items()
        ],
        where=f"ds = '{candidate.as_of}' AND run_id = '{context.run_id}' AND name = '{MISSING_IN_EXAMPLES}'",
    )
    return [
        *find_blind_spots(context, candidate.as_of, sample),
        *compare_missing(context.settings, in_examples, at_night, examples=taught.num_rows, users=sample.num_rows),
    ]


def find_blind_spots(context: Context, as_of: date, sample: pa.Table) -> list[StageWarning]:
    """Warn of attributes of which values were lost up to the date, or of which no sampled user has any."""
    runs = context.warehouse.arrow("runs", first=as_of - timedelta(days=RECENT_DAYS - 1), last=as_of)
    read = sum_columns_read(runs)
    warnings = []
    for name in profile_columns(context.settings):
        column = read.get(f"users.{name}", ColumnRead())
        line = None
        if column.unreadable:
            line = (
                f"{name}: {column.unreadable:,} of {column.values:,} values of the last {RECENT_DAYS} landing days "
                f"could not be read, such as {column.example!r}; the model and its baseline take them for missing"
            )
        elif sample.column(name).null_count == sample.num_rows:
            line = f"{name}: none of the {sample.num_rows:,} users has a value; no drift of it will be seen"
        if line:
            warnings.append(StageWarning(f"baseline {name}", line))
    return warnings


def record_verdict(tracking: Tracking, candidate: TrainingRun, verdict: Verdict) -> None:
    """Keep a verdict in its candidate's run: in full as JSON, its figures as metrics, and as two tags.

    The tag `promoted` is "true" or "false", for programs and MLflow's filters; the tag `verdict` is for people.
    """
    tracking.log_metrics(candidate, _verdict_metrics(verdict))
    tracking.log_json(candidate, VERDICT, verdict.to_dict())
    tracking.tag(candidate, "promoted", str(verdict.promoted).lower())
    tracking.tag(candidate, "verdict", verdict.line[:TAG_LENGTH])


def read_verdict(registry: Registry, version: str) -> Verdict | None:
    """The verdict on a model; None if it was never evaluated.

    Raises:
        FunnelError: there is no such model.
    """
    stored = registry.tracking.read_json(registry.run(version), VERDICT)
    return Verdict.from_dict(stored) if stored else None


def _verdict_metrics(verdict: Verdict) -> Mapping[str, float]:
    """A verdict's figures by name and stage, such as `judged_log_loss_click`."""
    found: dict[str, float] = {}
    for stage in verdict.stages:
        named = {
            "judged_positives": stage.positives,
            "judged_expected": stage.expected,
            "judged_log_loss": stage.log_loss,
            "constant_log_loss": stage.constant_log_loss,
            "champion_log_loss": stage.champion_log_loss,
            "log_loss_difference": stage.difference.mean if stage.difference else None,
            "log_loss_standard_error": stage.difference.standard_error if stage.difference else None,
        }
        found |= {f"{name}_{stage.stage}": float(value) for name, value in named.items() if value is not None}
    return found
