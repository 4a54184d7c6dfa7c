"""The benchmark of task correlation plants what it claims, and trains many runs like each on its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import cos, exp, sin

import numpy as np
import pytest
import torch

from tests.benchmarks.synthetic_correlation import (
    ALPHA,
    BATCH,
    BETA,
    CORRELATIONS,
    MODELS,
    NOISE,
    RATE,
    SCALE,
    TEST_ROWS,
    Source,
    claims_table,
    curve,
    deviation,
    mmoe,
    omoe,
    quartile_range,
    shared_bottom,
    size,
    spread_ratio,
    start,
    train,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("p", CORRELATIONS)
def test_the_cosine_of_the_two_weight_vectors_is_p_in_every_run(p: float) -> None:
    w1, w2 = Source(range(30)).weights(p).unbind(-1)
    torch.testing.assert_close(torch.cosine_similarity(w1, w2), torch.full((30,), p))
    torch.testing.assert_close(w1.norm(dim=-1), torch.full((30,), SCALE))
    torch.testing.assert_close(w2.norm(dim=-1), torch.full((30,), SCALE))


def test_runs_differ_in_their_directions() -> None:
    w1 = Source(range(30)).weights(1.0)[..., 0]
    assert ((w1 @ w1.T) - torch.eye(30)).abs().max() < 0.6


def test_a_label_is_its_projection_plus_four_sines() -> None:
    assert curve(torch.tensor([0.5])).item() == pytest.approx(0.5 + sin(0.5) + sin(2.0) + sin(3.5) + sin(5.0))


def test_the_variance_of_labels_is_the_one_worked_out_on_paper() -> None:
    # z ~ N(0, c^2): E sin(az + b) = sin(b) d(a) and E z sin(az + b) = a c^2 cos(b) d(a), d(a) = exp(-(ac)^2 / 2);
    # products of sines are halves of cosines of differences and sums.
    def damped(a: float) -> float:
        return exp(-((a * SCALE) ** 2) / 2)

    sines = list(zip(ALPHA.tolist(), BETA.tolist(), strict=True))
    second = SCALE**2 + 2 * sum(a * SCALE**2 * cos(b) * damped(a) for a, b in sines)
    for (a, b), (e, f) in product(sines, sines):
        second += (cos(b - f) * damped(a - e) - cos(b + f) * damped(a + e)) / 2
    expected = second - sum(sin(b) * damped(a) for a, b in sines) ** 2 + NOISE

    _, labels = Source(range(20)).rows(5000)
    for y in labels:
        assert y.flatten(0, 1).var(0).tolist() == pytest.approx([expected] * 2, rel=0.02)


def test_labels_of_equal_weights_differ_by_noise_alone() -> None:
    _, labels = Source(range(10)).rows(5000)
    same = labels[CORRELATIONS.index(1.0)]
    assert (same[..., 0] - same[..., 1]).var().item() == pytest.approx(2 * NOISE, rel=0.05)


def test_a_run_in_a_batch_of_runs_is_the_run_alone() -> None:
    together = train([5, 7], steps=3, every=3)
    alone = train([7], steps=3, every=3)
    np.testing.assert_allclose(together[..., 1:, :], alone, rtol=1e-4)
    assert not np.allclose(together[..., :1, :], alone, rtol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_a_run_in_a_batch_of_runs_is_a_plain_training_loop(name: str) -> None:
    steps, level = 6, 0
    model = start(MODELS[name], 7)
    source = Source([7])
    (x_test,), test_labels = source.rows(TEST_ROWS)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        (x,), labels = source.rows(BATCH)
        optimizer.zero_grad()
        (model(x) - labels[level][0]).square().mean(0).sum().backward()
        optimizer.step()
    with torch.no_grad():
        expected = (model(x_test) - test_labels[level][0]).square().mean(0)
    np.testing.assert_allclose(
        train([5, 7], models=[name], steps=steps, every=steps)[0, level, -1, 1], expected, rtol=1e-4
    )


def test_mmoe_and_the_shared_bottom_are_equal_in_size_and_omoe_lacks_one_gate() -> None:
    assert size(shared_bottom()) == pytest.approx(size(mmoe()), rel=0.02)
    assert size(mmoe()) - size(omoe()) == 100 * 8 + 8


def test_a_run_starts_omoe_and_mmoe_from_the_same_experts() -> None:
    one, many = start(omoe, 3)[0].experts, start(mmoe, 3)[0].experts
    for weight, other in zip(one.parameters(), many.parameters(), strict=True):
        assert torch.equal(weight, other)
    assert not torch.equal(next(one.parameters()), next(start(omoe, 4)[0].experts.parameters()))


@pytest.mark.parametrize("spread", [deviation, quartile_range])
def test_the_ratio_of_spreads_comes_with_an_interval_that_shrinks_with_the_runs(
    spread: Callable[[np.ndarray], np.ndarray],
) -> None:
    rng = np.random.default_rng(0)
    few, many = (spread_ratio(spread, 2 * rng.normal(size=n), rng.normal(size=n)) for n in (20, 1000))
    assert few[1] < few[0] < few[2]
    assert many[1] < 2 < many[2]
    assert many[2] - many[1] < 0.3 * (few[2] - few[1])


def test_every_claim_is_judged_by_its_numbers() -> None:
    noise = 0.001 * np.random.default_rng(0).normal(size=(3, 3, 50))
    paper = {
        "Shared-Bottom": np.array([[0.5], [0.4], [0.3]]) + 20 * noise[0],
        "OMoE": np.array([[0.2], [0.15], [0.1]]) + noise[1],
        "MMoE": np.array([[0.11], [0.105], [0.1]]) + noise[2],
    }
    assert _verdicts(paper) == ["yes"] * 12
    swapped = {"Shared-Bottom": paper["MMoE"], "OMoE": paper["OMoE"][::-1], "MMoE": paper["Shared-Bottom"]}
    assert _verdicts(swapped) == ["no"] * 12


def _verdicts(losses: dict[str, np.ndarray]) -> list[str]:
    return [line.split("|")[-2].strip() for line in claims_table(losses).splitlines()[2:]]
