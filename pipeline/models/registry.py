"""Which model is champion on which date: versions, promotions and withdrawals in MLflow's registry."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.models.last_known import LastKnown, Registered, champion_of, recall, remember
from pipeline.models.tracking import Tracking, TrainingRun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
NEWEST = 5
"""The number of versions that an error about an unknown version names."""
NEVER_TOO_EARLY = date.max


class Registry:
    """The versions of one funnel's model.

    **The champion of a date.** Of the promoted models trained on data up to `ds`, the night of `ds` uses the one with
    the newest data; of several as of the same date, the one promoted last. The champion depends on the date asked for,
    never on today: a backfill of an old date gets the model that its night could have had, not one trained on later
    data.

    **After a rollback.** A withdrawn model is champion of no date, past or future, since whatever is wrong with it is
    wrong for all; each of its dates falls to the model before it. Its scores stay, with its version on each row, until
    those dates are scored again. Promoting it again revokes the withdrawal.

    MLflow's alias `champion` points to the champion of the newest date, for people and other tools. Nothing here reads
    it, so a process killed before moving the alias does no harm.

    All methods raise FunnelError, in one line, if the store cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.tracking = Tracking(settings)
        self.name = settings.models.name

    def champion(self, ds: date, *, excluding: str | None = None) -> str | None:
        """The version that the night of `ds` uses; None if no promoted model was trained on data up to `ds`.

        Args:
            excluding: a version to leave out, to compare it with the champion without it.
        """
        return champion_of(self.versions(), ds, excluding=excluding)

    def last_known(self) -> LastKnown | None:
        """What the registry's server told last; None if nothing, or if there is no server."""
        server = self.tracking.server
        return None if server is None else recall(self.tracking.downloads, server, self.name)

    def bundle_path(self, version: str) -> Path:
        """A local folder with a version's bundle, named after the version; a remote bundle is downloaded once.

        Raises:
            FunnelError: there is no such version, or its bundle is gone.
        """
        return self.tracking.fetch_bundle(self.run(version))

    def run(self, version: str) -> TrainingRun:
        """The training run of a version, registered or not.

        Raises:
            FunnelError: there is no such version; names the newest ones.
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
                # Versions that other tools registered under this name lack our tags.
                found += [_registered(each) for each in page if "version" in each.tags]
                if not (token := page.token):
                    break
        versions = sorted(found, key=lambda each: (each.as_of, int(each.number)), reverse=True)
        if self.tracking.server is not None:
            remember(self.tracking.downloads, self.tracking.server, self.name, versions)
        return versions

    def register(self, version: str) -> Registered:
        """Register a trained model, unless it is registered already.

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
        """Make a registered version champion of the dates from its `as_of` on, up to the next champion's.

        Idempotent: a promoted version keeps its place among those of the same date.

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
                self._tag(model, "promoted_at", _after(model.withdrawn_at))
        self._point_alias()

    def rollback(self) -> tuple[str, str]:
        """Withdraw the current champion from every date.

        Returns: the version withdrawn, and the new champion.

        Raises:
            FunnelError: there is no champion, or none before it, which would leave nights without a model.
        """
        withdrawn = self.champion(NEVER_TOO_EARLY)
        if withdrawn is None:
            raise FunnelError(f"no model in {self.tracking.place} is champion: there is nothing to roll back")
        before = self.champion(NEVER_TOO_EARLY, excluding=withdrawn)
        if before is None:
            raise FunnelError(
                f"no promoted model comes before champion {withdrawn}: nights would have none; "
                "promote another first (funnel promote VERSION)"
            )
        model = self._find(withdrawn)
        assert model is not None
        with self.tracking.as_one_line_error():
            self._tag(model, "withdrawn_at", _after(model.promoted_at))
        self._point_alias()
        return withdrawn, before

    def _find(self, version: str) -> Registered | None:
        return next((each for each in self.versions() if each.version == version), None)

    def _tag(self, model: Registered, name: str, value: str) -> None:
        self.tracking.client.set_model_version_tag(self.name, model.number, name, value)

    def _point_alias(self) -> None:
        pointed_to = None
        # Whoever promotes at the same time may point the alias, too, and to what was champion a moment ago.
        while (champion := self.champion(NEVER_TOO_EARLY)) and champion != pointed_to:
            model = self._find(champion)
            assert model is not None
            with self.tracking.as_one_line_error():
                self.tracking.client.set_registered_model_alias(self.name, CHAMPION, model.number)
            pointed_to = champion

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


def _after(earlier: str) -> str:
    """Now; or just after a time that another machine's clock has put in the future."""
    now = datetime.now(UTC)
    if earlier:
        now = max(now, datetime.fromisoformat(earlier) + timedelta(microseconds=1))
    return now.isoformat(timespec="microseconds")
