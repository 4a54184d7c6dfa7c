"""The training step and inference of one MMoE, beside DeepCTR-Torch's and torch-rechub's, and the limit of arithmetic.

Measures rows a second on tensors in memory: training at batches of 1,024, inference at 8,192; on CUDA at 65,536. The
limit is the time of the network's products alone, at the rate of one large float32 product timed in the same run: 6.45
MFLOP a trained row (three times the forward pass), 2.15 MFLOP a scored one. bfloat16 runs where the processor has it,
with its change in AUC on held-out rows after equal training.

    python -m tests.benchmarks.training_step [--device cuda]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from model.data import Examples
from model.metrics import auc
from tests.benchmarks.harness import Timing, in_turns, rates_table, write_report
from tests.benchmarks.peers import TASKS, Contender, DeepCTR, Ours, Rechub, examples_of, flop_per_row, spec_of
from tests.benchmarks.tuning import Interval, markdown, paired

VOCABULARY = 10_000
PRODUCT = 4096
"""Rows and columns of the large product."""


def main(device: str = "cpu") -> None:
    """Run both comparisons and write results/training_step.md, on CUDA training_step_cuda.md."""
    on_gpu = device != "cpu"
    train_batch, infer_batch, rounds = (65_536, 65_536, 7) if on_gpu else (1024, 8192, 7)
    rows = examples_of((64 if on_gpu else 32) * train_batch, VOCABULARY, device=device)
    some = rows.rows(slice(0, (16 if on_gpu else 2) * infer_batch))
    contenders: dict[str, Contender] = {"funnelcast": Ours(spec_of(VOCABULARY), device=device)}
    contenders["funnelcast, bfloat16"] = Ours(spec_of(VOCABULARY), device=device, precision="bfloat16")
    contenders |= {
        "DeepCTR-Torch": DeepCTR(VOCABULARY, device=device),
        "torch-rechub": Rechub(VOCABULARY, device=device),
    }

    def trains(contender: Contender) -> Callable[[], object]:
        return _synchronised(lambda: contender.train(rows, train_batch), device)

    def infers(contender: Contender) -> Callable[[], object]:
        return _synchronised(lambda: contender.infer(some, infer_batch), device)

    product = _product(device)
    limits = {"one large product": _synchronised(product, device)}
    units = {name: float(len(rows)) for name in contenders} | {"one large product": 2.0 * PRODUCT**3}
    trained = in_turns({name: trains(each) for name, each in contenders.items()} | limits, rounds=rounds, units=units)
    for name in contenders:
        units[name] = float(len(some))
    inferred = in_turns({name: infers(each) for name, each in contenders.items()} | limits, rounds=rounds, units=units)
    change = auc_of_bfloat16(device)
    sections = [
        f"# The training step and inference, on {torch.cuda.get_device_name() if on_gpu else 'the CPU'}",
        f"Training, batches of {train_batch:,}:",
        _table(trained, 3.0),
        f"Inference, batches of {infer_batch:,}:",
        _table(inferred, 1.0),
        "The limit is what the network's products alone would take at the rate of one large float32 product, "
        f"{PRODUCT:,} rows and columns, timed in turns with the others: "
        f"{trained['one large product'].rate / 1e9:,.0f} and {inferred['one large product'].rate / 1e9:,.0f} GFLOP/s.",
        "bfloat16 against float32, AUC on held-out rows after three epochs (difference, mean and 95% over 5 seeds):",
        markdown(["task", "AUC, float32", "change"], change),
    ]
    command = "python -m tests.benchmarks.training_step" + (f" --device {device}" if on_gpu else "")
    name = "training_step_cuda" if on_gpu else "training_step"
    write_report(name, *sections, command=command, packages=("deepctr-torch", "torch-rechub"))


def _table(timings: dict[str, Timing], passes: float) -> str:
    """Rates, ratios to the better peer, and the share of the limit."""
    limit = timings.pop("one large product")
    peers = [timings["DeepCTR-Torch"], timings["torch-rechub"]]
    better = "DeepCTR-Torch" if peers[0].rate > peers[1].rate else "torch-rechub"
    lines = rates_table(timings, unit="rows", against=better).splitlines()
    # In units of arithmetic, so that the ratio is taken round by round, as all others are.
    shares = [
        Timing(each.seconds, each.units * passes * flop_per_row()).times_as_fast_as(limit) for each in timings.values()
    ]
    timings["one large product"] = limit
    cells = ["of the limit |", "---|", *(f"{share:.0%} |" for share in shares)]
    return "\n".join(
        f"{line} {cell}" if "---" not in line else line + cell for line, cell in zip(lines, cells, strict=True)
    )


def _synchronised(run: Callable[[], object], device: str) -> Callable[[], object]:
    def timed() -> None:
        run()
        if device != "cpu":
            torch.cuda.synchronize()

    return timed


def _product(device: str) -> Callable[[], object]:
    left, right = torch.randn(PRODUCT, PRODUCT, device=device), torch.randn(PRODUCT, PRODUCT, device=device)
    out = torch.empty(PRODUCT, PRODUCT, device=device)
    return lambda: torch.mm(left, right, out=out)


def auc_of_bfloat16(device: str, seeds: int = 5) -> list[list[str]]:
    """A row a task: AUC after float32 training, and the change by training and scoring in bfloat16."""
    small = spec_of(100)
    held = examples_of(50_000, 100, seed=1000)
    found: dict[str, list[list[float]]] = {"float32": [], "bfloat16": []}
    for seed in range(seeds):
        rows = examples_of(60_000, 100, seed=seed, device=device)
        for precision, scores in found.items():
            ours = Ours(small, device=device, precision=precision, seed=seed)
            for _ in range(3):
                ours.train(rows, 1024)
            scores.append(aucs_of(ours, held))
    table = []
    for column, task in enumerate(TASKS):
        float32, bfloat16 = ([each[column] for each in scores] for scores in found.values())
        change: Interval = paired(bfloat16, float32)
        table.append([task, f"{sum(float32) / seeds:.4f}", f"{change.mean:+.4f} ± {change.half:.4f}"])
    return table


def aucs_of(ours: Ours, held: Examples) -> list[float]:
    """The AUC of every task on held-out rows."""
    predicted = ours.infer(held.to(torch.device(ours.device)), 8192).cpu().double().numpy()
    values = held.targets.double().numpy()
    return [auc(values[:, column], predicted[:, column]) or 0.0 for column in range(len(TASKS))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    main(parser.parse_args().device)
