"""Run `funnel …` in this process and kill it as it is about to call a function for the n-th time.

python -m tests.support.kill_at pipeline.warehouse.warehouse:Warehouse.publish 2 ingest --ds 2026-02-08
"""

import importlib
import os
import signal
import sys
from functools import reduce
from typing import Any

from pipeline.__main__ import main


def kill_at(function: str, call: int) -> None:
    """Put a wrapper around `module:Name.name` that ends the process instead of the call."""
    module, path = function.split(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(module))
    real, left = getattr(owner, name), call

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    kill_at(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:3] = []
    main()
