"""The funnel: MMoE with the chain head against every other architecture, boosted trees and the simulator's truth.

Two funnels of three stages, of which the rarest matters most: the demo's simulated lender, whose true probabilities are
known, and the calls of BPI Challenge 2012 (B.F. van Dongen, 4TU). All models have equally many parameters, equally
many configurations and the same seeds; `tests.benchmarks.funnel_data` describes how exposures are split by day.

    python -m tests.benchmarks.funnel --prepare DIR      # runs the pipeline (Spark), writes DIR/<funnel>.parquet
    python -m tests.benchmarks.funnel --examples DIR     # trains and reports; needs no Spark

Fits are kept in DIR/fits.jsonl and DIR/predictions, so that the second command resumes after a kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model import Categorical, Feature, FeatureSpec, ModelConfig, Progress, TrainConfig, fit
from model.calibration.calibrators import calibrate, sigmoid
from tests.benchmarks.funnel_data import FUNNELS, Funnel, prepare, read
from tests.benchmarks.tuning import Job, Split, draw, parameters, run_all, sized

MMOE, SINGLE, TREES = "mmoe + chain", "single_task", "LightGBM"
RAREST = "mmoe + chain, stopped by the rarest stage"
HIDDEN = "mmoe + chain, context hidden"
"""Taught as the pipeline teaches it, to score the average campaign: the test rows' context is hidden from it."""
TAUGHT = "LightGBM taught the truth"
"""Trees whose labels are the true probabilities: roughly the best that these columns and rows allow."""
REFERENCE = ModelConfig(architecture="mmoe", experts=6)
"""The pipeline's own network; all others get as many parameters, by wider or narrower layers."""
NETWORKS: dict[str, ModelConfig] = {
    MMOE: REFERENCE,
    RAREST: REFERENCE,
    "mmoe + independent": replace(REFERENCE, head="independent"),
    "omoe + chain": replace(REFERENCE, architecture="omoe"),
    "ple + chain": replace(REFERENCE, architecture="ple", experts=3, task_experts=1),
    "shared_bottom + chain": replace(REFERENCE, architecture="shared_bottom"),
    "l2_constrained + chain": replace(REFERENCE, architecture="l2_constrained"),
    "cross_stitch + chain": replace(REFERENCE, architecture="cross_stitch"),
    "esmm (chain)": replace(REFERENCE, architecture="esmm"),
    "aitm": replace(REFERENCE, architecture="aitm", head="independent"),
    SINGLE: replace(REFERENCE, architecture="single_task", head="independent"),
}
PER_STAGE = (SINGLE, TREES)
"""Models whose fit, configuration and early stopping are separate for each stage."""
TRIALS = 4
NETWORK_SPACE = {"learning_rate": (1e-3, 3e-3), "dropout": (0.0, 0.2)}
TREE_SPACE = {"num_leaves": (3, 7), "min_data_in_leaf": (50, 200)}
TUNING_SEED = 1000
EPOCHS, PATIENCE = 30, 2
ROUNDS, TREE_PATIENCE = 2000, 50
TREE_OPTIONS = {
    "learning_rate": 0.05,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "verbose": -1,
}


def tuning_jobs(funnel: Funnel, trials: int) -> list[Job]:
    """Every model with every configuration it may have, measured on the validation days."""
    jobs = []
    for model in (*NETWORKS, TREES):
        space = TREE_SPACE if model == TREES else NETWORK_SPACE
        for options in draw(space, trials, seed=0):
            for stages in groups(funnel, model):
                jobs.append(_job(funnel, model, stages, options, TUNING_SEED, final=False))
    return jobs


def final_jobs(funnel: Funnel, chosen: Mapping[tuple[str, ...], dict[str, Any]], seeds: int) -> list[Job]:
    """Every model with its chosen configuration, once per seed, measured on the test days."""
    jobs = []
    for seed in range(seeds):
        for model in (*NETWORKS, HIDDEN, TREES):
            for stages in groups(funnel, model):
                options = chosen[(MMOE if model == HIDDEN else model, *stages)]
                jobs.append(_job(funnel, model, stages, options, seed, final=True))
    if f"truth_{funnel.stages[0]}" in funnel.table.column_names:
        for stage in funnel.stages:
            jobs.append(_job(funnel, TAUGHT, (stage,), chosen[(TREES, stage)], 0, final=True))
    return jobs


def choose(jobs: Sequence[Job], results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Choose the options with the lowest validation loss, for each model and the stages it is fitted to."""
    best: dict[tuple[str, ...], tuple[float, dict[str, Any]]] = {}
    for job, result in zip(jobs, results, strict=True):
        key = (job["model"], *job["stages"])
        if key not in best or result["validation_loss"] < best[key][0]:
            best[key] = (result["validation_loss"], job["options"])
    return {key: options for key, (_, options) in best.items()}


def groups(funnel: Funnel, model: str) -> list[tuple[str, ...]]:
    """The stages that are fitted together."""
    return [(stage,) for stage in funnel.stages] if model in PER_STAGE else [funnel.stages]


def _job(
    funnel: Funnel, model: str, stages: Sequence[str], options: Mapping[str, Any], seed: int, *, final: bool
) -> Job:
    names = {"funnel": funnel.name, "model": model, "stages": list(stages)}
    return names | {"options": dict(options), "seed": seed, "final": final}


def predictions_path(folder: Path, job: Job) -> Path:
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]
    return folder / "predictions" / f"{job['funnel']}-{digest}.npy"


def run(folder: Path, job: Job) -> dict[str, Any]:
    """Run one fit. A final one writes its calibrated probabilities of the test rows, (n, stages), next to the data."""
    torch.set_num_threads(1)
    funnel, split = _data(folder, job["funnel"])
    start = time.monotonic()
    if job["model"] in (TREES, TAUGHT):
        told, scores = _fit_trees(funnel, split, job)
    else:
        told, scores = _fit_network(funnel, split, job)
    if job["final"]:
        path = predictions_path(folder, job)
        path.parent.mkdir(exist_ok=True)
        np.save(path, scores.astype(np.float32))
    return told | {"seconds": round(time.monotonic() - start, 1)}


@cache
def _data(folder: Path, name: str) -> tuple[Funnel, Split]:
    funnel = read(folder / f"{name}.parquet")
    return funnel, funnel.split()


def network_config(
    model: str, options: Mapping[str, Any], spec: FeatureSpec, stages: Sequence[str], *, budget: int
) -> ModelConfig:
    """The model's network with these options, at the width that comes closest to this many parameters."""
    own = replace(NETWORKS[MMOE if model == HIDDEN else model], dropout=options["dropout"])
    return sized(spec, stages, own, target=budget)


def compute_budget(funnel: Funnel, taught: pa.Table, stages: Sequence[str]) -> int:
    """The parameters of the reference network of the whole funnel; a network of one stage gets that stage's share."""
    whole = parameters(FeatureSpec.fit(funnel.features, taught), funnel.stages, REFERENCE)
    return whole * len(stages) // len(funnel.stages)


def _fit_network(funnel: Funnel, split: Split, job: Job) -> tuple[dict[str, Any], np.ndarray]:
    hidden, stages, options = job["model"] == HIDDEN, job["stages"], job["options"]
    features = funnel.features_with_context() if hidden else funnel.features
    spec = FeatureSpec.fit(features, split.train)
    budget = compute_budget(funnel, split.train, stages)
    seen: list[Progress] = []
    bundle = fit(
        split.train,
        held_out=split.validation,
        features=features,
        tasks=stages,
        model=network_config(job["model"], options, spec, stages, budget=budget),
        training=TrainConfig(
            seed=job["seed"],
            epochs=EPOCHS,
            patience=PATIENCE,
            learning_rate=options["learning_rate"],
            stop_on=stages[-1] if job["model"] == RAREST else None,
        ),
        on_progress=seen.append,
    )
    losses = [each.held_out for each in seen if each.held_out is not None]
    told = {
        "validation_loss": min(losses),
        "length": 1 + int(np.argmin(losses)),
        "parameters": sum(weight.numel() for weight in bundle.network.parameters()),
    }
    return told, bundle.predict(split.test, hide_context=hidden).calibrated if job["final"] else np.empty(0)


def _fit_trees(funnel: Funnel, split: Split, job: Job) -> tuple[dict[str, Any], np.ndarray]:
    """Boosted trees for one stage, calibrated like networks; with the truth as labels, they learn from
    probabilities."""
    import lightgbm

    (stage,) = job["stages"]
    encode = partial(_matrix, funnel.features, _codes(funnel.features, split.train))
    train, validation = (table.filter(table[f"label_{stage}"].is_valid()) for table in (split.train, split.validation))
    target = f"truth_{stage}" if job["model"] == TAUGHT else f"label_{stage}"
    categorical = [column for column, each in enumerate(funnel.features) if isinstance(each, Categorical)]
    taught = lightgbm.Dataset(encode(train), train[target].to_numpy(), categorical_feature=categorical)
    judging = lightgbm.Dataset(encode(validation), validation[target].to_numpy(), reference=taught)
    booster = lightgbm.train(
        TREE_OPTIONS | job["options"] | {"objective": "cross_entropy", "seed": job["seed"]},
        taught,
        ROUNDS,
        valid_sets=[judging],
        callbacks=[lightgbm.early_stopping(TREE_PATIENCE, verbose=False)],
    )
    told = {"validation_loss": booster.best_score["valid_0"]["cross_entropy"], "length": booster.best_iteration}
    if not job["final"]:
        return told, np.empty(0)
    scores = booster.predict(encode(split.test), raw_score=True)
    if job["model"] == TREES:
        logits, labels = booster.predict(encode(validation), raw_score=True), validation[target].to_numpy()
        scores = calibrate(logits, labels, seed=job["seed"])[0](scores)
    return told, sigmoid(scores)[:, None]


def _codes(features: Sequence[Feature], table: pa.Table) -> dict[str, dict[str, int]]:
    """A code for each value of each categorical column."""
    names = [each.name for each in features if isinstance(each, Categorical)]
    labels = {name: sorted(table[name].unique().drop_null().to_pylist()) for name in names}
    return {name: {label: code for code, label in enumerate(each)} for name, each in labels.items()}


def _matrix(features: Sequence[Feature], codes: Mapping[str, Mapping[str, int]], table: pa.Table) -> np.ndarray:
    """The features' columns as float64 (n, F), NaN where null or without a code."""
    columns = []
    for each in features:
        column = table[each.name]
        if each.name in codes:
            known = codes[each.name]
            columns.append(np.array([known.get(label, np.nan) for label in column.to_pylist()], np.float64))
        else:
            columns.append(column.cast(pa.float64()).to_numpy())
    return np.stack(columns, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    doing = parser.add_mutually_exclusive_group(required=True)
    doing.add_argument("--prepare", type=Path, metavar="DIR", help="run the pipeline and write the examples")
    doing.add_argument("--examples", type=Path, metavar="DIR", help="train on the examples and report")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=TRIALS, help="configurations tried for each model")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.prepare is not None:
        prepare(options.prepare)
        return
    from tests.benchmarks.funnel_report import report

    folder = options.examples
    funnels = [read(path) for name in FUNNELS if (path := folder / f"{name}.parquet").exists()]
    runs = partial(run_all, run=partial(run, folder), workers=options.workers, cache=folder / "fits.jsonl")
    finished = []
    for funnel in funnels:
        tried = tuning_jobs(funnel, options.trials)
        chosen = choose(tried, runs(tried))
        jobs = final_jobs(funnel, chosen, options.seeds)
        finished.append((funnel, jobs, runs(jobs)))
    report(finished, folder, options.out)


if __name__ == "__main__":
    main()
