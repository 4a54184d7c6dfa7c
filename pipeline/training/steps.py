"""Train as of a date, in steps that can each run alone: build examples, fit, evaluate on later days, register, promote.

A step passes on only the model's version; its results are in the tables and in the model's MLflow run. Each step can
be repeated after a kill, with the same result.
"""

import json
from datetime import date

from model import Bundle
from pipeline.config.features import declared_features
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.features.examples import build_examples
from pipeline.models.promotion import Verdict
from pipeline.runs.context import Context, code_version
from pipeline.runs.record import Counts, StageRun, StageWarning, recorded
from pipeline.training.evaluation import LabelledExposures, compare_with_champion, read_examples
from pipeline.training.fitting import OnProgress, fit_bundle, require_positives
from pipeline.training.plots import measure_expert_use
from pipeline.training.records import (
    log_training,
    read_verdict,
    record_baseline,
    record_metrics,
    record_verdict,
    run_parameters,
)


def train(context: Context, as_of: date, *, on_progress: OnProgress | None = None) -> str:
    """Run all steps: build examples as of a date, then fit, evaluate, register and, by its verdict, promote a model.

    Returns: the model's version.

    Raises:
        FunnelError: a step failed; nothing is registered unless all steps before succeeded.
    """
    build_examples(context, as_of)
    version = fit_candidate(context, as_of, on_progress=on_progress)
    evaluate(context, version)
    register(context, version)
    promote(context, version)
    return version


def fit_candidate(context: Context, as_of: date, *, on_progress: OnProgress | None = None) -> str:
    """Fit a model to the examples as of a date and log it to an MLflow run: a candidate, not yet registered.

    Repeated by the same run on the same examples, it returns the existing candidate.

    Returns: the model's version.

    Raises:
        FunnelError: a stage lacks mature labels or positives, or training diverged.
    """
    settings, tracking = context.settings, context.registry.tracking
    with recorded(context, "train", DateRange(as_of, as_of)) as run:
        exposures = read_examples(run, as_of)
        require_positives(exposures, settings, as_of)
        made_by = {"run_id": context.run_id, "examples": exposures.snapshot}
        run.by_day = {as_of: Counts(rows_in=exposures.table.num_rows, rows_out=exposures.taught.num_rows)}
        if done := tracking.finished(as_of=as_of.isoformat(), **made_by):
            run.model_version = done[0].version
            return done[0].version
        tags = {
            **made_by,
            "architecture": settings.training.architecture,
            "code_version": code_version(),
            "snapshots": json.dumps(run.inputs),
        }
        candidate = tracking.begin(as_of, tags=tags, parameters=run_parameters(settings))
        run.model_version = candidate.version
        try:
            bundle = fit_bundle(exposures, settings, _provenance(run, exposures), on_progress)
        except BaseException:
            tracking.fail(candidate)
            raise
        use = measure_expert_use(bundle, exposures.held_out_part.table)
        log_training(tracking, candidate, bundle, exposures, use)
        record_metrics(context, candidate, bundle, use)
        run.warnings += record_baseline(context, candidate, bundle, exposures.taught)
        tracking.finish(candidate)
    for stage, metrics in bundle.metrics.items():
        context.notify(
            f"  {stage:<12} AUC {_number(metrics.auc)} as a night scores, context unknown, "
            f"{_number(metrics.auc_in_context)} with each exposure's context  "
            f"log loss {_number(metrics.log_loss)}  calibration error {_number(metrics.ece)}  "
            f"({metrics.held_out_positives:,} positives of {metrics.held_out_rows:,} held out)"
        )
    return candidate.version


def evaluate(context: Context, version: str) -> Verdict:
    """Compare a candidate with the champion as of its date, and keep the verdict and its figures in its run.

    Raises:
        FunnelError: there is no such model, or its examples have been rebuilt since.
    """
    registry = context.registry
    candidate = registry.run(version)
    as_of = candidate.as_of
    with recorded(context, "evaluate", DateRange(as_of, as_of)) as run:
        run.model_version = version
        exposures = read_examples(run, as_of)
        if exposures.snapshot != candidate.tags["examples"]:
            raise FunnelError(f"the examples that model {version} was trained on are no longer there: train again")
        held = exposures.held_out_part
        run.by_day = {as_of: Counts(rows_in=exposures.table.num_rows, rows_out=held.table.num_rows)}
        verdict = compare_with_champion(context, Bundle.load(registry.bundle_path(version)), version, as_of, held)
        record_verdict(registry.tracking, candidate, verdict)
    return verdict


def register(context: Context, version: str) -> None:
    """Register a candidate as a version of the model, unless it is one already.

    Raises:
        FunnelError: there is no such model.
    """
    context.registry.register(version)


def promote(context: Context, version: str) -> Verdict:
    """Promote a registered model if its verdict says so; otherwise the stage warns with the reasons.

    If another model was promoted or withdrawn since the verdict, the model is compared anew, with the champion of now.

    Returns: the verdict.

    Raises:
        FunnelError: there is no such model, or it was never evaluated.
    """
    registry = context.registry
    as_of = registry.run(version).as_of
    verdict = read_verdict(registry, version)
    if verdict and verdict.promoted and registry.champion(as_of, excluding=version) != verdict.champion:
        context.notify(
            f"model {version} was compared with {verdict.champion or 'no champion'}, which is champion no more"
        )
        verdict = evaluate(context, version)
    with recorded(context, "promote", DateRange(as_of, as_of)) as run:
        run.model_version = version
        if verdict is None:
            raise FunnelError(
                f"model {version} was never evaluated: train again, or promote it manually (funnel promote)"
            )
        line = f"model {version}: {verdict.line}"
        if verdict.promoted:
            registry.promote(version)
        else:
            if registry.champion(as_of) is None:
                line += (
                    "; no model is champion, so nights have no scores until a later one passes, or this one is "
                    f"promoted all the same: funnel promote {version}"
                )
            run.warnings.append(StageWarning("not promoted", line))
    if verdict.promoted:
        context.notify(line)
    return verdict


def _provenance(run: StageRun, exposures: LabelledExposures) -> dict[str, object]:
    """Where a bundle came from, kept with it as `trained_on`."""
    settings = run.context.settings
    return {
        "as_of": run.dates.last.isoformat(),
        "snapshots": run.inputs,
        "code_version": code_version(),
        "timezone": settings.funnel.timezone,
        "attribution": settings.funnel.attribution,
        "features": {each.name: each.meaning for each in declared_features(settings)},
        "windows_days": {stage.name: stage.window_days for stage in settings.funnel.stages},
        "held_out_from": exposures.held_out_from(settings.funnel.stage_names),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
