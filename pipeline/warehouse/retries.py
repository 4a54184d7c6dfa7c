"""Transient failures of the warehouse are retried; what the user has to mend becomes a one-line error."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pyiceberg.exceptions import CommitFailedException
from tenacity import RetryCallState, retry, retry_if_exception, wait_random_exponential

from pipeline.errors import FunnelError, TransientError
from pipeline.stores import explain_store_error
from pipeline.warehouse.failures import UnreachableError, is_away, is_busy, is_locked, is_lost_race, reason_of

LOCK_SECONDS = 10
"""How long SQLite waits for a lock in each attempt of a writer."""
PATIENCE_SECONDS = 45
"""A catalog that is still locked or away after as long is given up, by the end of the attempt: within a minute."""
MOST_ATTEMPTS = 20
_is_patient = ContextVar("is_patient", default=True)


class LockedError(TransientError):
    """Another process has had the catalog locked for about a minute."""


def _is_worth_another_attempt(error: BaseException) -> bool:
    """Whether a retry in seconds can help: another writer was faster, or SQLite is busy."""
    return is_lost_race(error) or is_busy(error)


def _give_up(state: RetryCallState) -> bool:
    """Whether to start over no more: lost races are quick, and what waits for a lock or a server takes its time."""
    if not _is_patient.get():
        return True
    error = state.outcome.exception() if state.outcome else None
    if is_locked(error) or is_away(error):
        return (state.seconds_since_start or 0) > PATIENCE_SECONDS
    return state.attempt_number >= MOST_ATTEMPTS


@contextmanager
def one_attempt() -> Iterator[None]:
    """Let every commit in the block fail at once if another writer wins, or has the catalog locked, or it is away."""
    token = _is_patient.set(False)
    try:
        yield
    finally:
        _is_patient.reset(token)


_WAIT = wait_random_exponential(multiplier=0.05, max=3)
retry_lost_races = retry(retry=retry_if_exception(_is_worth_another_attempt), wait=_WAIT, stop=_give_up, reraise=True)
"""Decorator for commits: start over, for about a minute, while other writers win the race or hold the lock.

Never around what is decorated itself: the attempts would multiply.
"""
retry_until_answered = retry(
    retry=retry_if_exception(lambda error: _is_worth_another_attempt(error) or is_away(error)),
    wait=_WAIT,
    stop=_give_up,
    reraise=True,
)
"""Decorator for what may be done twice: start over, too, while the catalog does not answer.

Whether a commit was made that the catalog has not answered is unknown.
"""


@contextmanager
def as_one_line_error() -> Iterator[None]:
    """Report a warehouse that cannot be written as one line.

    Raises:
        TransientError: trying again later may help; a LockedError if a lock was in the way, an UnreachableError if the
            catalog does not answer.
        FunnelError: the user has to mend something outside.
    """
    from pyiceberg.exceptions import RESTError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (OSError, CommitFailedException, DBAPIError, RESTError) as error:
        if is_locked(error):
            raise LockedError(
                "the warehouse cannot be written: another program has locked its catalog for about a minute; end that "
                "program, or try again later"
            ) from error
        if found := explain_store_error(error):
            raise found from error
        if is_away(error):
            raise UnreachableError(
                f"the warehouse cannot be written: its catalog does not answer: {reason_of(error)}; try again when it "
                "does"
            ) from error
        kind = TransientError if _is_worth_another_attempt(error) else FunnelError
        raise kind(f"the warehouse cannot be written: {reason_of(error)}") from error
