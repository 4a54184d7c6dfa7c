"""What went wrong between here and a catalog: a lost race, a lock, a server that does not answer or refuses."""

import re

from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    CommitFailedException,
    CommitStateUnknownException,
    ForbiddenError,
    OAuthError,
    ServerError,
    ServiceUnavailableError,
    TooManyRequestsError,
    UnauthorizedError,
)

from pipeline.errors import FunnelError, TransientError

PASSING = "starting up|shutting down|recovery|not yet accepting|too many|connection slots|terminating connection"
"""What Postgres calls fatal and what passes by itself; anything else that it refuses a connection for stays."""
REFUSED = "FATAL|authentication|denied"
DUPLICATE_TABLE = "42P07"
"""Postgres's code for a table that another process has created meanwhile."""
CREDENTIALS = (UnauthorizedError, ForbiddenError, AuthorizationExpiredError, OAuthError)


class UnreachableError(TransientError):
    """A catalog does not answer, which may pass in minutes."""


def is_lost_race(error: BaseException | None) -> bool:
    """Whether another writer was faster."""
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    if isinstance(error, ProgrammingError):
        return getattr(error.orig, "pgcode", None) == DUPLICATE_TABLE
    return isinstance(error, CommitFailedException | IntegrityError)


def is_locked(error: BaseException | None) -> bool:
    """Whether another process holds the lock of a SQLite catalog."""
    return _is_sqlite(error) and "locked" in str(getattr(error, "orig", ""))


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite could not do it now: a lock, or a file that another process is just making."""
    return _is_sqlite(error) and not re.search("unable to open|readonly|disk is full", str(getattr(error, "orig", "")))


def is_away(error: BaseException | None) -> bool:
    """Whether a catalog's server did not answer, or could not now.

    If it was to commit, whether it has is unknown.
    """
    from requests.exceptions import ChunkedEncodingError, ConnectionError, Timeout
    from sqlalchemy.exc import DBAPIError, OperationalError

    if isinstance(error, DBAPIError) and not _is_sqlite(error):
        reason = str(error.orig)
        has_passed = not re.search(REFUSED, reason) or re.search(PASSING, reason)
        return error.connection_invalidated or (isinstance(error, OperationalError) and bool(has_passed))
    return isinstance(
        error,
        UnreachableError
        | ConnectionError
        | Timeout
        | ChunkedEncodingError
        | CommitStateUnknownException
        | ServerError
        | ServiceUnavailableError
        | TooManyRequestsError,
    )


def is_of_catalog(error: BaseException) -> bool:
    """Whether an error came from the catalog, and so says nothing of a table's files."""
    from pyiceberg.exceptions import RESTError
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, FunnelError | CommitFailedException | RESTError | RequestException | SQLAlchemyError)


def reason_of(error: BaseException) -> str:
    """Why a catalog failed, in one line: what its database or its server said."""
    text = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error).strip()
    if re.match("(HTTPS?ConnectionPool|\\()", text) and (host := re.search(r"host='([^']+)', port=(\d+)", text)):
        cause = re.search(r"\[Errno -?\d+\] ([^'\")]+)|(timed out)", text)
        return f"{host[1]}, port {host[2]}: {(cause[1] or cause[2]) if cause else 'no connection'}"
    return (text.splitlines() or [type(error).__name__])[0]


def _is_sqlite(error: BaseException | None) -> bool:
    from sqlalchemy.exc import OperationalError

    return isinstance(error, OperationalError) and type(error.orig).__module__.startswith("sqlite3")
