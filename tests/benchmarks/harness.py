"""How speed is measured, side by side in one run and in turns, as medians and ratios; and how tables are written.

Machines drift, by a factor of three within an hour, so no time means anything on its own. A benchmark of speed is a
module with `main()`, whose docstring says what it measures, against what, and what the limit is.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.tuning import machine, markdown

if TYPE_CHECKING:  # a GPU machine may lack it, and no benchmark of the model measures memory
    import psutil

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """The seconds of one contender, round by round, for ``units`` of work (rows, users) in each round."""

    seconds: tuple[float, ...]
    units: float = 1.0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Units per second, at the median."""
        return self.units / self.median

    def times_as_fast_as(self, other: Timing) -> float:
        """The ratio of the rates, as the median over rounds, so that drift between rounds affects both.

        >>> Timing((1.0, 2.0, 1.0)).times_as_fast_as(Timing((2.0, 4.0, 3.0)))
        2.0
        """
        rounds = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(theirs / ours for ours, theirs in rounds) * self.units / other.units


def time_in_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    warm_up: int = 1,
    units: float | Mapping[str, float] = 1.0,
) -> dict[str, Timing]:
    """Time every contender once per round, starting each round with another one.

    ``warm_up`` rounds are not timed, so that compilers, caches and allocators are in the state of a long run.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            gc.collect()
            started = time.perf_counter()
            contenders[name]()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return {
        name: Timing(tuple(each), units[name] if isinstance(units, Mapping) else units)
        for name, each in seconds.items()
    }


class PeakMemory:
    """The peak sum of the proportional set sizes of a process and its descendants, in bytes, sampled in a thread.

    Pages shared by processes count once; free pages that a JVM holds count too.

    >>> with PeakMemory(interval=0.01) as memory:
    ...     block = bytearray(50_000_000)
    ...     time.sleep(0.1)
    >>> memory.peak > 50_000_000
    True
    """

    def __init__(self, process: psutil.Process | None = None, *, interval: float = 0.5) -> None:
        import psutil

        self.process = process or psutil.Process()
        self.interval = interval
        self.samples: list[tuple[float, int]] = []
        """Unix times and bytes."""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def peak(self) -> int:
        return max((used for _, used in self.samples), default=0)

    def peak_between(self, first: float, last: float) -> int:
        """The peak between two Unix times, or the nearest sample if none was taken between them."""
        if inside := [used for at, used in self.samples if first <= at <= last]:
            return max(inside)
        return min(self.samples, key=lambda sample: abs(sample[0] - first), default=(0.0, 0))[1]

    def _watch(self) -> None:
        while True:
            self.samples.append((time.time(), measure_memory(self.process)))
            if self._done.wait(self.interval):
                return


def measure_memory(process: psutil.Process) -> int:
    """Bytes of a process and its descendants, shared pages counted once; 0 if it has ended."""
    import psutil

    used = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            try:
                used += each.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return used


def write_report(name: str, *sections: str, command: str, packages: Sequence[str] = ()) -> Path:
    """Write `results/<name>.md`: the sections, then how to repeat the measurement and where it was taken."""
    path = RESULTS / f"{name}.md"
    foot = f"`{command}` on {machine(packages)}."
    path.write_text("\n\n".join([*sections, foot]) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
    return path


def rates_table(timings: Mapping[str, Timing], *, unit: str, against: str) -> str:
    """One row per contender: the median rate, its range over rounds, and the ratio to ``against``.

    >>> print(rates_table({"a": Timing((1.0, 1.0), 2000), "b": Timing((2.0, 2.0), 2000)}, unit="rows", against="b"))
    | contender | rows/s | rounds | times b |
    |---|---|---|---|
    | a | 2,000 | 2,000 to 2,000 | 2.00 |
    | b | 1,000 | 1,000 to 1,000 | 1.00 |
    """
    rows = []
    for name, timing in timings.items():
        slowest, fastest = timing.units / max(timing.seconds), timing.units / min(timing.seconds)
        ratio = timing.times_as_fast_as(timings[against])
        rows.append([name, f"{timing.rate:,.0f}", f"{slowest:,.0f} to {fastest:,.0f}", f"{ratio:.2f}"])
    return markdown(["contender", f"{unit}/s", "rounds", f"times {against}"], rows)
