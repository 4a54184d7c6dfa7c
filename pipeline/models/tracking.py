"""MLflow: a quiet client of the store that `[models]` names, and the runs of trainings in it."""

import fcntl
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError, TransientError
from pipeline.warehouse.failures import is_away, is_busy

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DATABASE = "mlflow.db"
BUNDLE = "bundle"
AWAY = r"failed with exception|failed with error code (429|5\d\d)|too many 5\d\d|Max retries exceeded|locked"
"""What MLflow says of a server that does not answer, or cannot now."""
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's default of seven waits minutes for an unreachable server.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}
"""MLflow's settings, unless the environment sets them."""


@dataclass(frozen=True)
class TrainingRun:
    """A training's MLflow run: our version of the model, MLflow's id, and the location of its artifacts."""

    version: str
    id: str
    as_of: date
    artifacts: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def bundle(self) -> str:
        """The bundle's path among the artifacts: a folder named after the version, by which Spark's workers know it."""
        return f"{BUNDLE}/{self.version}"


class Tracking:
    """The MLflow runs of one funnel's trainings: parameters, metrics, plots and bundles.

    Without `models.tracking_uri` they are a SQLite file and folders under `models.path`. All methods raise
    FunnelError, in one line, if the store cannot be used, and TransientError if it does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.name = settings.models.name
        self.folder = Path(settings.resolve(settings.models.path))
        given = settings.models.tracking_uri
        self.server = None if given is None else given.get_secret_value()
        self.place = self.server or str(self.folder)

    @property
    def downloads(self) -> Path:
        """The folder of the bundles that were downloaded from a server."""
        return self.folder / "downloaded"

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever tracked here, found without opening, and so creating, a local store."""
        return self.server is None and not (self.folder / DATABASE).exists()

    @cached_property
    def client(self) -> "MlflowClient":
        with self.as_one_line_error():
            if self.server is None:
                _require_literal(self.folder)
                _create_store(self.folder)
            return _open_client(self.server or _sqlite_uri(self.folder / DATABASE))

    @contextmanager
    def as_one_line_error(self) -> Iterator[None]:
        """Turn MLflow's failures into a line that names the store."""
        _set_defaults()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            is_transient = (
                is_away(error)
                or is_busy(error)
                or getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE"
                or re.search(AWAY, str(error)) is not None
            )
            kind = TransientError if is_transient else FunnelError
            advice = "try again when it answers" if is_transient else "see models.path and models.tracking_uri"
            raise kind(f"the model registry at {self.place} cannot be used: {reason}; {advice}") from error

    def begin(self, as_of: date, *, tags: Mapping[str, str], parameters: Mapping[str, Any]) -> TrainingRun:
        """Start the run of a training as of a date; it is not a model until `finish`."""
        with self.as_one_line_error():
            from mlflow.entities import Param, RunTag

            made = self.client.create_run(self._experiment(), tags={**tags, "as_of": as_of.isoformat()}).info.run_id
            version = f"{as_of:%Y%m%d}-{made[:8]}"
            self.client.log_batch(
                made,
                params=[Param(name, str(value)) for name, value in parameters.items()],
                tags=[RunTag("version", version), RunTag("mlflow.runName", version)],
            )
            return _training_run(self.client.get_run(made))

    def finish(self, run: TrainingRun) -> None:
        with self.as_one_line_error():
            self.client.set_terminated(run.id, "FINISHED")

    def fail(self, run: TrainingRun) -> None:
        with self.as_one_line_error():
            self.client.set_terminated(run.id, "FAILED")

    def log_metrics(self, run: TrainingRun, figures: Mapping[str, float]) -> None:
        with self.as_one_line_error():
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            self.client.log_batch(run.id, metrics=[Metric(name, value, now, 0) for name, value in figures.items()])

    def log_folder(self, run: TrainingRun, folder: Path, path: str | None = None) -> None:
        """Copy a folder's content to the run's artifacts, under `path`."""
        with self.as_one_line_error():
            self.client.log_artifacts(run.id, str(folder), path)

    def log_json(self, run: TrainingRun, name: str, content: object) -> None:
        """Store plain JSON as an artifact, replacing any of the same name."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
            self.log_folder(run, Path(folder))

    def read_json(self, run: TrainingRun, name: str) -> Any:
        """What `log_json` stored; None if nothing."""
        with self.as_one_line_error(), tempfile.TemporaryDirectory() as folder:
            if name not in {each.path for each in self.client.list_artifacts(run.id)}:
                return None
            return json.loads(Path(self.client.download_artifacts(run.id, name, folder)).read_text(encoding="utf-8"))

    def tag(self, run: TrainingRun, name: str, value: str) -> None:
        with self.as_one_line_error():
            self.client.set_tag(run.id, name, value)

    def finished(self, **tags: str) -> list[TrainingRun]:
        """The finished runs with these tags, newest first."""
        if self.is_empty:
            return []
        wanted = [f"tags.{name} = '{_strip_quotes(value)}'" for name, value in tags.items()]
        with self.as_one_line_error():
            conditions = " and ".join(["attributes.status = 'FINISHED'", *wanted])
            runs: list[Run] = []
            token = None
            while True:
                page = self.client.search_runs([self._experiment()], conditions, page_token=token)
                runs += page
                if not (token := page.token):
                    return [_training_run(run) for run in runs]

    def fetch_bundle(self, run: TrainingRun) -> Path:
        """The bundle's folder: the original if it is on this machine, else a copy, downloaded once.

        Raises:
            FunnelError: the bundle is not where the run says.
        """
        parts = urlsplit(run.artifacts)
        if parts.scheme in ("", "file"):
            folder = local_folder(run.artifacts) / run.bundle
            if not folder.is_dir():
                raise FunnelError(f"the bundle of model {run.version} is not at {folder}: restore it, or train again")
            return folder
        kept = self.downloads / run.version
        if not kept.is_dir():
            self._download(run, kept)
        return kept

    def _download(self, run: TrainingRun, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        with self.as_one_line_error(), tempfile.TemporaryDirectory(dir=to.parent) as draft:
            whole = Path(self.client.download_artifacts(run.id, run.bundle, draft))
            try:
                whole.rename(to)
            except OSError:
                # Another process was faster, with the same content: versions never change.
                if not to.is_dir():
                    raise

    def _experiment(self) -> str:
        """The id of the funnel's experiment, created on first use.

        Raises:
            FunnelError: the store is local and was copied or moved: new bundles would land in the other place.
        """
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.name)
        if found is not None and self.server is None:
            self._require_own(found.artifact_location)
        if found is None:
            is_remote = self.server is not None and self.server.startswith("http")
            place = None if is_remote else (self.folder / "artifacts").as_uri()
            try:
                return self.client.create_experiment(self.name, artifact_location=place)
            except MlflowException:
                found = self.client.get_experiment_by_name(self.name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _require_own(self, artifacts: str) -> None:
        there = local_folder(artifacts)
        here = self.folder / "artifacts"
        if there != here and not (there.exists() and here.exists() and there.samefile(here)):
            raise FunnelError(
                f"the model registry at {self.folder} was copied or moved: its bundles lie in {there}. `funnel "
                f"warehouse relocate` makes them those of {self.folder}; until then nothing is read or written"
            )


def local_folder(address: str) -> Path:
    """The folder that a local address of MLflow's names, be it a path or a file:// URI."""
    return Path(url2pathname(urlsplit(address).path))


def _training_run(run: "Run") -> TrainingRun:
    tags = run.data.tags
    return TrainingRun(
        version=tags["version"],
        id=run.info.run_id,
        as_of=date.fromisoformat(tags["as_of"]),
        artifacts=run.info.artifact_uri,
        tags=tags,
        metrics=run.data.metrics,
    )


def _require_literal(folder: Path) -> None:
    """Check that MLflow would take the store's address for this folder: some of its code decodes it, other does not.

    Raises:
        FunnelError: the path has a question mark, or an escape such as %20.
    """
    if "?" in str(folder) or unquote(str(folder)) != str(folder):
        raise FunnelError(
            f"the model registry cannot lie in {folder}: MLflow takes % and two digits for another character; "
            "rename the folder, or name another as [models] path"
        )


def _create_store(folder: Path) -> None:
    """Create the SQLite store, if there is none, under another name and move it into place when complete.

    MLflow creates its tables in place: two processes at once fail, and a killed one leaves a store that cannot be
    opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{DATABASE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / DATABASE).exists():
            return
        draft = folder / f".{DATABASE}.unfinished"
        draft.unlink(missing_ok=True)
        _open_client(_sqlite_uri(draft)).search_experiments(max_results=1)
        draft.rename(folder / DATABASE)


def _sqlite_uri(path: Path) -> str:
    return f"sqlite:///{path}"


def _open_client(uri: str) -> "MlflowClient":
    _set_defaults()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _set_defaults() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def _strip_quotes(value: str) -> str:
    """A value without single quotes, which MLflow's filters cannot escape."""
    return value.replace("'", "")
