"""Does a shared model improve one task at the expense of another? Each task against a model of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from model.bundle import Bundle
from model.config import ModelConfig, TrainConfig
from model.display import format_table, name_score
from model.fitting import fit
from model.inputs.feature_spec import Feature
from model.labels import Labels, Task, as_tasks

if TYPE_CHECKING:
    import pyarrow.dataset

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Seesaw:
    """Scores of the shared model and of each task's own model.

    The term is from Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020, section 1: one task improves at
    the expense of another. ``scores`` names each task's score, "AUC" or "R²".

    **Shape**: ``shared`` and ``single`` (S, T), a row per seed and a column per task.

    >>> print(Seesaw(("click", "register"), ("AUC", "AUC"), (0, 1), shared=np.array([[0.76, 0.70], [0.75, 0.69]]),
    ...              single=np.array([[0.74, 0.75], [0.73, 0.74]])))
    task      score  shared     own  difference        95% interval  verdict
    click       AUC  0.7550  0.7350     +0.0200  +0.0200 to +0.0200     wins
    register    AUC  0.6950  0.7450     -0.0500  -0.0500 to -0.0500    loses
    a seesaw over 2 seeds: sharing wins click and loses register
    """

    tasks: tuple[str, ...]
    scores: tuple[str, ...]
    seeds: tuple[int, ...]
    shared: np.ndarray
    single: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Gain from sharing, (T,): mean over seeds of shared minus single."""
        return (self.shared - self.single).mean(0)

    @property
    def interval(self) -> np.ndarray:
        """95% confidence interval of the difference, (T, 2): Student's t over the seeds' paired differences."""
        # Imported here because it is slow to import and neither training nor scoring needs it.
        from scipy.special import stdtrit

        seeds = len(self.seeds)
        reach = stdtrit(seeds - 1, (1.0 + CONFIDENCE) / 2.0) / math.sqrt(seeds)
        half = reach * (self.shared - self.single).std(0, ddof=1)
        return np.stack([self.difference - half, self.difference + half], axis=1)

    @property
    def verdicts(self) -> dict[str, str]:
        """Per task, whether the shared model "wins" or "loses"; "undecided" if the interval contains 0."""
        verdicts = ["wins" if low > 0 else "loses" if high < 0 else "undecided" for low, high in self.interval]
        return dict(zip(self.tasks, verdicts, strict=True))

    @property
    def winners(self) -> tuple[str, ...]:
        return tuple(task for task, verdict in self.verdicts.items() if verdict == "wins")

    @property
    def losers(self) -> tuple[str, ...]:
        """The tasks that do better with a model of their own."""
        return tuple(task for task, verdict in self.verdicts.items() if verdict == "loses")

    @property
    def is_seesaw(self) -> bool:
        """Whether one task wins while another loses."""
        return bool(self.winners and self.losers)

    def __str__(self) -> str:
        verdicts = self.verdicts
        rows = [["task", "score", "shared", "own", "difference", f"{CONFIDENCE:.0%} interval", "verdict"]]
        for column, (task, (low, high)) in enumerate(zip(self.tasks, self.interval, strict=True)):
            means = [f"{each[:, column].mean():.4f}" for each in (self.shared, self.single)]
            gain = f"{self.difference[column]:+.4f}"
            rows.append([task, self.scores[column], *means, gain, f"{low:+.4f} to {high:+.4f}", verdicts[task]])
        return f"{format_table(rows)}\n{self._conclusion()}"

    def _conclusion(self) -> str:
        decided = [("wins", self.winners), ("loses", self.losers)]
        effect = " and ".join(f"{verdict} {', '.join(tasks)}" for verdict, tasks in decided if tasks)
        finding = "a seesaw" if self.is_seesaw else "no seesaw"
        return f"{finding} over {len(self.seeds)} seeds: sharing {effect or 'decides nothing'}"


def seesaw(
    data: pa.Table | pa.dataset.Dataset,
    *,
    features: Sequence[Feature],
    tasks: Sequence[str | Task],
    held_out: np.ndarray | pa.Table | None,
    model: ModelConfig | None = None,
    training: TrainConfig | None = None,
    seeds: Iterable[int] = range(5),
    test: pa.Table | None = None,
) -> Seesaw:
    """Train the shared model and each task's own model once per seed, and compare them task by task.

    Takes the arguments of ``fit``, and seeds times (tasks + 1) trainings. A task's own model is the architecture
    "single_task" with that task alone: the same features, units and options, a single network instead of the experts,
    and early stopping on its own loss. Both are scored as ``fit`` measures held-out rows, context hidden: AUC, or R²
    of a regression, on ``test`` or, without it, on the held-out rows. Those also stop training early, so they flatter
    both models; ``test`` flatters neither.

    The interval covers the randomness of training, initial weights and row order: would the next seed agree? It does
    not cover which rows happen to be there to train and compare on. A small ``test`` can favour one model at every
    seed, and more seeds do not help against that. Nor is the interval widened for the number of tasks: of twenty
    that gain nothing, one is expected to win or lose.

    Raises:
        ValueError: Before any work, for fewer than 2 distinct seeds, for a task without two distinct labels to compare
            on, and for anything ``fit`` rejects.
    """
    all_tasks, drawn = as_tasks(tasks), _require_distinct(seeds)
    model, training = model or ModelConfig(), training or TrainConfig()
    trainings = [replace(training, seed=seed) for seed in drawn]
    _require_labels_to_compare_on(data, held_out, test, all_tasks)
    shared, single = np.empty((2, len(drawn), len(all_tasks)))
    own_model = replace(model, architecture="single_task", head="independent")
    for row, config in enumerate(trainings):
        bundle = fit(data, features=features, tasks=all_tasks, held_out=held_out, model=model, training=config)
        shared[row] = _read_scores(bundle, test)
        for column, task in enumerate(all_tasks):
            own = fit(
                data,
                features=features,
                tasks=[replace(task, loss_weight=1.0)],  # no other loss to weigh it against
                held_out=held_out[:, [column]] if isinstance(held_out, np.ndarray) else held_out,
                model=own_model,
                training=replace(config, stop_on=None),
            )
            single[row, column] = _read_scores(own, test).item()
    return Seesaw(bundle.task_names, tuple(map(name_score, all_tasks)), drawn, shared, single)


def _require_distinct(seeds: Iterable[int]) -> tuple[int, ...]:
    drawn = tuple(seeds)
    if len(drawn) < 2 or len(set(drawn)) < len(drawn):
        raise ValueError(f"seeds are {list(drawn)}, not at least 2 distinct ones: an interval needs them")
    return drawn


def _read_scores(bundle: Bundle, test: pa.Table | None) -> np.ndarray:
    """Each task's AUC or R² (T,)."""
    metrics = bundle.metrics if test is None else bundle.evaluate(test, hide_context=True)
    scores = [metrics[task.name].auc if task.kind == "binary" else metrics[task.name].r2 for task in bundle.tasks]
    return np.array(scores, dtype=np.float64)


def _require_labels_to_compare_on(
    data: pa.Table | pa.dataset.Dataset,
    held_out: np.ndarray | pa.Table | None,
    test: pa.Table | None,
    tasks: Sequence[Task],
) -> None:
    """Leaves errors in ``data`` or ``held_out`` themselves for ``fit`` to report."""
    if test is not None:
        labels = Labels.read(test, [replace(task, sample_weight=None) for task in tasks])
        counted = labels.known
    elif isinstance(held_out, pa.Table):
        labels = Labels.read(held_out, tasks)
        counted = labels.weight > 0
    elif held_out is None:
        raise ValueError("held_out and test are both None; one of them has the rows to compare models on")
    elif isinstance(data, pa.Table) and held_out.dtype == np.bool_ and held_out.shape == (data.num_rows, len(tasks)):
        labels = Labels.read(data, tasks)
        counted = (labels.weight > 0) & held_out
    else:
        return
    for column, task in enumerate(tasks):
        if len(np.unique(labels.values[counted[:, column], column])) < 2:
            raise ValueError(f"task {task.name!r} needs two distinct labels among the rows to compare models on")
