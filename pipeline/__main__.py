"""Entry point of the command line: `funnel`, or `python -m pipeline`."""

import os
import signal
import sys

from pipeline.errors import FunnelError, Terminated
from pipeline.secrets import guard_output


def main() -> None:
    """Run the command line. A FunnelError is one line on stderr and exit code 1, a traceback under FUNNEL_DEBUG.

    After SIGTERM the exit code is 143, after Ctrl-C 130, as shells report them.
    """
    from pipeline.cli import app

    guard_output()
    try:
        app()
    except FunnelError as error:
        if os.environ.get("FUNNEL_DEBUG"):
            raise
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        # Typer says nothing of a Ctrl-C.
        if end.code == 128 + signal.SIGINT:
            print("error: stopped by Ctrl-C", file=sys.stderr)
        raise
    except Terminated as end:
        print(f"error: {end}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
