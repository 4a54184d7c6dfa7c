"""Which model is champion on which date: versions, promotions and withdrawals, kept in MLflow's registry."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.models.tracking import Tracking, TrainingRun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
NEWEST = 5
"""So many versions are named to a person who named none that there is."""
NEVER_TOO_EARLY = date.max


@dataclass(frozen=True)
class Registered:
    """A model version: the data's date it was trained as of, when it was promoted and when withdrawn, if it was.

    `number` is MLflow's own count. Times are ISO 8601 in UTC, so that their text orders them.
    """

    version: str
    as_of: date
    number: str
    promoted_at: str = ""
    withdrawn_at: str = ""
    reason: str = ""

    @property
    def is_promoted(self) -> bool:
        """Whether it may be champion: promoted, and not withdrawn since."""
        return self.promoted_at > self.withdrawn_at

    @property
    def is_withdrawn(self) -> bool:
        return bool(self.withdrawn_at) and not self.is_promoted


class Registry:
    """The versions of one funnel's model.

    **The champion of a date.** A night of `ds` uses, of the promoted models that were trained on data up to `ds`,
    the one of the newest data; of several as of the same date, the one promoted last. It depends on the date
    asked for, never on today: a backfill of an old date gets the model that its night could have had, not one that
    has seen what came after.

    **After a rollback.** A model is withdrawn because it is wrong, and is as wrong for last month's dates as for
    tonight's: it is champion of no date any more, and every date it served falls to the model before it. What was
    scored by it stays as it is, with its version on each row, until those dates are scored again. Promoting it
    anew takes the withdrawal back.

    MLflow's alias `champion` follows: it points to the champion of the newest date, for people and other tools.
    Nothing here reads it, so a process killed before it has moved the alias does no harm.

    All methods raise FunnelError, in one line, for a store that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.tracking = Tracking(settings)
        self.name = settings.models.name

    def champion(self, ds: date, *, besides: str | None = None) -> str | None:
        """The version that a night of `ds` uses; None where no promoted model was trained on data up to `ds`.

        Args:
            besides: a version to leave out, which is to be compared with the champion there would be without it.
        """
        known = [each for each in self.versions() if each.is_promoted and each.as_of <= ds and each.version != besides]
        return max(known, key=lambda each: (each.as_of, each.promoted_at)).version if known else None

    def bundle_path(self, version: str) -> Path:
        """A local folder with a version's bundle, named by the version; a remote one is downloaded once.

        Raises:
            FunnelError: there is no such version, or its bundle is gone.
        """
        return self.tracking.local_bundle(self.run(version))

    def run(self, version: str) -> TrainingRun:
        """The training that a version came from, registered or not.

        Raises:
            FunnelError: there is no such version; the line names the newest that there are.
        """
        runs = self.tracking.finished(version=version)
        if not runs:
            newest = ", ".join(each.version for each in self.versions()[:NEWEST]) or "none"
            raise FunnelError(f"no model {version!r} in {self.tracking.place}; the newest are: {newest}")
        return runs[0]

    def versions(self) -> list[Registered]:
        """All registered versions, newest first."""
        if self.tracking.is_empty:
            return []
        with self.tracking.as_one_line_error():
            found, token = [], None
            while True:
                page = self.tracking.client.search_model_versions(f"name = '{self.name}'", page_token=token)
                # A version that another tool registered under this name has none of our tags, and is none of ours.
                found += [_registered(each) for each in page if "version" in each.tags]
                if not (token := page.token):
                    return sorted(found, key=lambda each: (each.as_of, int(each.number)), reverse=True)

    def register(self, version: str) -> Registered:
        """Make a trained model a version of the registry; nothing happens if it is one.

        Raises:
            FunnelError: there is no such model.
        """
        run = self.run(version)
        known = self._find(version)
        if known:
            return known
        with self.tracking.as_one_line_error():
            self._ensure_name()
            tags = {"version": version, "as_of": run.as_of.isoformat()}
            source = f"{run.artifacts}/{run.bundle}"
            return _registered(self.tracking.client.create_model_version(self.name, source, run.id, tags=tags))

    def promote(self, version: str, *, reason: str = "") -> None:
        """Make a registered version champion of the dates from its `as_of` on that no newer one serves.

        Repeated, it changes nothing: a version that is promoted keeps its place among those of the same date.

        Raises:
            FunnelError: the version is not registered.
        """
        model = self._find(version)
        if model is None:
            raise FunnelError(f"model {version} is not registered")
        with self.tracking.as_one_line_error():
            if reason:
                self._tag(model, "reason", reason)
            if not model.is_promoted:
                self._tag(model, "promoted_at", _now())
        self._point_alias()

    def rollback(self) -> tuple[str, str]:
        """Withdraw the present champion from every date.

        Returns: the version withdrawn, and the one that is champion instead.

        Raises:
            FunnelError: there is no champion, or none before it: nights would be left without a model.
        """
        withdrawn = self.champion(NEVER_TOO_EARLY)
        if withdrawn is None:
            raise FunnelError(f"no model in {self.tracking.place} is champion: there is nothing to roll back")
        before = self.champion(NEVER_TOO_EARLY, besides=withdrawn)
        if before is None:
            raise FunnelError(
                f"no promoted model comes before champion {withdrawn}: nights would have none; "
                "promote another first (funnel promote VERSION)"
            )
        model = self._find(withdrawn)
        assert model is not None
        with self.tracking.as_one_line_error():
            self._tag(model, "withdrawn_at", _now())
        self._point_alias()
        return withdrawn, before

    def _find(self, version: str) -> Registered | None:
        return next((each for each in self.versions() if each.version == version), None)

    def _tag(self, model: Registered, name: str, value: str) -> None:
        self.tracking.client.set_model_version_tag(self.name, model.number, name, value)

    def _point_alias(self) -> None:
        champion = self.champion(NEVER_TOO_EARLY)
        model = self._find(champion) if champion else None
        if model:
            with self.tracking.as_one_line_error():
                self.tracking.client.set_registered_model_alias(self.name, CHAMPION, model.number)

    def _ensure_name(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.tracking.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _registered(found: "ModelVersion") -> Registered:
    tags = found.tags
    return Registered(
        version=tags["version"],
        as_of=date.fromisoformat(tags["as_of"]),
        number=str(found.version),
        promoted_at=tags.get("promoted_at", ""),
        withdrawn_at=tags.get("withdrawn_at", ""),
        reason=tags.get("reason", ""),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
