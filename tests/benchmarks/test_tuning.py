"""Tools shared by benchmarks: equal budgets, fits that are not repeated, intervals over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import Categorical, FeatureSpec, ModelConfig, Numeric
from tests.benchmarks.tuning import Job, draw, interval, paired, parameters, run_all, sized

pytestmark = pytest.mark.slow

SPEC = FeatureSpec.fit([Categorical("a"), Numeric("b")], pa.table({"a": ["x", "y", "z"], "b": [1.0, 2.0, 3.0]}))
TASKS = ("one", "two")


@given(st.integers(1, 12), st.integers(0, 5))
def test_drawn_configurations_differ_and_come_from_the_space(count: int, seed: int) -> None:
    space = {"dropout": (0.0, 0.1, 0.2), "units": (8, 16), "depth": (1, 2)}
    drawn = draw(space, count, seed=seed)
    assert len({tuple(each.values()) for each in drawn}) == count
    assert all(value in space[name] for each in drawn for name, value in each.items())


@pytest.mark.parametrize("architecture", ["mmoe", "shared_bottom", "cross_stitch"])
def test_no_other_width_comes_nearer_to_the_number_of_parameters_asked_for(architecture: str) -> None:
    config = ModelConfig(architecture=architecture, head="independent", expert_units=(8, 4))
    target = 5000
    found = sized(SPEC, TASKS, config, target=target)
    widths = [(width, round(4 * width / 8)) for width in range(2, 200)]
    sizes = [
        parameters(SPEC, TASKS, ModelConfig(architecture=architecture, head="independent", expert_units=units))
        for units in widths
    ]
    assert abs(parameters(SPEC, TASKS, found) - target) == min(abs(size - target) for size in sizes)


def never(job: Job) -> dict[str, Any]:
    raise AssertionError(f"{job} was run again")


def doubled(job: Job) -> dict[str, Any]:
    return {"value": 2 * job["seed"]}


def test_a_job_with_a_line_in_the_cache_is_not_run_again_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    cache = tmp_path / "fits.jsonl"
    lines = [{"job": {"model": "m", "seed": seed}, "result": {"value": seed}} for seed in (1, 2)]
    cache.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    jobs = [{"seed": 2, "model": "m"}, {"seed": 1, "model": "m"}]
    assert run_all(jobs, never, workers=1, cache=cache) == [{"value": 2}, {"value": 1}]


def test_a_line_that_a_kill_cut_short_is_run_again_and_written_whole(tmp_path: Path) -> None:
    cache = tmp_path / "fits.jsonl"
    cache.write_text('{"job": {"seed": 1}, "result": {"value": 2}}\n{"job": {"seed": 3}, "res', encoding="utf-8")
    jobs = [{"seed": 1}, {"seed": 3}, {"seed": 3}]
    results = [{"value": 2}, {"value": 6}, {"value": 6}]
    assert run_all(jobs, doubled, workers=1, cache=cache) == results
    assert len(cache.read_text(encoding="utf-8").splitlines()) == 2
    assert run_all(jobs, never, workers=1, cache=cache) == results


def test_the_interval_of_four_values_is_that_of_students_t_with_three_degrees() -> None:
    mean, half = interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(3.182 * (5 / 3) ** 0.5 / 2, rel=1e-3)
    assert np.isnan(interval([1.0]).half)


def test_a_paired_difference_is_free_of_what_seeds_have_in_common() -> None:
    found = paired([1.5, 10.5, 100.5], [1.0, 10.0, 100.0])
    assert found == (0.5, 0.0) and found.above_0 and not found.below_0
    assert not interval([-1.0, 2.0]).above_0
