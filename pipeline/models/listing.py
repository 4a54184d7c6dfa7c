"""`funnel models`: list the model versions."""

from collections.abc import Sequence
from datetime import date

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.models.last_known import Registered
from pipeline.models.registry import Registry
from pipeline.models.tracking import TrainingRun
from pipeline.terminal import TextTable


def print_models(settings: Settings) -> None:
    """Print the registered versions, newest first.

    Raises:
        FunnelError: no version is registered.
    """
    registry = Registry(settings)
    versions = registry.versions()
    if not versions:
        raise FunnelError(f"no model in {registry.tracking.place} yet: funnel train --as-of trains the first")
    runs = {run.version: run for run in registry.tracking.finished()}
    stages = settings.funnel.stage_names
    champion = registry.champion(date.max)
    table = TextTable("version", "as of", "status", "architecture")
    for stage in stages:
        table.add_column(f"AUC {stage}", is_number=True)
    table.add_column("verdict")
    for each in versions:
        table.add_row(*_row(each, runs.get(each.version), stages, champion))
    table.print()


def status_of(model: Registered, run: TrainingRun | None, champion: str | None) -> str:
    """`champion` (of the newest date), `promoted`, `withdrawn`, `refused` (by its verdict) or `candidate`."""
    if model.version == champion:
        return "champion"
    if model.is_promoted:
        return "promoted"
    if model.is_withdrawn:
        return "withdrawn"
    return "refused" if run and run.tags.get("promoted") == "false" else "candidate"


def _row(model: Registered, run: TrainingRun | None, stages: Sequence[str], champion: str | None) -> list[str]:
    metrics, tags = (run.metrics, run.tags) if run else ({}, {})
    aucs = (metrics.get(f"auc_{stage}") for stage in stages)
    verdict = tags.get("verdict", "-") + (f"; manually: {model.reason}" if model.reason else "")
    return [
        model.version,
        model.as_of.isoformat(),
        status_of(model, run, champion),
        tags.get("architecture", "-"),
        *("-" if value is None else f"{value:.4f}" for value in aucs),
        verdict,
    ]
