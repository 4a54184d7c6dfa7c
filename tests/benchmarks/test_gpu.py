"""The benchmark of a GPU runs on a few rows of a CPU, and its checks notice what is wrong."""

import pytest
import torch

from tests.benchmarks import gpu

pytestmark = pytest.mark.slow


def test_it_measures_on_a_few_rows_of_the_cpu(capsys):
    sizes = gpu.TINY._replace(batches=1, small_batches=1, rounds=1)
    report = "\n".join(gpu.measure("cpu", sizes))
    assert "| one training, done twice | same bits |" in report
    assert "| a killed training, resumed | same bits |" in report
    assert "failed" not in capsys.readouterr().out
    for variant in ("float32", "tf32", "bfloat16"):
        assert f"| {variant} |" in report


def test_a_network_that_differs_is_seen(monkeypatch):
    place = gpu.MultiTaskModel.to
    monkeypatch.setattr(gpu.MultiTaskModel, "to", lambda self, device: _bend(place(self, device)))
    outputs, _ = gpu._compare_devices("mmoe", "cpu").split(", ")
    assert float(outputs) > 1e-3


@torch.no_grad()
def _bend(network):
    network.towers.score.weight += 0.01
    return network
