"""Who was erased: a list of hashes that ingest asks, and the erasure that is under way, in a file beside the tables.

The file has the ids themselves, since an erasure that was killed has to know whom it was about. It is the first thing
an erasure writes, readable by its owner alone, and the last that it removes.
"""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow.compute as pc
from pydantic import TypeAdapter

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError, describe_error
from pipeline.warehouse.exclusion import state_folder
from pipeline.warehouse.warehouse import Warehouse

PENDING = "erasing.json"


@dataclass(frozen=True)
class Pending:
    """An erasure that has begun and is not proven yet.

    `models` are those trained on the users, `perhaps` those whose examples are no longer there to tell.
    """

    erasure_id: str
    begun_at: str
    user_ids: tuple[str, ...]
    models: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = len(self.user_ids)
        return f"the erasure of {count:,} user{'s' * (count != 1)} begun on {self.begun_at[:16]} UTC"


@dataclass(frozen=True)
class ErasedUsers:
    """The hashes of the users who were erased, and the salt that they were made with."""

    salt: str
    hashes: tuple[str, ...]

    def hash(self, user_id: str) -> str:
        return hashlib.sha256(f"{self.salt}{user_id}".encode()).hexdigest()


def is_pending(settings: Settings) -> bool:
    """Whether there is an erasure to be finished."""
    return (state_folder(settings) / PENDING).exists()


def read_pending(settings: Settings) -> Pending | None:
    """The erasure that is to be finished; None if there is none.

    Raises:
        FunnelError: its file cannot be read.
    """
    path = state_folder(settings) / PENDING
    try:
        return TypeAdapter(Pending).validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise FunnelError(
            f"{path} cannot be read as an unfinished erasure: {describe_error(error)}; move it away and erase "
            "its users again"
        ) from None


def write_pending(settings: Settings, pending: Pending) -> None:
    path = state_folder(settings) / PENDING
    draft = path.with_name(f".{PENDING}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        json.dump(asdict(pending), stream)
        stream.flush()
        os.fsync(stream.fileno())
    draft.rename(path)


def drop_pending(settings: Settings) -> None:
    (state_folder(settings) / PENDING).unlink(missing_ok=True)


def read_erased(warehouse: Warehouse) -> ErasedUsers:
    """The users who were erased, those of an unfinished erasure among them; a new salt before the first."""
    rows = warehouse.arrow("erasures", first=date.min, last=date.max)
    if not rows.num_rows:
        return ErasedUsers(secrets.token_hex(16), ())
    return ErasedUsers(rows.column("salt")[0].as_py(), tuple(sorted(pc.unique(rows.column("user_hash")).to_pylist())))
