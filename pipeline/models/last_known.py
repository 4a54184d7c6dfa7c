"""What a model registry on a server said when it last answered: enough to score a night on which it is away."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import FunnelError
from pipeline.files import write_atomically

FILE = "last-known.json"


@dataclass(frozen=True)
class Registered:
    """A model version: the date it was trained as of, and when it was promoted and withdrawn, if it was.

    `number` is MLflow's own version number. Times are ISO 8601 in UTC, so that they sort as text.
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


@dataclass(frozen=True)
class LastKnown:
    """The versions of a registry, and when it told them."""

    told_at: datetime
    versions: Sequence[Registered]


def champion_of(versions: Sequence[Registered], ds: date, *, excluding: str | None = None) -> str | None:
    """Of the promoted versions trained on data up to a date, the one with the newest data, promoted last."""
    known = [each for each in versions if each.is_promoted and each.as_of <= ds and each.version != excluding]
    # Two promotions in the same microsecond still have an order, the same for everybody.
    return max(known, key=lambda each: (each.as_of, each.promoted_at, int(each.number))).version if known else None


def remember(folder: Path, server: str, name: str, versions: Sequence[Registered]) -> None:
    """Keep what a server has told beside the bundles that were downloaded from it, if the disk takes it."""
    content = {
        "of": _identify(server, name),
        "told_at": datetime.now(UTC).isoformat(),
        "versions": [asdict(each) | {"as_of": each.as_of.isoformat()} for each in versions],
    }
    with suppress(FunnelError):
        write_atomically(
            str(folder / FILE), json.dumps(content, indent=1).encode(), what=FILE, see="models.path", storage={}
        )


def recall(folder: Path, server: str, name: str) -> LastKnown | None:
    """What this server told last; None if nothing, or if it cannot be read."""
    try:
        content: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["of"] != _identify(server, name):
            return None
        versions = [Registered(**each | {"as_of": date.fromisoformat(each["as_of"])}) for each in content["versions"]]
        return LastKnown(datetime.fromisoformat(content["told_at"]), versions)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _identify(server: str, name: str) -> str:
    """A server's address without a password, and the name of the model there."""
    parts = urlsplit(server)
    return f"{parts.hostname}:{parts.port}{parts.path} {name}"
