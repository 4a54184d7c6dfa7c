"""Tables, conclusions and plot of the funnel benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from model.metrics import expected_calibration_error, log_loss
from tests.benchmarks.funnel import HIDDEN, MMOE, TAUGHT, TREES, TRIALS
from tests.benchmarks.funnel_data import Funnel
from tests.benchmarks.funnel_measures import (
    TRUTH,
    Bounds,
    Judged,
    Rarest,
    expected_auc,
    log_losses,
    out_of_order,
    over_seeds,
    rank_correlation,
)
from tests.benchmarks.tuning import Interval, Job, interval, machine, markdown, paired

Finished = tuple[Funnel, Sequence[Job], Sequence[Mapping[str, Any]]]
"""A funnel, its final jobs and their results."""
REPLICATES = 1000
WIDTH = 118
TITLES = {"lender": "The simulated lender", "bpi2012": "BPI Challenge 2012"}
REFERENCES = (TRUTH, TAUGHT, HIDDEN)
"""Not rivals: one that nobody has, or the same model with less information."""
LESS = f"less {MMOE}"


def report(finished: Sequence[Finished], folder: Path, out: Path, *, replicates: int = REPLICATES) -> None:
    """Measure what the final fits left in ``folder``, and write funnel.md and funnel.svg to ``out``."""
    parts, drawn = [INTRODUCTION], []
    for funnel, jobs, results in finished:
        judged = Judged.of(funnel, jobs, folder)
        rarest = Rarest.of(judged, replicates=replicates)
        drawn.append((judged, rarest))
        parts += _section(judged, rarest, jobs, results)
    parts += ["## What holds and what does not", *(_verdict(judged, rarest) for judged, rarest in drawn), CAVEATS]
    parts += [f"## Machine\n\n{machine()}; one thread a fit. Seconds were taken while other work ran beside."]
    out.mkdir(parents=True, exist_ok=True)
    (out / "funnel.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    plot(drawn, out / "funnel.svg")


INTRODUCTION = f"""# The funnel: MMoE with the chain head, its rivals and the truth

    python -m tests.benchmarks.funnel --prepare DIR
    python -m tests.benchmarks.funnel --examples DIR

Two funnels of three stages, the last the rarest and the one that counts: the demo's simulated lender (20,000 users,
120 days, the default seed), whose true probabilities are known, and calls of a Dutch lender (BPI Challenge 2012,
B.F. van Dongen, 4TU, doi:10.4121/uuid:3926db30-f712-4394-aebc-75976070e91f).

- **Split** by the day of the exposure, test after validation after training. A label belongs to a part only if its
  whole window ends inside the part: nothing that happens after a border teaches what is judged beyond it. The last
  days before a border teach, or stop and calibrate, the early stages alone. All stages share the test rows.
- **Inputs**: the pipeline's features and the exposure's context, as columns like any other, for every model. Only
  "{HIDDEN}" is taught as the pipeline teaches, with context hidden at random, and judged without it.
- **Budget**: layers as wide as gives every network the size of the pipeline's own (6 experts of 64, towers of 32),
  within 1.5%; {TRIALS} configurations a model (learning rate and dropout; leaves and rows a leaf), the one of the
  lowest validation loss kept; early stopping and calibration on the validation days; then a fit a seed, and one
  look at the test days.
- single_task and LightGBM are a model per stage, each with a configuration and an end of training of its own. The
  others stop, and are chosen, by the mean over stages, or where it says so by the rarest stage's loss.
- **Intervals** are of 95%, in bold where they exclude 0. *Over seeds*: Student's t over the seeds, paired; the test
  rows stay the same. *Over users and seeds*: {REPLICATES:,} bootstrap draws of test users, with all their rows, and
  of seeds.

![The rarest stage against mmoe + chain](funnel.svg)"""

NOTES = {
    "bpi2012": "That applicant had been accepted before the calls, as in 23 of the training calls, none of them "
    "approved. Counts as rare as that read as 10 standard deviations, the most that the encoder lets through, and "
    "networks go on from there towards 0; trees, with 50 rows a leaf or more, do not."
}
"""Findings from a closer look at a funnel's numbers."""

CAVEATS = """A dozen intervals of 95% stand in each table: by chance alone, one excludes 0 in about every second table.
No interval tells of another draw of the training days: there is one. Two funnels, one of them simulated, do not
stand for all."""


def _section(judged: Judged, rarest: Rarest, jobs: Sequence[Job], results: Sequence[Mapping[str, Any]]) -> list[str]:
    funnel = judged.funnel
    last = funnel.stages[-1]
    parts = [f"## {TITLES[funnel.name]}", split_table(funnel)]
    parts += [f"### {last}, the rarest stage, on the test labels", label_table(judged, judged.last)]
    parts += [f"Differences to {MMOE}, over users and seeds:", rarest_table(rarest)]
    if judged.truth is not None:
        parts += [
            f"### {last} against the truth",
            fill(
                "The simulator drew each label by a probability that it kept; it rests on what no column tells, "
                "such as a user's hidden traits. *AUC to expect* is that of labels drawn again and again by the "
                "truth, free of the noise of one draw; so is the log loss, here above the truth's own. Differences "
                f"are over users and seeds. *{TAUGHT}* is about as near as these columns and rows can come. The "
                f"truth expects {judged.truth[:, judged.last].sum():.0f} positives among the test rows and the labels "
                f"hold {judged.labels[:, judged.last].sum():.0f}: so far one draw is from the next.",
                WIDTH,
            ),
            truth_table(judged, rarest),
        ]
    for stage in range(judged.last):
        parts += [f"### {funnel.stages[stage]}, on the test labels", label_table(judged, stage)]
    if judged.truth is not None:
        parts += ["### The early stages against the truth", early_truth_table(judged)]
    return [*parts, "### What it took", cost_table(judged, jobs, results)]


def format_mean(values: Sequence[float], digits: int) -> str:
    """Format a mean with its interval over seeds, or alone if there is only one seed.

    >>> format_mean([1.0, 2.0, 3.0], 2), format_mean([0.5], 1)
    ('2.00 ± 2.48', '0.5')
    """
    mean, half = interval(values)
    return f"{mean:.{digits}f}" if len(values) < 2 else f"{mean:.{digits}f} ± {half:.{digits}f}"


def difference(values: Sequence[float], ours: Sequence[float], digits: int) -> str:
    """Format a difference paired by seed, bold if the interval excludes 0; with a single value, the difference of
    means.

    >>> difference([0.5, 0.6], [0.3, 0.4], 1), difference([0.5], [0.3, 0.4], 2)
    ('**+0.2 ± 0.0**', '+0.15')
    """
    if len(values) != len(ours):
        return f"{np.mean(values) - np.mean(ours):+.{digits}f}"
    found = paired(values, ours)
    return _bold(f"{found.mean:+.{digits}f} ± {found.half:.{digits}f}", found)


def between(bounds: Bounds, digits: int) -> str:
    """Format an interval by its ends, bold if it excludes 0.

    >>> between((-0.5, 0.25), 2), between((0.1, 0.2), 1)
    ('-0.50 to +0.25', '**+0.1 to +0.2**')
    """
    low, high = bounds
    return _bold(f"{low:+.{digits}f} to {high:+.{digits}f}", Interval((low + high) / 2, (high - low) / 2))


def _bold(text: str, of: Interval) -> str:
    return f"**{text}**" if of.above_0 or of.below_0 else text


def label_table(judged: Judged, stage: int) -> str:
    """AUC, log loss and calibration of a stage on the test labels."""
    aucs = over_seeds(judged, stage, expected_auc, judged.labels)
    losses = over_seeds(judged, stage, lambda p, y: log_loss(y, p), judged.labels)
    errors = over_seeds(judged, stage, lambda p, y: expected_calibration_error(y, p), judged.labels)
    header = ["model", "AUC", f"{LESS}, over seeds", "log loss", f"{LESS}, over seeds", "calibration error"]
    rows = [
        [
            model,
            format_mean(aucs[model], 4),
            "" if model == MMOE else difference(aucs[model], aucs[MMOE], 4),
            format_mean(losses[model], 5),
            "" if model == MMOE else difference(losses[model], losses[MMOE], 5),
            format_mean(errors[model], 4),
        ]
        for model in aucs
    ]
    return markdown(header, rows)


def rarest_table(rarest: Rarest) -> str:
    """What the test labels say about the rarest stage, over users and seeds."""
    header = ["model", f"AUC {LESS}", f"log loss {LESS}"]
    return markdown(
        header, [[model, between(rarest.auc[model], 4), between(rarest.loss[model], 5)] for model in rarest.auc]
    )


def truth_table(judged: Judged, rarest: Rarest) -> str:
    """The rarest stage against the truth; losses in 1e-4 nats, errors in percentage points."""
    assert judged.truth is not None and rarest.true_auc and rarest.true_loss and rarest.true_error
    stage, truth = judged.last, judged.truth
    floor = float(log_losses(truth[:, stage], truth[:, stage]).mean())
    aucs = over_seeds(judged, stage, expected_auc, truth)
    losses = over_seeds(judged, stage, lambda p, q: 1e4 * (float(log_losses(p, q).mean()) - floor), truth)
    ranks = over_seeds(judged, stage, rank_correlation, truth)
    errors = over_seeds(judged, stage, _points, truth)
    header = ["model", "AUC to expect", LESS, "log loss above the truth's, 1e-4", LESS]
    rows = []
    for model in aucs:
        cells = [
            model,
            format_mean(aucs[model], 4),
            "",
            format_mean(losses[model], 2),
            "",
            format_mean(ranks[model], 3),
        ]
        cells += [format_mean(errors[model], 3), ""]
        if model != MMOE:
            cells[2] = between(rarest.true_auc[model], 4)
            cells[4] = between(_times(1e4, rarest.true_loss[model]), 2)
            cells[7] = between(_times(1e2, rarest.true_error[model]), 3)
        rows.append(cells)
    return markdown([*header, "rank correlation", "absolute error, points", LESS], rows)


def early_truth_table(judged: Judged) -> str:
    """Rank correlation and absolute error of the stages before the rarest, with differences over seeds."""
    assert judged.truth is not None
    header, columns = ["model"], []
    for stage, name in enumerate(judged.funnel.stages[:-1]):
        columns += [over_seeds(judged, stage, figure, judged.truth) for figure in (rank_correlation, _points)]
        header += [f"{name}: rank correlation", LESS, f"{name}: absolute error, points", LESS]
    rows = []
    for model in judged.scores:
        cells = [
            (format_mean(column[model], 3), "" if model == MMOE else difference(column[model], column[MMOE], 3))
            for column in columns
        ]
        rows.append([model, *(text for pair in cells for text in pair)])
    return markdown(header, rows)


def _points(p: np.ndarray, q: np.ndarray) -> float:
    return 1e2 * float(np.abs(p - q).mean())


def _times(scale: float, bounds: Bounds) -> Bounds:
    return scale * bounds[0], scale * bounds[1]


def split_table(funnel: Funnel) -> str:
    """Labels and positives of every part and stage."""
    rows = []
    for part in ("train", "validation", "test"):
        table = funnel.part(part)
        for stage in funnel.stages:
            known = table.filter(table[f"label_{stage}"].is_valid())
            labels, days = known[f"label_{stage}"].to_numpy(), known["exposure_date"].to_numpy()
            cells = [part, stage, f"{days.min()} to {days.max()}", f"{len(labels):,}"]
            rows.append([*cells, f"{int(labels.sum()):,}", f"{100 * labels.mean():.2f}%"])
    return markdown(["part", "stage", "exposed", "labels", "positives", "rate"], rows)


def cost_table(judged: Judged, jobs: Sequence[Job], results: Sequence[Mapping[str, Any]]) -> str:
    """What a model of all stages cost, the options chosen, and how often its probabilities rise along the stages."""
    rows = []
    for model, scores in judged.scores.items():
        mine = [(job, result) for job, result in zip(jobs, results, strict=True) if job["model"] == model]
        size = sum(result.get("parameters", 0) for _, result in mine) / len(scores)
        length = np.mean([result["length"] for _, result in mine])
        unit = "epochs" if size else "rounds"
        seconds = sum(result["seconds"] for _, result in mine) / len(scores)
        chosen = dict.fromkeys(", ".join(f"{name} {each}" for name, each in job["options"].items()) for job, _ in mine)
        cells = [
            model,
            f"{size:,.0f}" if size else "-",
            f"{length:.0f} {unit}",
            f"{seconds:.0f}",
            f"{100 * out_of_order(scores):.1f}%",
        ]
        rows.append([*cells, "; ".join(chosen)])
    header = ["model", "parameters", "best after", "seconds a seed", "rows out of order", "chosen"]
    return markdown(header, rows)


def _verdict(judged: Judged, rarest: Rarest) -> str:
    """Plain sentences on the rarest stage, based on the intervals over users and seeds."""
    funnel, stage = judged.funnel, judged.last
    measures = [("AUC on the test labels", rarest.auc, 1), ("log loss on the test labels", rarest.loss, -1)]
    if rarest.true_auc and rarest.true_loss and rarest.true_error:
        measures += [
            ("AUC to expect by the truth", rarest.true_auc, 1),
            ("log loss to expect by the truth", rarest.true_loss, -1),
            ("absolute error against the truth", rarest.true_error, -1),
        ]
    name = f"{TITLES[funnel.name]}, {funnel.stages[stage]}"
    lines = [f"**{name}.** {MMOE} against the others, by intervals over users and seeds:", ""]
    lines += [f"- {name}: {_standing(bounds, sign)}." for name, bounds, sign in measures]
    low, high = rarest.auc[TREES]
    sentences = [f"{TREES}'s AUC less that of {MMOE} lies between {low:+.4f} and {high:+.4f}."]
    if judged.truth is not None:
        aucs = over_seeds(judged, stage, expected_auc, judged.truth)
        ours, taught, truth = (float(np.mean(aucs[model])) for model in (MMOE, TAUGHT, TRUTH))
        sentences += [
            f"Of the way from a coin (0.5) to the true probabilities ({truth:.4f}), {MMOE} goes "
            f"{100 * (ours - 0.5) / (truth - 0.5):.0f}% ({ours:.4f}); trees taught the truth from the same rows and "
            f"columns go {100 * (taught - 0.5) / (truth - 0.5):.0f}% ({taught:.4f})."
        ]
    rising = {model: share for model, scores in judged.scores.items() if (share := out_of_order(scores)) > 5e-4}
    shares = ", ".join(f"{100 * share:.1f}% of {model}" for model, share in rising.items())
    sentences += [f"Rows whose probabilities rise along the stages: {shares or 'none'}; none of any chain."]
    sentences += [_costliest(judged), NOTES.get(funnel.name, "")]
    return "\n".join([*lines, "", fill(" ".join(sentences), WIDTH)])


def _costliest(judged: Judged) -> str:
    """The contribution of the test user on whom some model lost most to the rarest stage's log loss."""
    stage, (_, user) = judged.last, np.unique(judged.users, return_inverse=True)
    added = {
        model: np.bincount(user, log_losses(scores[:, :, stage], judged.labels[:, stage]).mean(axis=0)) / len(user)
        for model, scores in judged.scores.items()
        if model != TAUGHT
    }
    worst = max(set(added) - {TREES}, key=lambda model: added[model].max())
    who = int(added[worst].argmax())
    return (
        f"The costliest user, of {(user == who).sum()} test rows, adds {added[worst][who]:.5f} to the log loss of "
        f"{worst}, {added[MMOE][who]:.5f} to that of {MMOE} and {added[TREES][who]:.5f} to that of {TREES}."
    )


def _standing(bounds: Mapping[str, Bounds], sign: int) -> str:
    """Whom it wins against and loses to. ``bounds`` are of theirs less ours; ``sign`` is 1 if more is better.

    >>> _standing({"a": (-0.2, -0.1), "b": (0.1, 0.2), "c": (-0.1, 0.1)}, 1)
    'wins against a; loses to b; ties with the rest'
    """
    rivals = {model: sorted((sign * low, sign * high)) for model, (low, high) in bounds.items()}
    rivals = {model: ends for model, ends in rivals.items() if model not in REFERENCES}
    won = [model for model, (_, high) in rivals.items() if high < 0]
    lost = [model for model, (low, _) in rivals.items() if low > 0]
    rest = "all" if not won and not lost else "the rest"
    return f"wins against {', '.join(won) or 'none'}; loses to {', '.join(lost) or 'none'}; ties with {rest}"


def plot(drawn: Sequence[tuple[Judged, Rarest]], path: Path) -> None:
    """The rarest stage's AUC less that of MMoE with the chain: one panel per funnel for labels, and one for the
    truth."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    panels = []
    for judged, rarest in drawn:
        title = f"{TITLES[judged.funnel.name]}: {judged.funnel.stages[-1]}"
        panels.append((f"{title}\non the test labels", judged, rarest.auc, judged.labels))
        if rarest.true_auc is not None and judged.truth is not None:
            panels.append((f"{title}\nto expect by the truth", judged, rarest.true_auc, judged.truth))
    models = [model for model in drawn[0][0].scores if model not in (MMOE, TAUGHT)]
    places = np.arange(len(models))[::-1]
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 + 3.1 * len(panels), 4.2), sharey=True, squeeze=False)
    for axis, (title, judged, bounds, target) in zip(axes[0], panels, strict=True):
        aucs = over_seeds(
            judged,
            judged.last,
            expected_auc,
            target,
        )
        means = np.array([np.mean(aucs[model]) - np.mean(aucs[MMOE]) for model in models])
        ends = np.array([bounds[model] for model in models])
        for place, mean, (low, high), model in zip(places, means, ends, models, strict=True):
            colour = "#b2182b" if high < 0 else "#2166ac" if low > 0 else "#777777"
            axis.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
            axis.plot(mean, place, "o" if model not in REFERENCES else "D", color=colour, markersize=4.5)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(f"AUC {LESS} ({np.mean(aucs[MMOE]):.3f})\nleft of 0: worse than it; right: better", fontsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].set_yticks(places, models)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
