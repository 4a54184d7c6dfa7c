"""Comparing models at equal budgets: equally many parameters, equally many configurations, the same seeds.

Shared by benchmarks: drawing configurations, sizing networks, running many fits in processes with a file to resume
from, and intervals over seeds. Each benchmark brings its data, its models and its report.
"""

from __future__ import annotations

import json
import os
import platform
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from model import FeatureSpec, ModelConfig, Task
from model.network.multitask import build_model

Job = dict[str, Any]
"""Identifies a fit, in plain JSON values."""


@dataclass(frozen=True)
class Split:
    """``train`` teaches, ``validation`` stops training and selects configurations, ``test`` is for final models."""

    train: pa.Table
    validation: pa.Table
    test: pa.Table


def draw(space: Mapping[str, Sequence[Any]], count: int, *, seed: int) -> list[dict[str, Any]]:
    """Draw this many different configurations, a value per option; the same ones for the same seed.

    >>> draw({"dropout": [0.0, 0.1], "dim": [4]}, 2, seed=0)
    [{'dropout': 0.0, 'dim': 4}, {'dropout': 0.1, 'dim': 4}]
    """
    sizes = [len(values) for values in space.values()]
    picks = np.random.default_rng(seed).permutation(int(np.prod(sizes)))[:count]
    places = np.stack(np.unravel_index(picks, sizes), 1).tolist()
    return [{name: values[place] for (name, values), place in zip(space.items(), row, strict=True)} for row in places]


def parameters(spec: FeatureSpec, tasks: Sequence[str], config: ModelConfig) -> int:
    """The number of the network's weights, including embeddings."""
    with torch.random.fork_rng(devices=[]):
        network = build_model(spec, [Task(name) for name in tasks], config)
    return sum(weight.numel() for weight in network.parameters())


def sized(spec: FeatureSpec, tasks: Sequence[str], config: ModelConfig, *, target: int) -> ModelConfig:
    """The configuration with ``expert_units`` scaled by one factor to come closest to ``target`` weights."""

    def at(width: int) -> ModelConfig:
        units = tuple(max(1, round(unit * width / config.expert_units[0])) for unit in config.expert_units)
        return replace(config, expert_units=units)

    def size(width: int) -> int:
        return parameters(spec, tasks, at(width))

    low, high = 1, 2
    while size(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < target else (low, middle)
    return at(min((low, high), key=lambda width: abs(size(width) - target)))


def run_all(
    jobs: Iterable[Job], run: Callable[[Job], dict[str, Any]], *, workers: int, cache: Path | None
) -> list[dict[str, Any]]:
    """Run every job in ``workers`` processes of one thread each; return the results in order.

    ``run`` is a function that processes can pickle. Each result is appended to ``cache`` as a line of JSON as soon as
    it is there; jobs with a line are not run again.
    """
    keys = [json.dumps(job, sort_keys=True) for job in jobs]
    done = {} if cache is None else _finished(cache)
    waiting = [key for key in dict.fromkeys(keys) if key not in done]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        running = {pool.submit(run, json.loads(key)): key for key in waiting}
        for number, future in enumerate(as_completed(running), 1):
            key = running[future]
            done[key] = future.result()
            if cache is not None:
                with cache.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"job": json.loads(key), "result": done[key]}) + "\n")
            print(f"{number}/{len(waiting)} {key} {json.dumps(done[key])}", flush=True)
    return [done[key] for key in keys]


def _start_worker() -> None:
    """Use one thread, and end with the run that started this process, should that be killed."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _finished(cache: Path) -> dict[str, dict[str, Any]]:
    """Results by job. A last line cut short by a kill is removed, so that the next result starts a new line."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    text = cache.read_text(encoding="utf-8") if cache.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        cache.write_text(whole, encoding="utf-8")
    lines = map(json.loads, whole.splitlines())
    return {json.dumps(line["job"], sort_keys=True): line["result"] for line in lines}


class Interval(NamedTuple):
    """A mean and half the width of its 95% interval by Student's t; NaN for a single value."""

    mean: float
    half: float

    @property
    def above_0(self) -> bool:
        return self.mean - self.half > 0

    @property
    def below_0(self) -> bool:
        return self.mean + self.half < 0


def interval(values: Sequence[float]) -> Interval:
    """The interval of independent values, such as a metric's over seeds; of differences by seed, the paired interval.

    >>> mean, half = interval([1.0, 2.0, 3.0])
    >>> mean, round(half, 3)
    (2.0, 2.484)
    """
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return Interval(float(np.mean(values)), float("nan"))
    return Interval(float(np.mean(values)), float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5))


def paired(values: Sequence[float], reference: Sequence[float]) -> Interval:
    """The interval of ``values`` - ``reference``, seed by seed."""
    return interval([value - other for value, other in zip(values, reference, strict=True)])


def changes(
    names: Sequence[str], values: Sequence[Sequence[float]], reference: Sequence[Sequence[float]], *, digits: int
) -> list[list[str]]:
    """One row per metric: its mean in ``reference`` (seeds x metrics), and how ``values`` differ, by seed.

    >>> changes(["AUC"], [[0.7], [0.9]], [[0.6], [0.8]], digits=2)
    [['AUC', '0.70', '+0.10 ± 0.00']]
    """
    rows = []
    for name, ours, theirs in zip(names, zip(*values, strict=True), zip(*reference, strict=True), strict=True):
        change = paired(ours, theirs)
        rows.append([name, f"{np.mean(theirs):.{digits}f}", f"{change.mean:+.{digits}f} ± {change.half:.{digits}f}"])
    return rows


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table.

    >>> print(markdown(["model", "AUC"], [["mmoe", 0.9]]))
    | model | AUC |
    |---|---|
    | mmoe | 0.9 |
    """
    lines = [_cells(header), "|" + "---|" * len(header), *map(_cells, rows)]
    return "\n".join(lines)


def _cells(row: Sequence[object]) -> str:
    return "| " + " | ".join(map(str, row)) + " |"


def machine(packages: Sequence[str] = ()) -> str:
    """Describe this machine and the versions that results depend on; ``packages`` are named in addition to the usual
    ones."""
    usual = ("torch", "lightgbm", "numpy", "pyarrow", "scikit-learn")
    versions = [f"{name} {found}" for name in dict.fromkeys([*usual, *packages]) if (found := _installed(name))]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = f"{os.cpu_count()} cores ({_processor()}, {torch.backends.cpu.get_cpu_capability()})"
    return ", ".join([cores, f"{memory:.0f} GiB", f"Python {platform.python_version()}", *versions])


def _processor() -> str:
    """The processor's name, or its architecture if the name is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
