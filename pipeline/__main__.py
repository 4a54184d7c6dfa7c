"""Entry point of the command line: `funnel`, or `python -m pipeline`."""

import os
import sys

from pipeline.errors import FunnelError
from pipeline.secrets import guard_output


def main() -> None:
    """Run the command line. A FunnelError is one line on stderr and exit code 1, a traceback under FUNNEL_DEBUG."""
    from pipeline.cli import app

    guard_output()
    try:
        app()
    except FunnelError as error:
        if os.environ.get("FUNNEL_DEBUG"):
            raise
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
