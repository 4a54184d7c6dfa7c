"""Trained models on disk and which of them is champion on which date."""

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from pipeline.config import Settings
from pipeline.errors import FunnelError


@dataclass(frozen=True)
class Promotion:
    """A model that became champion: the data's date it was trained as of, and when."""

    version: str
    as_of: str
    promoted_at: str


class Registry:
    """Bundles under `[models] path`, one folder a version, and the list of promotions beside them."""

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.resolve(settings.models.path))

    def bundle_path(self, version: str) -> Path:
        """Where a version's bundle lies.

        Raises:
            FunnelError: there is no such version.
        """
        path = self.path / version
        if not path.is_dir():
            have = ", ".join(each.version for each in self.promotions()[-5:]) or "none"
            raise FunnelError(f"no model {version!r} in {self.path}; promoted last: {have}")
        return path

    def promotions(self) -> list[Promotion]:
        """All promotions, oldest first.

        Raises:
            FunnelError: the list cannot be read.
        """
        try:
            return [Promotion(**each) for each in json.loads(self._file.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise FunnelError(f"{self._file} is damaged ({error}): mend it or restore a copy") from None

    def promote(self, version: str, as_of: date) -> None:
        """Make a version champion from its `as_of` on."""
        promotions = [
            *self.promotions(),
            Promotion(version, as_of.isoformat(), datetime.now(UTC).isoformat()),
        ]
        draft = self._file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps([asdict(each) for each in promotions], indent=1), encoding="utf-8")
        draft.replace(self._file)

    def champion(self, ds: date) -> str | None:
        """The version that a night of `ds` uses: the last promoted of those trained on data up to `ds`."""
        known = [each for each in self.promotions() if each.as_of <= ds.isoformat()]
        return max(known, key=lambda each: (each.as_of, each.promoted_at)).version if known else None

    @property
    def _file(self) -> Path:
        return self.path / "promotions.json"
