"""How far apart two tasks can be before sharing hurts: one gate, a gate per task, or a shared bottom.

Reproduces section 3.2 and figures 2, 4 and 5 of Ma et al., "Modeling Task Relationships in Multi-task Learning with
Multi-gate Mixture-of-Experts", KDD 2018. Two regressions on 100 inputs depend on directions of cosine p: with u1 and u2
orthogonal unit vectors, w1 = c u1, w2 = c (p u1 + sqrt(1 - p^2) u2), x ~ N(0, I) and
y_k = w_k x + sum_i sin(alpha_i w_k x + beta_i) + N(0, 0.01). OMoE, MMoE and a shared bottom of MMoE's size learn them
in many runs, each with its own u1, u2, rows and initial weights; run r is the same for all models and all p. Measures
the squared error on rows never trained on, against the paper's claims about its mean and its spread.

All runs of a model are one batched model, so a step of a hundred runs is a handful of batched products.

    python -m tests.benchmarks.synthetic_correlation [--runs 100] [--threads 1] [--out DIR] [--pilot]
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from model.network.architectures.mmoe import MMoE, OMoE
from model.network.architectures.shared_bottom import SharedBottom
from model.network.layers import StackedLinear, StackedMLP
from model.network.multitask import Towers
from tests.benchmarks.tuning import interval, machine, markdown

INPUTS, TASKS, EXPERTS, EXPERT_UNITS, TOWER_UNITS = 100, 2, 8, 16, 8
CORRELATIONS = (0.5, 0.9, 1.0)
LEVELS = len(CORRELATIONS)
SCALE = 1.0
"""c, the length of w1 and of w2."""
ALPHA = torch.tensor([1.0, 2.0, 3.0, 4.0])
BETA = torch.tensor([0.0, 1.0, 2.0, 3.0])
NOISE = 0.01
"""The variance of the noise, a lower bound on every model's expected squared error."""

BATCH, STEPS, EVERY, TEST_ROWS = 64, 5000, 125, 2000
RATE = 1e-2
"""Adam's initial learning rate, which falls linearly to 0: the best candidate in the pilot."""
CANDIDATES, PILOT = (1e-3, 3e-3, 1e-2, 3e-2), range(10_000, 10_006)
CHUNK = 50
"""Runs trained together; more are no faster."""
RESULTS = Path(__file__).parent / "results"


def towers(width: int) -> Towers:
    """One hidden layer and a linear output per task."""
    hidden = StackedMLP(TASKS, width, (TOWER_UNITS,))
    return Towers(hidden=hidden, score=StackedLinear(TASKS, TOWER_UNITS, 1))


def experts() -> StackedMLP:
    return StackedMLP(EXPERTS, INPUTS, (EXPERT_UNITS,))


def mmoe() -> nn.Module:
    shared = MMoE(experts=experts(), gates=StackedLinear(TASKS, INPUTS, EXPERTS))
    return nn.Sequential(shared, towers(EXPERT_UNITS))


def omoe() -> nn.Module:
    shared = OMoE(experts=experts(), gates=StackedLinear(1, INPUTS, EXPERTS), tasks=TASKS)
    return nn.Sequential(shared, towers(EXPERT_UNITS))


def build_bottom(units: int) -> nn.Module:
    bottom = SharedBottom(StackedMLP(1, INPUTS, (units,)), tasks=TASKS)
    return nn.Sequential(bottom, towers(units))


def shared_bottom() -> nn.Module:
    """A shared bottom as wide as it takes to match MMoE's size, gates and biases included."""
    none, one, target = size(build_bottom(0)), size(build_bottom(1)), size(mmoe())
    return build_bottom(round((target - none) / (one - none)))


def size(model: nn.Module) -> int:
    """The number of parameters."""
    return sum(weight.numel() for weight in model.parameters())


MODELS: dict[str, Callable[[], nn.Module]] = {"Shared-Bottom": shared_bottom, "OMoE": omoe, "MMoE": mmoe}


class Source:
    """Rows of many runs at once. The draws of run r depend on r alone: first its directions, then its rows, in
    order."""

    def __init__(self, runs: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(run) for run in runs]
        self.directions = torch.linalg.qr(self._normal(INPUTS, 2)).Q

    def weights(self, p: float) -> Tensor:
        """w1 and w2 of every run, (R, 100, 2)."""
        u1, u2 = self.directions.unbind(-1)
        return SCALE * torch.stack([u1, p * u1 + (1 - p * p) ** 0.5 * u2], -1)

    def rows(self, n: int) -> tuple[Tensor, list[Tensor]]:
        """Inputs (R, n, 100), and labels (R, n, 2) for each correlation."""
        x, noise = self._normal(n, INPUTS), NOISE**0.5 * self._normal(n, TASKS)
        return x, [curve(x @ self.weights(p)) + noise for p in CORRELATIONS]

    def _normal(self, *shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])


def curve(projection: Tensor) -> Tensor:
    """z + sum_i sin(alpha_i z + beta_i), elementwise."""
    return projection + (projection[..., None] * ALPHA + BETA).sin().sum(-1)


class Fleet:
    """The same model once per run, each with its own weights, trained side by side by Adam."""

    def __init__(self, build: Callable[[], nn.Module], runs: Sequence[int], rate: float, steps: int) -> None:
        models = [start(build, run) for run in runs]
        weights, _ = stack_module_state(models)
        self.weights = {name: weight.detach() for name, weight in weights.items()}
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, total_iters=steps)
        skeleton = copy.deepcopy(models[0]).to("meta")

        def loss_of(weights: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
            return (functional_call(skeleton, weights, (x,)) - labels).square().mean(0)

        self._losses = vmap(loss_of)
        self._gradients = vmap(grad(lambda *given: loss_of(*given).sum()))

    def step(self, x: Tensor, labels: Tensor) -> None:
        """Take one step of every run on its own batch: (R, n, 100) and (R, n, 2)."""
        for name, gradient in self._gradients(self.weights, x, labels).items():
            # The fused Adam silently reads any other layout in the wrong order.
            self.weights[name].grad = gradient.contiguous()
        self.optimizer.step()
        self.schedule.step()

    def losses(self, x: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of every run and task, (R, 2)."""
        return self._losses(self.weights, x, labels)


def start(build: Callable[[], nn.Module], run: int) -> nn.Module:
    """A model with a run's initial weights. OMoE and MMoE build their experts first, so those of a run are equal."""
    with torch.random.fork_rng():
        torch.manual_seed(1_000_000 + run)  # distinct from the seeds of the rows
        return build().eval()


def train(
    runs: Sequence[int],
    *,
    models: Sequence[str] = tuple(MODELS),
    rate: float = RATE,
    steps: int = STEPS,
    every: int = EVERY,
) -> np.ndarray:
    """Test losses during training: (models, correlations, evaluations, runs, tasks). Each run sees every training row
    once.
    """
    source = Source(runs)
    test_x, test_labels = source.rows(TEST_ROWS)
    fleets = [(Fleet(MODELS[name], runs, rate, steps), i) for name in models for i in range(LEVELS)]
    curves = []
    for step in range(steps + 1):
        if step % every == 0:
            curves.append(torch.stack([fleet.losses(test_x, test_labels[i]) for fleet, i in fleets]))
        if step < steps:
            x, labels = source.rows(BATCH)
            for fleet, i in fleets:
                fleet.step(x, labels[i])
    return torch.stack(curves, 1).unflatten(0, (len(models), LEVELS)).numpy()


def train_in_chunks(runs: int) -> np.ndarray:
    """What ``train`` returns for the runs 0, 1, ..., with progress on standard error."""
    curves = []
    for first in range(0, runs, CHUNK):
        curves.append(train(range(first, min(first + CHUNK, runs))))
        print(f"{min(first + CHUNK, runs)} of {runs} runs", file=sys.stderr, flush=True)
    return np.concatenate(curves, axis=3)


def pilot() -> str:
    """Mean final loss of every model at each candidate rate, over runs that the results do not use."""
    finals = [train(PILOT, rate=rate)[:, :, -1].mean((1, 2, 3)) for rate in CANDIDATES]
    rows = [[name, *(f"{loss:.4f}" for loss in losses)] for name, *losses in zip(MODELS, *finals, strict=True)]
    return markdown(["model", *(f"{rate:g}" for rate in CANDIDATES)], rows)


def format_mean(values: np.ndarray) -> str:
    """Format the mean over runs with its 95% confidence interval."""
    mean, half = interval(values)
    return f"{mean:.4f} ± {half:.4f}"


def deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation over runs, the last dimension."""
    return values.std(-1, ddof=1)


def quartile_range(values: np.ndarray) -> np.ndarray:
    """Interquartile range over runs, the last dimension, which ignores a few outlying runs."""
    low, high = np.quantile(values, [0.25, 0.75], axis=-1)
    return high - low


def spread_ratio(
    spread: Callable[[np.ndarray], np.ndarray], wide: np.ndarray, narrow: np.ndarray
) -> tuple[float, float, float]:
    """The ratio of the spread over runs to that of the other model, with its 95% interval from 2,000 resamples of
    the runs."""
    picked = np.random.default_rng(0).integers(len(wide), size=(2000, len(wide)))
    low, high = np.quantile(spread(wide[picked]) / spread(narrow[picked]), [0.025, 0.975])
    return float(spread(wide) / spread(narrow)), float(low), float(high)


def losses_table(finals: np.ndarray, variances: Sequence[float]) -> str:
    """One row per correlation and model, from final losses (models, correlations, runs, tasks)."""
    rows = []
    for i, p in enumerate(CORRELATIONS):
        for name, losses in zip(MODELS, finals[:, i], strict=True):
            mean = losses.mean(-1)
            low, high = np.quantile(mean, [0.25, 0.75])
            first, second = losses.mean(0)
            share, spread = f"{mean.mean() / variances[i]:.2%}", f"{deviation(mean):.4f}"
            quartiles = f"{np.median(mean):.4f} ({low:.4f} to {high:.4f})"
            tasks = f"{first:.4f}, {second:.4f}"
            rows.append([p, name, len(mean), format_mean(mean), tasks, share, spread, quartiles, f"{mean.max():.4f}"])
    header = [
        "p",
        "model",
        "runs",
        "MSE",
        "task 1, task 2",
        "of label variance",
        "sd",
        "median, quartiles",
        "worst run",
    ]
    return markdown(header, rows)


def differences_table(losses: dict[str, np.ndarray]) -> str:
    """MMoE less each other model, run by run, from each model's final losses (correlations, runs)."""
    rows = []
    for i, p in enumerate(CORRELATIONS):
        for name in ("OMoE", "Shared-Bottom"):
            difference = losses["MMoE"][i] - losses[name][i]
            relative = f"{difference.mean() / losses[name][i].mean():+.1%}"
            rows.append([p, f"MMoE - {name}", format_mean(difference), relative, f"{(difference < 0).mean():.0%}"])
    return markdown(["p", "pair", "difference of MSE", "relative", "runs in which MMoE is lower"], rows)


def claims_table(losses: dict[str, np.ndarray]) -> str:
    """The paper's claims, each with the rule that decides it, the numbers, and whether they support it."""
    bottom, one_gate, many_gates = losses["Shared-Bottom"], losses["OMoE"], losses["MMoE"]
    gap = many_gates[-1] - one_gate[-1]
    falls, hardly = one_gate[0] - one_gate[-1], many_gates[0] - many_gates[-1]
    rows = [
        [
            "MMoE is close to OMoE at p = 1",
            "means within 10%",
            format_mean(gap),
            abs(gap.mean()) < 0.1 * one_gate[-1].mean(),
        ],
        ["OMoE falls off from p = 1 to 0.5", "interval above 0", format_mean(falls), interval(falls).above_0],
        [
            "MMoE hardly does",
            "surely less than half as much",
            format_mean(hardly),
            interval(falls - 2 * hardly).above_0,
        ],
    ]
    for i, p in enumerate(CORRELATIONS):
        gaps = [bottom[i] - other for other in (one_gate[i], many_gates[i])]
        numbers = f"{format_mean(gaps[0])} above OMoE, {format_mean(gaps[1])} above MMoE"
        worst = all(interval(each).above_0 for each in gaps)
        rows.append([f"Shared-Bottom is worst at p = {p}", "both intervals above 0", numbers, worst])
    spreads = {"standard deviation": deviation, "quartile range": quartile_range}
    for (word, spread), (i, p) in product(spreads.items(), enumerate(CORRELATIONS)):
        ratios = [spread_ratio(spread, bottom[i], other) for other in (one_gate[i], many_gates[i])]
        first, second = (f"{ratio:.2f} ({low:.2f} to {high:.2f})" for ratio, low, high in ratios)
        numbers = f"{word} {first} times OMoE's, {second} times MMoE's"
        widest = all(low > 1 for _, low, _ in ratios)
        rows.append([f"Shared-Bottom spreads widest at p = {p}", "both intervals above 1", numbers, widest])
    return markdown(["claim", "shown if", "numbers", "shown"], [[*row[:3], "yes" if row[3] else "no"] for row in rows])


def report(curves: np.ndarray, *, runs: int, minutes: float) -> str:
    """The whole text, from what ``train`` returned."""
    finals = curves[:, :, -1]
    losses = dict(zip(MODELS, finals.mean(-1), strict=True))
    _, labels = Source(range(20)).rows(20_000)
    variances = [y.var(1).mean().item() for y in labels]
    related = [torch.stack([torch.corrcoef(run.T)[0, 1] for run in y]).mean().item() for y in labels]
    sizes = ", ".join(f"{name} {size(build()):,}" for name, build in MODELS.items())
    return f"""# Two tasks of known correlation: Shared-Bottom, OMoE, MMoE

`python -m tests.benchmarks.synthetic_correlation --runs {runs}`, once: {minutes:.0f} minutes on the CPU,
{torch.get_num_threads()} thread, the machine shared with other work.
{machine()}.

Reproduces section 3.2 and figures 2, 4 and 5 of Ma et al., KDD 2018; what the paper leaves open is chosen as listed
below. MSE is that of a run's test rows at the end, averaged over its two tasks; ± is the 95% confidence interval of
the mean over runs; differences are taken run by run.

{losses_table(finals, variances)}

{differences_table(losses)}

![Test losses along the training, and at its end](synthetic_correlation.svg)

## What the paper claims

"No" means not shown by these runs. The rules were set before them, but for those on quartile ranges: of every model a
few runs end far out, one of their tasks near 0.3 and the other as in other runs, and carry most of a standard deviation
and of the intervals' width.

{claims_table(losses)}

## The setting

- Kept: 100 inputs, orthogonal unit u1 and u2, w1 = c u1, w2 = c (p u1 + sqrt(1 - p^2) u2), two regressions, noise
  of variance {NOISE}, squared error; 8 experts of one hidden layer of 16, linear gates, a tower of one hidden layer
  of 8 and a linear output per task.
- Chosen: c = {SCALE:g}; m = {len(ALPHA)} sines, alpha = {ALPHA.int().tolist()} and beta = {BETA.int().tolist()}, the \
same in all runs; ReLU;
  {STEPS:,} batches of {BATCH}, every row seen once ({BATCH * STEPS:,} rows); Adam, its rate falling in a straight line
  from {RATE:g} to 0.
- The rate is the best of {", ".join(f"{rate:g}" for rate in CANDIDATES)} in a pilot of {len(PILOT)} runs that are not \
among these
  (`--pilot`): mean losses over models and p of 0.144, 0.062, 0.043 and 0.049. MMoE alone does as well at 0.03 (0.0416,
  against 0.0425 at 0.01). Shorter pilots set the batch, the number of steps and the fall of the rate; c, alpha and
  beta were set once. The losses still fall slowly when the rate reaches 0.
- Sizes, biases and gates included: {sizes}. Shared-Bottom is {shared_bottom()[0].out_features}
  units wide to have MMoE's size (the paper's 113 leaves gates and biases out of the count); OMoE lacks MMoE's second
  gate.
- Run r gives all models and all p the same u1, u2, training rows, noise and {TEST_ROWS:,} test rows, and OMoE and
  MMoE the same starting experts. The test rows choose nothing.
- The labels' variance is {np.mean(variances):.2f}; their correlation is \
{", ".join(f"{value:.2f} at p = {p}" for p, value in zip(CORRELATIONS, related, strict=True))}. No loss
  can be expected below {NOISE}, the noise.
"""


def plot(curves: np.ndarray, path: Path) -> None:
    """Above, mean test losses during training with their quartiles; below, the final losses of all runs."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "0"  # the same bytes on every run
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator

    losses = curves.mean(-1)
    steps = np.arange(losses.shape[2]) * EVERY
    finals = losses[:, :, -1]
    bins = np.geomspace(finals.min(), finals.max(), 30)
    figure, axes = plt.subplots(2, LEVELS, figsize=(11, 6.5), sharex="row", sharey="row", layout="constrained")
    for i, p in enumerate(CORRELATIONS):
        above, below = axes[:, i]
        for name, colour, runs in zip(MODELS, ("tab:red", "tab:orange", "tab:blue"), losses[:, i], strict=True):
            low, high = np.quantile(runs, [0.25, 0.75], axis=1)
            above.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            above.plot(steps, runs.mean(1), color=colour, label=name)
            below.hist(runs[-1], bins, color=colour, histtype="step", linewidth=1.5)
        above.set(title=f"p = {p}", yscale="log", xlabel="training step")
        below.set(xscale="log", xlabel="test MSE at the end")
        for axis in (above.yaxis, below.xaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    axes[0, 0].set_ylabel("test MSE: mean and quartiles of runs")
    axes[1, 0].set_ylabel("number of runs")
    axes[0, -1].legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    """Train, print the report, and write it with the plot."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="runs per model and correlation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--pilot", action="store_true", help="print the learning rates' losses, and nothing else")
    options = parser.parse_args()
    if options.runs < 2:
        parser.error(f"--runs is {options.runs}; a spread needs at least 2")
    torch.set_num_threads(options.threads)
    if options.pilot:
        print(pilot())
        return
    began = time.monotonic()
    curves = train_in_chunks(options.runs)
    text = report(curves, runs=options.runs, minutes=(time.monotonic() - began) / 60)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "synthetic_correlation.md").write_text(text)
    plot(curves, options.out / "synthetic_correlation.svg")


if __name__ == "__main__":
    main()
