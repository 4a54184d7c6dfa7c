"""Where a trained model's scores come from: the experts each task uses and the features it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.bundle import Bundle
from model.config import is_count, require
from model.display import create_figure, format_number, format_table, name_score
from model.inputs.encoded import Encoded, FeatureColumns
from model.labels import Labels
from model.metrics import TaskMetrics, auc
from model.network.inference import run_in_pieces, score


@dataclass(frozen=True, eq=False)
class ExpertUse:
    """How much each task uses each expert, over the rows of a table.

    Attributes:
        experts: The experts' names, one per column; PLE's name the task they belong to.
        mean: Mean gate weights over rows; a task's sum to 1.
        deviation: Their standard deviation over rows; near 0 if the gate hardly depends on the row.
        entropy: Mean entropy of the gate over rows, in nats.
        entropy_share: Entropy as a share of its maximum, log k, for the k experts the task uses at all: 1 if it uses
            them equally, 0 if only one, NaN if k is 1.

    **Shape**: ``mean`` and ``deviation`` (T, k); ``entropy`` and ``entropy_share`` (T,).

    >>> use = ExpertUse(("click",), ("0", "1"), np.array([[0.75, 0.25]]), np.zeros((1, 2)), np.array([0.5623]),
    ...                 np.array([0.8113]))
    >>> print(use)
    expert          click
    0         0.75 ± 0.00
    1         0.25 ± 0.00
    entropy          0.56
    of log k          81%
    """

    tasks: tuple[str, ...]
    experts: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    entropy: np.ndarray
    entropy_share: np.ndarray

    def __str__(self) -> str:
        return format_table(
            [
                ["expert", *self.tasks],
                *(
                    [expert, *map(_format_weight, mean, deviation)]
                    for expert, mean, deviation in zip(self.experts, self.mean.T, self.deviation.T, strict=True)
                ),
                ["entropy", *(format_number(each, ".2f") for each in self.entropy)],
                ["of log k", *(format_number(each, ".0%") for each in self.entropy_share)],
            ]
        )

    def plot(self, path: str | Path) -> None:
        """Draw the mean weights as a heat map with a row per task; the file's suffix selects the format.

        Experts that a task does not use have no number.

        Raises:
            ValueError: matplotlib is not installed.
        """
        figure = create_figure(3.4 + 0.55 * len(self.experts), 1.2 + 0.5 * len(self.tasks))
        axes = figure.subplots()
        top = self.mean.max()
        image = axes.imshow(self.mean, cmap="Blues", vmin=0.0, vmax=top, aspect="auto")
        for task, expert in np.argwhere(self.mean > 0):
            weight = self.mean[task, expert]
            colour = "white" if weight > 0.6 * top else "black"
            axes.text(expert, task, f"{weight:.2f}", ha="center", va="center", color=colour, fontsize=9)
        spread = [format_number(share, ".0%") for share in self.entropy_share]
        axes.set_yticks(
            range(len(self.tasks)),
            [f"{task}\nentropy {share} of log k" for task, share in zip(self.tasks, spread, strict=True)],
        )
        turned = max(map(len, self.experts)) > 4
        axes.set_xticks(range(len(self.experts)), self.experts, rotation=45 if turned else 0)
        if turned:
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set_xlabel("expert")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="mean gate weight").outline.set_visible(False)
        figure.savefig(path)


def expert_use(bundle: Bundle, table: pa.Table | pa.RecordBatch, *, hide_context: bool = False) -> ExpertUse:
    """Measure how the gates weigh the experts over the rows of a table; for PLE, the gates of the last level.

    Raises:
        ValueError: The table is empty, or the architecture has no gates.
    """
    _require_rows(table)
    inputs = bundle.encode(table, hide_context=hide_context)
    bundle.network.eval()
    with torch.inference_mode():
        weights = run_in_pieces(bundle.network.expert_weights, inputs).double()
        mean = weights.mean(0)
        entropy = torch.special.entr(weights).sum(-1).mean(0)
    used = (mean > 0).sum(-1)
    most = torch.where(used > 1, used, torch.nan).log()
    return ExpertUse(
        tasks=bundle.task_names,
        experts=_name_experts(bundle, weights.shape[-1]),
        mean=mean.numpy(),
        deviation=weights.std(0, correction=0).numpy(),
        entropy=entropy.numpy(),
        entropy_share=(entropy / most).numpy(),
    )


def _format_weight(mean: float, deviation: float) -> str:
    """A dash for an expert that the task does not use: PLE hides other tasks' experts from it."""
    return f"{mean:.2f} ± {deviation:.2f}" if mean > 0 else "-"


def _name_experts(bundle: Bundle, experts: int) -> tuple[str, ...]:
    if bundle.config.architecture != "ple":
        return tuple(map(str, range(experts)))
    own, shared = bundle.config.task_experts, bundle.config.experts
    return (
        *(f"{task} {expert}" for task in bundle.task_names for expert in range(own)),
        *(f"shared {expert}" for expert in range(shared)),
    )


@dataclass(frozen=True, eq=False)
class Importance:
    """How much each task's score drops when a feature is shuffled among the rows.

    Attributes:
        scores: Each task's score: "AUC" for a binary task, "R²" for a regression.
        baseline: The scores of the unshuffled table.
        drop: Mean over repeats of baseline minus score.
        deviation: Standard deviation of that difference over repeats.

    All three are NaN for a task without two distinct labels.

    **Shape**: ``baseline`` (T,); ``drop`` and ``deviation`` (F, T).

    >>> print(Importance(("age", "city"), ("click",), ("AUC",), np.array([0.75]), np.array([[0.01], [0.2]]),
    ...                  np.zeros((2, 1))))
    click        AUC 0.7500
    city   +0.2000 ± 0.0000
    age    +0.0100 ± 0.0000
    """

    features: tuple[str, ...]
    tasks: tuple[str, ...]
    scores: tuple[str, ...]
    baseline: np.ndarray
    drop: np.ndarray
    deviation: np.ndarray

    def ranked(self, task: str) -> list[str]:
        """The features, most important for this task first. Raises ValueError for an unknown task."""
        return [self.features[row] for row in self._order(self._column(task))]

    def table(self, task: str) -> str:
        """One task's drops as text, largest first. Raises ValueError for an unknown task."""
        column = self._column(task)
        rows = [
            [self.features[row], _format_drop(self.drop[row, column], self.deviation[row, column])]
            for row in self._order(column)
        ]
        return format_table([[task, f"{self.scores[column]} {format_number(self.baseline[column], '.4f')}"], *rows])

    def __str__(self) -> str:
        return "\n\n".join(map(self.table, self.tasks))

    def _column(self, task: str) -> int:
        require(task in self.tasks, "task", task, f"one of {', '.join(self.tasks)}")
        return self.tasks.index(task)

    def _order(self, column: int) -> np.ndarray:
        return np.argsort(-self.drop[:, column], kind="stable")

    def plot(self, path: str | Path, *, top: int = 20) -> None:
        """Draw the drops as bars with a panel per task; the file's suffix selects the format.

        All panels show the same ``top`` features, ordered by their largest drop in any task. Error bars are one
        standard deviation to each side.

        Raises:
            ValueError: matplotlib is not installed.
        """
        require(is_count(top), "top", top, "a positive integer")
        largest = np.nan_to_num(self.drop, nan=-np.inf).max(1)
        shown = np.argsort(-largest, kind="stable")[:top]
        figure = create_figure(1.4 + 2.4 * len(self.tasks), 1.2 + 0.3 * len(shown))
        panels = figure.subplots(1, len(self.tasks), sharey=True, squeeze=False)[0]
        for column, axes in enumerate(panels):
            axes.barh(
                range(len(shown)),
                self.drop[shown, column],
                xerr=self.deviation[shown, column],
                height=0.7,
                color="#4a7fb5",
                error_kw={"ecolor": "#222222", "elinewidth": 1.0},
            )
            axes.axvline(0.0, color="#222222", linewidth=0.8)
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.locator_params(axis="x", nbins=4)
            axes.set_xlabel(f"drop in {self.scores[column]} (from {format_number(self.baseline[column], '.3f')})")
            axes.set_title(self.tasks[column], fontsize=10)
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(shown)), [self.features[row] for row in shown])
        panels[0].invert_yaxis()
        figure.savefig(path)


def _format_drop(drop: float, deviation: float) -> str:
    return f"{format_number(drop, '+.4f')} ± {format_number(deviation, '.4f')}"


def permutation_importance(
    bundle: Bundle, table: pa.Table, *, repeats: int = 5, seed: int = 0, hide_context: bool = False
) -> Importance:
    """Measure how far each task's score drops when one feature carries no information about the row.

    A feature is shuffled among all rows of the table, a value together with its indicator and a list as a whole; the
    model's scores are then measured on the labelled rows, as ``Bundle.evaluate`` does. Breiman, "Random Forests",
    Machine Learning 45, 2001, section 10, counts errors there; a drop in score on rows not used for training is the
    model reliance of Fisher, Rudin and Dominici, "All Models are Wrong, but Many are Useful", JMLR 20(177), 2019,
    taken as a difference.

    Importance is a property of this model, not of the world: of two redundant features, each makes up for the other,
    and both seem unimportant. Use rows that did not train the model. With ``hide_context``, context features are the
    same in every row, and their drop is 0.

    Takes repeats times features passes over the table. All features are shuffled by the same ``repeats`` orders, drawn
    one after the other from numpy's ``default_rng(seed)``.

    Raises:
        ValueError: The table is empty, or a column is missing or has the wrong type.
    """
    require(is_count(repeats), "repeats", repeats, "a positive integer")
    _require_rows(table)
    labels = Labels.read(table, [replace(task, sample_weight=None) for task in bundle.tasks])
    inputs = bundle.encode(table, hide_context=hide_context)
    baseline = _measure_scores(bundle, inputs, labels)
    draw = np.random.default_rng(seed)
    orders = [torch.from_numpy(draw.permutation(len(inputs))) for _ in range(repeats)]
    drops = np.stack(
        [_measure_drops(bundle, inputs, labels, feature, orders, baseline) for feature in bundle.spec.names]
    )
    return Importance(
        features=bundle.spec.names,
        tasks=bundle.task_names,
        scores=tuple(map(name_score, bundle.tasks)),
        baseline=baseline,
        drop=drops.mean(1),
        deviation=drops.std(1),
    )


def _measure_drops(
    bundle: Bundle, inputs: Encoded, labels: Labels, feature: str, orders: Sequence[Tensor], baseline: np.ndarray
) -> np.ndarray:
    """The drops of one feature, (repeats, T)."""
    columns = bundle.spec.locate(feature)
    return np.stack([baseline - _measure_scores(bundle, _shuffle(inputs, columns, order), labels) for order in orders])


def _shuffle(inputs: Encoded, columns: FeatureColumns, order: Tensor) -> Encoded:
    """Copy the rows, taking these columns from the rows in ``order``."""
    tensors = []
    for tensor, which in zip(inputs.tensors, columns, strict=True):
        if which:
            taken = list(which)
            tensor = tensor.clone()
            tensor[:, taken] = tensor[order][:, taken]
        tensors.append(tensor)
    return Encoded(*tensors)


def _measure_scores(bundle: Bundle, inputs: Encoded, labels: Labels) -> np.ndarray:
    """Each task's AUC or R² (T,), NaN without two distinct labels."""
    predictions = bundle.to_predictions(score(bundle.network, inputs).numpy().astype(np.float64))
    scores = np.full(len(bundle.tasks), np.nan)
    for column, task in enumerate(bundle.tasks):
        known = labels.known[:, column]
        values = labels.values[known, column]
        if task.kind == "binary":
            found = auc(values, predictions.calibrated[known, column])
        else:
            found = TaskMetrics.measure_values(values, predictions.raw[known, column]).r2
        if found is not None:
            scores[column] = found
    return scores


def _require_rows(table: pa.Table | pa.RecordBatch) -> None:
    if table.num_rows == 0:
        raise ValueError("the table has no rows to inspect")
