"""SIGTERM, which service managers, `timeout` and Airflow send, becomes an exception: a run ends with its record."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Terminated


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise Terminated in the block at the first SIGTERM; a second one ends the process at once.

    Blocks may be nested. Outside the main thread, where Python handles no signals, nothing changes.

    Raises:
        Terminated: also in place of an error that the end itself has caused, such as Spark's JVM ending first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler()
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except Exception as error:
        if handler.was_called:
            raise Terminated() from error
        raise
    finally:
        # Once it was called, the default action stays.
        if signal.getsignal(signal.SIGTERM) is handler:
            signal.signal(signal.SIGTERM, before)


class _Handler:
    def __init__(self) -> None:
        self.was_called = False
        self._owner = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != self._owner:
            # A child that was forked meanwhile is not the run.
            os.kill(os.getpid(), number)
            return
        self.was_called = True
        raise Terminated()
