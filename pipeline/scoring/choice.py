"""Which model scores a night, and by which bundle: the champion as of that night, even if the registry is away."""

from datetime import date
from pathlib import Path

from model import Bundle
from pipeline.errors import FunnelError, TransientError
from pipeline.models.last_known import champion_of
from pipeline.runs.context import Context
from pipeline.runs.record import StageRun, StageWarning
from pipeline.scoring.fit import load_fitting


def choose_model(run: StageRun, ds: date, model: str | None) -> tuple[Path, Bundle]:
    """Choose the model of a night, and name it in the run's record.

    If the registry's server does not answer, it is the champion as of when it last did, provided that its bundle was
    downloaded then and is as its digests say; a warning says so.

    Args:
        model: a version to use instead of the champion as of `ds`.

    Returns: the folder of its bundle, and the bundle.

    Raises:
        FunnelError: no promoted model was trained on data up to `ds`, or the model does not fit the configuration.
        TransientError: the registry does not answer, and no bundle that could score is here.
    """
    context = run.context
    try:
        run.model_version = model or _require_champion(context, ds)
        path = context.registry.bundle_path(run.model_version)
    except TransientError as error:
        return _choose_last_known(run, ds, model, error)
    return path, load_fitting(path, context.settings, ds)


def _choose_last_known(run: StageRun, ds: date, model: str | None, away: TransientError) -> tuple[Path, Bundle]:
    registry = run.context.registry
    known = registry.last_known()
    version = model or (champion_of(known.versions, ds) if known else None)
    path = registry.tracking.downloads / (version or "")
    if version is None or not path.is_dir():
        raise away
    try:
        bundle = load_fitting(path, run.context.settings, ds)
    except FunnelError as error:
        raise TransientError(f"{away}; nor can the copy of its champion {version} that is here: {error}") from away
    run.model_version = version
    chosen = "the model that was asked for"
    if model is None and known is not None:
        told_at = known.told_at.astimezone(run.context.settings.zone)
        chosen = f"champion when it last answered, on {told_at:%Y-%m-%d %H:%M}"
    run.warnings.append(
        StageWarning(
            "registry away", f"{away}; scored by the copy here of {version}, {chosen}, whose digests are right"
        )
    )
    return path, bundle


def _require_champion(context: Context, ds: date) -> str:
    champion = context.registry.champion(ds)
    if champion is None:
        raise FunnelError(
            f"no model trained on data up to {ds} was promoted: run `funnel train --as-of` with a date up to it, "
            "see `funnel models`, or name a version with --model"
        )
    return champion
