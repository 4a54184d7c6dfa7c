"""Which models were trained on a user, and whether a model's artifacts name one."""

import tempfile
from collections.abc import Collection
from datetime import date
from pathlib import Path

from pipeline.analyst.connection import connect
from pipeline.erasure.places import files_below, why_named
from pipeline.erasure.sought import SoughtUsers
from pipeline.models.tracking import Tracking
from pipeline.runs.context import Context
from pipeline.warehouse.erasure import Scanned

KIND = "files of models"


def find_trained_on(context: Context, user_ids: Collection[str]) -> tuple[list[str], list[str]]:
    """The versions of models whose examples have any of these users, and of those that may have had.

    Of a model whose examples are no longer there, the users' first message tells: it may be trained on what was sent by
    its date.
    """
    runs = context.registry.tracking.finished()
    if not runs:
        return [], []
    with connect(context.settings, "examples, events") as connection:
        theirs = "user_id IN (SELECT unnest(?::VARCHAR[]))"
        ids = [sorted(user_ids)]
        built = {day for (day,) in connection.execute("SELECT DISTINCT as_of FROM examples").fetchall()}
        used = {
            day for (day,) in connection.execute(f"SELECT DISTINCT as_of FROM examples WHERE {theirs}", ids).fetchall()
        }
        ((first,),) = connection.execute(
            f"SELECT min(landed_on) FROM events WHERE event = 'exposure' AND {theirs}", ids
        ).fetchall()
    first = first or date.max
    trained_on = [run.version for run in runs if run.as_of in used]
    return trained_on, [run.version for run in runs if run.as_of not in built and run.as_of >= first]


def scan_models(context: Context, sought: SoughtUsers) -> Scanned:
    """Read the models' folder, registry and all, and what an MLflow server has of them.

    Only for ids that can hardly be anything else: a model's categories are words and numbers, too.
    """
    tracking = context.registry.tracking
    only = SoughtUsers(sought.distinctive)
    scanned = _scan_folder(tracking.folder, only)
    if context.settings.models.tracking_uri is not None:
        scanned += _scan_server(tracking, only)
    return scanned


def _scan_folder(folder: Path, sought: SoughtUsers, shown: str | None = None) -> Scanned:
    scanned = Scanned()
    for path in files_below(folder):
        scanned.count(KIND)
        name = f"{shown}/{path.relative_to(folder)}" if shown else str(path)
        try:
            if reason := why_named(path, sought):
                scanned.hits.append(f"{name} ({reason})")
        except Exception as error:
            scanned.unreadable.append(f"{name} ({type(error).__name__})")
    return scanned


def _scan_server(tracking: Tracking, sought: SoughtUsers) -> Scanned:
    scanned = Scanned()
    for run in tracking.finished():
        texts = (*run.tags.keys(), *run.tags.values())
        if any(map(sought.is_named, texts)):
            scanned.hits.append(f"tags of MLflow's run {run.id}")
        with tracking.as_one_line_error(), tempfile.TemporaryDirectory() as folder:
            tracking.client.download_artifacts(run.id, "", folder)
            scanned += _scan_folder(Path(folder), sought, shown=run.artifacts)
    return scanned
