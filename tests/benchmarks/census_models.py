"""The models fitted to Census-Income: networks of equal size, boosted trees, and what is tuned in each."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from model import Categorical, FeatureSpec, ModelConfig, Progress, TrainConfig, fit
from model.metrics import auc
from tests.benchmarks.census_data import GROUPS, features, read, split
from tests.benchmarks.tuning import Job, Split, draw, parameters, sized

MMOE, SINGLE, TREES = "mmoe", "single_task", "LightGBM"
REFERENCE = ModelConfig(
    head="independent",
    embedding_dim=8,
    numeric_embedding="piecewise_linear",
    experts=8,
    expert_units=(32,),
    tower_units=(16,),
    dropout=0.2,
    calibrator_weight=0.0,
)
"""All other networks get as many parameters, including embeddings, by wider or narrower layers. The head is
independent, and AITM has no calibrator, because neither task is a stage of the other.
"""
NETWORKS: dict[str, ModelConfig] = {
    MMOE: REFERENCE,
    "omoe": replace(REFERENCE, architecture="omoe"),
    "ple": replace(REFERENCE, architecture="ple", experts=4, task_experts=2),
    "aitm": replace(REFERENCE, architecture="aitm"),
    "cross_stitch": replace(REFERENCE, architecture="cross_stitch"),
    "l2_constrained": replace(REFERENCE, architecture="l2_constrained"),
    "shared_bottom": replace(REFERENCE, architecture="shared_bottom"),
    SINGLE: replace(REFERENCE, architecture="single_task"),
}
PER_TASK = (SINGLE, TREES)
"""Models whose fit, configuration and early stopping are separate for each task."""

TRIALS = 6
NETWORK_SPACE = {"learning_rate": (3e-3, 6e-3, 1.2e-2), "l2_embedding": (0.0, 1e-4)}
CONSTRAINTS = (1e-4, 1e-3, 1e-2)
TREE_SPACE = {"num_leaves": (15, 31, 63), "cat_l2": (10, 50)}
TUNING_SEED = 1000
TRAINING = TrainConfig(
    batch_size=512, epochs=8, patience=8, schedule="linear", unseen_share=0.05, context_dropout=0.0, device="cpu"
)
"""All epochs are run while the learning rate falls to 0; the epoch with the lowest validation loss gives the
weights."""
ROUNDS, TREE_PATIENCE = 2000, 50
TREE_OPTIONS = {
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "num_threads": 1,
    "verbose": -1,
}


def tuning_jobs() -> list[Job]:
    """Every model with every configuration it may have, measured on the validation part."""
    jobs = []
    for group in GROUPS:
        for model in (*NETWORKS, TREES):
            for options in configurations(model):
                jobs += [_job(model, tasks, options, TUNING_SEED, "validation") for tasks in fitted(group, model)]
    return jobs


def final_jobs(chosen: Mapping[tuple[str, ...], dict[str, Any]], seeds: int) -> list[Job]:
    """Every model with its chosen configuration, once per seed, measured on the test part."""
    return [
        _job(model, tasks, chosen[(model, *tasks)], seed, "test")
        for seed in range(seeds)
        for group in GROUPS
        for model in (*NETWORKS, TREES)
        for tasks in fitted(group, model)
    ]


def choose(jobs: Sequence[Job], results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Choose the options with the highest mean AUC over tasks, for each model and the tasks it is fitted to."""
    best: dict[tuple[str, ...], tuple[float, dict[str, Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        key, mean = (job["model"], *job["tasks"]), float(np.mean(list(result["auc"].values())))
        if key not in best or mean > best[key][0]:
            best[key] = (mean, job["options"])
    return {key: options for key, (_, options) in best.items()}


def fitted(group: str, model: str) -> list[tuple[str, ...]]:
    """The tasks of a group that are fitted together, in the order given to the model.

    AITM transfers from the first task to the last, so the main task comes last there.
    """
    if model in PER_TASK:
        return [(task,) for task in GROUPS[group]]
    return [GROUPS[group][::-1] if model == "aitm" else GROUPS[group]]


def configurations(model: str) -> list[dict[str, Any]]:
    """The configurations to try: the same for every network, except that l2_constrained cycles through its
    constraints."""
    tried = draw(TREE_SPACE if model == TREES else NETWORK_SPACE, TRIALS, seed=0)
    if model != "l2_constrained":
        return tried
    return [options | {"l2_constraint": alpha} for options, alpha in zip(tried, cycle(CONSTRAINTS), strict=False)]


def _job(model: str, tasks: Sequence[str], options: Mapping[str, Any], seed: int, judged: str) -> Job:
    return {"model": model, "tasks": list(tasks), "options": dict(options), "seed": seed, "judged": judged}


def run(data: Path, kept: Path, job: Job) -> dict[str, Any]:
    """Run one fit: each task's AUC on the measured part, and its cost. Scores of the test rows are left in ``kept``."""
    parts = _split(data)
    judged = parts.test if job["judged"] == "test" else parts.validation
    start = time.monotonic()
    told, scores = (_fit_trees if job["model"] == TREES else _fit_network)(parts, judged, job)
    seconds = round(time.monotonic() - start, 1)
    if job["judged"] == "test":
        path = scores_path(kept, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, scores)
    measured = {
        task: auc(judged[f"label_{task}"].to_numpy(), scores[:, column]) for column, task in enumerate(job["tasks"])
    }
    return {"auc": measured, **told, "seconds": seconds}


def scores_path(kept: Path, job: Job) -> Path:
    """Path of a final fit's scores of the test rows, float64 (n, tasks)."""
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
    return kept / "scores" / f"{job['model']}-{digest}.npy"


@cache
def _split(data: Path) -> Split:
    return split(read(data))


def network_config(
    model: str, options: Mapping[str, Any], spec: FeatureSpec, tasks: Sequence[str], *, budget: int
) -> ModelConfig:
    """The model's network with these options, at the width that comes closest to this many parameters."""
    own = {name: value for name, value in options.items() if name not in NETWORK_SPACE}
    return sized(spec, tasks, replace(NETWORKS[model], **own), target=budget)


def compute_budget(spec: FeatureSpec, tasks: Sequence[str]) -> int:
    """The parameters of the reference network of two tasks; a network of one task gets half of them."""
    whole = parameters(spec, GROUPS["income"], REFERENCE)
    return whole * len(tasks) // len(GROUPS["income"])


def _fit_network(parts: Split, judged: pa.Table, job: Job) -> tuple[dict[str, Any], np.ndarray]:
    spec = FeatureSpec.fit(features(), parts.train)
    config = network_config(job["model"], job["options"], spec, job["tasks"], budget=compute_budget(spec, job["tasks"]))
    taught = {name: job["options"][name] for name in NETWORK_SPACE}
    seen: list[Progress] = []
    bundle = fit(
        parts.train,
        held_out=parts.validation,
        features=features(),
        tasks=job["tasks"],
        model=config,
        training=replace(TRAINING, seed=job["seed"], **taught),
        on_progress=seen.append,
    )
    epochs = [each for each in seen if each.held_out is not None]
    told = {
        "parameters": parameters(spec, job["tasks"], config),
        "length": len(epochs),
        "rows_per_second": round(float(np.median([each.rows_per_second for each in epochs]))),
    }
    return told, bundle.predict(judged).raw  # calibration keeps the order, but may introduce ties


def _fit_trees(parts: Split, judged: pa.Table, job: Job) -> tuple[dict[str, Any], np.ndarray]:
    import lightgbm

    labels = f"label_{job['tasks'][0]}"
    told_apart = {each.name: i for i, each in enumerate(features()) if isinstance(each, Categorical)}
    train, validation, test = tree_inputs([parts.train, parts.validation, judged])
    taught = lightgbm.Dataset(train, parts.train[labels].to_numpy(), categorical_feature=list(told_apart.values()))
    booster = lightgbm.train(
        {**TREE_OPTIONS, **job["options"], "seed": job["seed"]},
        taught,
        ROUNDS,
        valid_sets=[taught.create_valid(validation, parts.validation[labels].to_numpy())],
        callbacks=[lightgbm.early_stopping(TREE_PATIENCE, verbose=False)],
    )
    return {"length": booster.best_iteration}, booster.predict(test)[:, None]


def tree_inputs(tables: Sequence[pa.Table]) -> list[np.ndarray]:
    """The features' columns of each table, float64: numbers unchanged, categorical values as codes of the first table's
    values; NaN where null or missing from the first table.
    """
    inputs = [np.full((table.num_rows, len(features())), np.nan) for table in tables]
    for column, each in enumerate(features()):
        known = tables[0][each.name].unique().to_pylist() if isinstance(each, Categorical) else []
        codes = {value: code for code, value in enumerate(known)}
        for table, rows in zip(tables, inputs, strict=True):
            values = table[each.name]
            if isinstance(each, Categorical):
                rows[:, column] = [codes.get(value, np.nan) for value in values.to_pylist()]
            else:
                rows[:, column] = values.to_numpy()
    return inputs
