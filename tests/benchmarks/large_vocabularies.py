"""A training step costs the embedding rows it touches: vocabularies of a million ids next to those of ten thousand.

Measures training rows per second with 20 sparse features of 1,000,000 ids each (20,000,000 rows of 16: 1.28 GB, and
twice that of moments), next to the same model with 10,000 ids each, and next to DeepCTR-Torch on the same million. The
limit is the step of the small tables: what the large ones add is memory that no cache holds. The optimiser is AdamW,
which makes up for its moves of untouched rows when they are next looked up. Against dense AdamW, from the same start
over the same batches: the loss of every epoch and the AUC on held-out rows.

    python -m tests.benchmarks.large_vocabularies
"""

from __future__ import annotations

import torch

from model.training.losses import task_losses
from tests.benchmarks.harness import rates_table, time_in_turns, write_report
from tests.benchmarks.peers import TASKS, DeepCTR, Ours, make_examples, make_spec
from tests.benchmarks.training_step import measure_aucs
from tests.benchmarks.tuning import changes, markdown

SMALL, LARGE = 10_000, 1_000_000
BATCH, STEPS = 1024, 64
NEXT_TO_NOTHING = 1e-30
"""An L2 penalty on embeddings so small that its only effect is a gradient for every row, hence the dense optimiser."""


def main() -> None:
    """Run the comparison and write results/large_vocabularies.md."""
    curves = compare_with_dense()
    small, large = make_spec(SMALL), make_spec(LARGE)
    rows = {size: make_examples(STEPS * BATCH, size) for size in (SMALL, LARGE)}
    few = rows[LARGE].select(slice(0, 2 * BATCH))
    ours = {SMALL: Ours(small), LARGE: Ours(large)}
    for _ in range(3):  # pages of fresh moments exist once their rows have been touched
        ours[LARGE].train(rows[LARGE], BATCH)
    peer = DeepCTR(LARGE)
    timings = time_in_turns(
        {
            "funnelcast, 10,000 ids": lambda: ours[SMALL].train(rows[SMALL], BATCH),
            "funnelcast, 1,000,000 ids": lambda: ours[LARGE].train(rows[LARGE], BATCH),
            "DeepCTR-Torch, 1,000,000 ids": lambda: peer.train(few, BATCH),
        },
        rounds=5,
        units={
            "funnelcast, 10,000 ids": float(STEPS * BATCH),
            "funnelcast, 1,000,000 ids": float(STEPS * BATCH),
            "DeepCTR-Torch, 1,000,000 ids": float(len(few)),
        },
    )
    large_rate = timings["funnelcast, 1,000,000 ids"]
    asked = [
        [
            "rows/s of 10,000 ids kept",
            "half",
            f"{large_rate.times_as_fast_as(timings['funnelcast, 10,000 ids']):.2f}",
        ],
        [
            "times DeepCTR-Torch",
            "10",
            f"{large_rate.times_as_fast_as(timings['DeepCTR-Torch, 1,000,000 ids']):.0f}",
        ],
    ]
    write_report(
        "large_vocabularies",
        "# Vocabularies of a million ids",
        f"20 sparse features, batches of {BATCH:,}; bringing the whole table up to date at the end of each round of "
        f"{STEPS} steps included, as at the end of an epoch:",
        rates_table(timings, unit="rows", against="DeepCTR-Torch, 1,000,000 ids"),
        markdown(["", "asked", "found"], asked),
        f"Against dense AdamW, {SMALL:,} ids, three epochs of 65,536 rows, the same start and batches; the loss is the "
        "mean over tasks on 50,000 held-out rows, differences with 95% over 5 seeds:",
        markdown(["", "dense AdamW", "rows touched, difference"], curves),
        command="python -m tests.benchmarks.large_vocabularies",
        packages=("deepctr-torch",),
    )


def compare_with_dense(seeds: int = 5, epochs: int = 3) -> list[list[str]]:
    """Held-out loss after each epoch and final AUC with the dense optimiser, and the difference from it."""
    spec = make_spec(SMALL)
    held = make_examples(50_000, SMALL, seed=1000)
    found: dict[float, list[list[float]]] = {NEXT_TO_NOTHING: [], 0.0: []}
    for seed in range(seeds):
        rows = make_examples(65_536, SMALL, seed=seed)
        for penalty, figures in found.items():
            ours = Ours(spec, seed=seed, l2_embedding=penalty)
            torch.manual_seed(seed)  # so that the same ids are shown as unseen
            losses = []
            for _ in range(epochs):
                ours.train(rows, BATCH)
                outputs = ours.infer(held, 8192).logit()
                losses.append(float(task_losses(outputs, held.targets, held.weight).mean()))
            figures.append([*losses, *measure_aucs(ours, held)])
    names = [f"loss after epoch {each + 1}" for each in range(epochs)] + [f"AUC of {task}" for task in TASKS]
    return changes(names, found[0.0], found[NEXT_TO_NOTHING], digits=6)


if __name__ == "__main__":
    main()
