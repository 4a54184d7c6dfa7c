"""Training step and inference of one MMoE, next to DeepCTR-Torch's and torch-rechub's, and to the limit of arithmetic.

Measures rows per second on tensors in memory: training with batches of 1,024, inference with 8,192; on CUDA 65,536. The
limit is the time of the network's products alone, at the rate of one large float32 product timed in the same run: 6.45
MFLOP per trained row (three times the forward pass), 2.15 MFLOP per scored one. bfloat16 runs if the processor supports
it, with its change in AUC on held-out rows after equal training. A profile shows where a step's time goes.

    python -m tests.benchmarks.training_step [--device cuda]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from model.metrics import auc
from model.training.examples import Examples
from tests.benchmarks.harness import Timing, rates_table, time_in_turns, write_report
from tests.benchmarks.peers import (
    DIM,
    SPARSE,
    TASKS,
    Contender,
    DeepCTR,
    Ours,
    Rechub,
    flop_per_row,
    make_examples,
    make_spec,
)
from tests.benchmarks.tuning import changes, markdown

VOCABULARY = 10_000
PRODUCT, COPY = 4096, 2**26
"""Rows and columns of the large product, numbers of the large copy."""
PEERS = ("DeepCTR-Torch", "torch-rechub")
ROUNDS = 7


class Sizes(NamedTuple):
    """Rows per batch to train and to infer, and batches per round."""

    train_batch: int
    train_batches: int
    infer_batch: int
    infer_batches: int


SIZES = {"cpu": Sizes(1024, 64, 8192, 2), "cuda": Sizes(65_536, 64, 65_536, 16)}


def main(device: str = "cpu") -> None:
    """Run all comparisons and write results/training_step.md; on CUDA training_step_cuda.md, on a processor without
    bfloat16 training_step_float32.md.
    """
    sizes = SIZES[device]
    rows = make_examples(sizes.train_batches * sizes.train_batch, VOCABULARY, device=device)
    some = rows.select(slice(0, sizes.infer_batches * sizes.infer_batch))
    contenders = list_contenders(device)
    trained = _timed(
        {name: lambda each=each: each.train(rows, sizes.train_batch) for name, each in contenders.items()},
        len(rows),
        device,
    )
    inferred = _timed(
        {name: lambda each=each: each.infer(some, sizes.infer_batch) for name, each in contenders.items()},
        len(some),
        device,
    )
    sections = [
        f"# The training step and inference, on {'the CPU' if device == 'cpu' else torch.cuda.get_device_name()}",
        f"20 sparse features of {VOCABULARY:,} ids, 30 dense ones, three tasks. Training, batches of "
        f"{sizes.train_batch:,}:",
        _table(trained, 3.0),
        f"Inference, batches of {sizes.infer_batch:,}:",
        _table(inferred, 1.0),
        "The limit is what the network's products alone would take at the rate of one large float32 product, "
        f"{PRODUCT:,} rows and columns, timed in turns with the others: {trained.product.rate / 1e9:,.0f} and "
        f"{inferred.product.rate / 1e9:,.0f} GFLOP/s. A large copy moved {trained.copy.rate / 1e9:,.1f} GB/s; the "
        f"embedding rows of a trained row and their moments, read and written once, are {_embedding_bytes():,} bytes.",
        *_change_of_auc(device),
        "Where a training step's time goes (float32, by operation):",
        profile_step(contenders["funnelcast"], rows, sizes.train_batch, device),
    ]
    command = "python -m tests.benchmarks.training_step" + ("" if device == "cpu" else f" --device {device}")
    name = "training_step"
    if device != "cpu":
        name += f"_{device}"
    elif not has_bfloat16(device):
        name += "_float32"
    write_report(name, *sections, command=command, packages=("deepctr-torch", "torch-rechub"))


def has_bfloat16(device: str) -> bool:
    """Whether the processor multiplies bfloat16 natively; without that, a product takes dozens of times as long."""
    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def list_contenders(device: str) -> dict[str, Contender]:
    """Ours, with its options, and the installed peers."""
    spec = make_spec(VOCABULARY)
    contenders: dict[str, Contender] = {"funnelcast": Ours(spec, device=device)}
    if has_bfloat16(device):
        contenders["funnelcast, bfloat16"] = Ours(spec, device=device, precision="bfloat16")
    if device != "cpu":
        contenders["funnelcast, bfloat16, compiled"] = Ours(spec, device=device, precision="bfloat16", compile=True)
    for name, peer in zip(PEERS, (DeepCTR, Rechub), strict=True):
        try:
            contenders[name] = peer(VOCABULARY, device=device)
        except ImportError as error:
            print(f"without {name}: {error}")
    return contenders


class Timings(NamedTuple):
    contenders: dict[str, Timing]
    product: Timing
    copy: Timing


def _timed(runs: Mapping[str, Callable[[], object]], rows: int, device: str) -> Timings:
    """Time every contender, a large product and a large copy in turns."""
    left, right, product = torch.randn(3, PRODUCT, PRODUCT, device=device)
    source = torch.zeros(COPY, device=device)
    target = torch.empty_like(source)
    limits = {"product": lambda: torch.mm(left, right, out=product), "copy": lambda: target.copy_(source)}
    units = dict.fromkeys(runs, float(rows)) | {"product": 2.0 * PRODUCT**3, "copy": 2.0 * 4 * COPY}

    def awaited(run: Callable[[], object]) -> Callable[[], object]:
        def whole() -> None:
            run()
            if device != "cpu":
                torch.cuda.synchronize()

        return whole

    timings = time_in_turns(
        {name: awaited(run) for name, run in {**runs, **limits}.items()}, rounds=ROUNDS, units=units
    )
    return Timings({name: timings[name] for name in runs}, timings["product"], timings["copy"])


def _table(timings: Timings, passes: float) -> str:
    """Rates, ratios to the better peer, and shares of the limit."""
    each = timings.contenders
    better = max((name for name in PEERS if name in each), key=lambda name: each[name].rate, default="funnelcast")
    header, rule, *lines = rates_table(each, unit="rows", against=better).splitlines()
    # In units of arithmetic, so that this ratio is taken round by round like all others.
    shares = [Timing(one.seconds, one.units * passes * flop_per_row()) for one in each.values()]
    shown = [
        f"{line} {share.times_as_fast_as(timings.product):.0%} |" for line, share in zip(lines, shares, strict=True)
    ]
    return "\n".join([f"{header} of the limit |", f"{rule}---|", *shown])


def _embedding_bytes() -> int:
    return SPARSE * DIM * 4 * 3 * 2


def profile_step(contender: Contender, rows: Examples, batch: int, device: str, *, most: int = 12) -> str:
    """One row per operation: its share of the total time, largest first."""
    contender.train(rows, batch)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as run:
        contender.train(rows, batch)

    def own(event: object) -> float:
        return float(getattr(event, "self_cpu_time_total" if device == "cpu" else "self_device_time_total"))

    events = sorted(run.key_averages(), key=own, reverse=True)
    total = sum(map(own, events))
    return markdown(
        ["operation", "share"], [[f"`{event.key}`", f"{own(event) / total:.1%}"] for event in events[:most]]
    )


def _change_of_auc(device: str) -> list[str]:
    if not has_bfloat16(device):
        return ["This processor has no products of bfloat16: not measured."]
    return [
        "bfloat16 against float32, AUC on held-out rows after three epochs (difference, mean and 95% over 5 seeds):",
        markdown(["task", "AUC, float32", "change"], compare_bfloat16_auc(device)),
    ]


def compare_bfloat16_auc(device: str, seeds: int = 5) -> list[list[str]]:
    """One row per task: AUC after float32 training, and the change from training and scoring in bfloat16."""
    small = make_spec(100)
    held = make_examples(50_000, 100, seed=1000)
    found: dict[str, list[list[float]]] = {"float32": [], "bfloat16": []}
    for seed in range(seeds):
        rows = make_examples(65_536, 100, seed=seed, device=device)
        for precision, scores in found.items():
            ours = Ours(small, device=device, precision=precision, seed=seed)
            for _ in range(3):
                ours.train(rows, 1024)
            scores.append(measure_aucs(ours, held))
    return changes(TASKS, found["bfloat16"], found["float32"], digits=4)


def measure_aucs(ours: Ours, held: Examples) -> list[float]:
    """AUC of every task on held-out rows."""
    predicted = ours.infer(held.to(torch.device(ours.device)), 8192).cpu().double().numpy()
    values = held.targets.double().numpy()
    return [auc(values[:, column], predicted[:, column]) or 0.0 for column in range(len(TASKS))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=SIZES)
    main(parser.parse_args().device)
