"""Waiting for what other processes do."""

import socket
import time
from collections.abc import Callable
from contextlib import closing


def until(is_so: Callable[[], object], *, seconds: float, pause: float = 0.1) -> None:
    """Wait until something is so; a failure of the test if it never is."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(pause)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def can_connect(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
