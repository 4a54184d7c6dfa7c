"""Transient failures of the warehouse are retried; what the user has to mend becomes a one-line error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyiceberg.exceptions import CommitFailedException
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from pipeline.errors import FunnelError, TransientError


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


retry_lost_races = retry(
    retry=retry_if_exception(_is_transient),
    wait=wait_random_exponential(multiplier=0.05, max=3),
    stop=stop_after_attempt(20),
    reraise=True,
)
"""Decorator for commits: start over, for about a minute, while other writers win the race."""


@contextmanager
def as_one_line_error() -> Iterator[None]:
    """Report a warehouse that cannot be written as one line.

    Raises:
        TransientError: trying again later may help.
        FunnelError: the user has to mend something outside.
    """
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except (OSError, CommitFailedException, OperationalError) as error:
        reason = getattr(error, "orig", None) or str(error).splitlines()[0]
        kind = TransientError if _is_transient(error) or is_unreachable(error) else FunnelError
        raise kind(f"the warehouse cannot be written: {reason}") from error
