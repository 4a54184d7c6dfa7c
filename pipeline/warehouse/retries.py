"""Transient failures of the warehouse are retried; what the user has to mend becomes a one-line error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pyiceberg.exceptions import CommitFailedException
from tenacity import RetryCallState, retry, retry_if_exception, wait_random_exponential

from pipeline.errors import FunnelError, TransientError
from pipeline.stores import explain_store_error

LOCK_SECONDS = 10
"""How long SQLite waits for a lock in each attempt of a writer."""
PATIENCE_SECONDS = 45
"""A catalog that is still locked after as long is given up, by the end of the attempt: within a minute."""
MOST_ATTEMPTS = 20
_is_patient = ContextVar("is_patient", default=True)


class LockedError(TransientError):
    """Another process has had the catalog locked for about a minute."""


def is_unreachable(error: BaseException) -> bool:
    """Whether a host did not answer, which may pass in minutes, not seconds."""
    from requests import ConnectionError, Timeout

    return isinstance(error, ConnectionError | Timeout)


def _is_transient(error: BaseException) -> bool:
    """Whether a retry can help: another writer was faster, or SQLite is busy."""
    from sqlalchemy.exc import IntegrityError, OperationalError

    if isinstance(error, OperationalError) and re.search("unable to open|readonly|disk is full", str(error.orig)):
        return False
    return isinstance(error, CommitFailedException | OperationalError | IntegrityError)


def is_locked(error: BaseException | None) -> bool:
    """Whether another process holds the lock of a SQLite catalog."""
    from sqlalchemy.exc import OperationalError

    return isinstance(error, OperationalError) and "locked" in str(error.orig)


def _give_up(state: RetryCallState) -> bool:
    """Whether to start over no more: lost races are quick, and a lock takes its time in each attempt."""
    if state.attempt_number >= MOST_ATTEMPTS or not _is_patient.get():
        return True
    error = state.outcome.exception() if state.outcome else None
    return is_locked(error) and (state.seconds_since_start or 0) > PATIENCE_SECONDS


@contextmanager
def one_attempt() -> Iterator[None]:
    """Let every commit in the block fail at once if another writer wins or has the catalog locked."""
    token = _is_patient.set(False)
    try:
        yield
    finally:
        _is_patient.reset(token)


retry_lost_races = retry(
    retry=retry_if_exception(_is_transient),
    wait=wait_random_exponential(multiplier=0.05, max=3),
    stop=_give_up,
    reraise=True,
)
"""Decorator for commits: start over, for about a minute, while other writers win the race or hold the lock."""


@contextmanager
def as_one_line_error() -> Iterator[None]:
    """Report a warehouse that cannot be written as one line.

    Raises:
        TransientError: trying again later may help; a LockedError if a lock was in the way.
        FunnelError: the user has to mend something outside.
    """
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except (OSError, CommitFailedException, OperationalError) as error:
        if is_locked(error):
            raise LockedError(
                "the warehouse cannot be written: another program has locked its catalog for about a minute; end that "
                "program, or try again later"
            ) from error
        if found := explain_store_error(error):
            raise found from error
        reason = getattr(error, "orig", None) or str(error).splitlines()[0]
        kind = TransientError if _is_transient(error) or is_unreachable(error) else FunnelError
        raise kind(f"the warehouse cannot be written: {reason}") from error
