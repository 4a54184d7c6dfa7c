"""Runs the benchmarks of speed one after the other: `make bench`, or `python -m tests.benchmarks NAME …` for some."""

import sys
from importlib import import_module

SPEED = (
    "training_step",
    "gpu",
    "large_vocabularies",
    "reading",
    "start_up",
    "analyst_sql",
    "scoring",
    "night_sql",
    "night",
)
"""Modules here with a `main()`. Those of quality take hours and are run by name."""


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all of `SPEED` without a name; each writes its table to results/."""
    for name in names or SPEED:
        if name not in SPEED:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(SPEED)}")
        print(f"== {name}", flush=True)
        import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
