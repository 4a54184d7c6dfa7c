"""The benchmark of the training step: its count of operations, its contenders, and its report from small sizes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks import harness, peers, training_step
from tests.benchmarks.peers import DeepCTR, Ours, Rechub, flop_per_row, make_examples, make_spec

pytestmark = pytest.mark.slow


def test_the_limit_counts_the_products_of_the_network():
    rows = make_examples(64, 100)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Ours(make_spec(100)).network(*rows.inputs.tensors)
    assert counter.get_total_flops() == flop_per_row() * len(rows)


@pytest.mark.parametrize("peer", [DeepCTR, Rechub])
def test_every_contender_learns_the_problem(peer):
    pytest.importorskip({DeepCTR: "deepctr_torch.models", Rechub: "torch_rechub.models.multi_task"}[peer])
    rows, held = make_examples(20_000, 20), make_examples(5_000, 20, seed=1)
    for contender in (Ours(make_spec(20)), peer(20)):
        for _ in range(3):
            contender.train(rows, 256)
        predicted = contender.infer(held, 1024)
        assert predicted.shape == held.targets.shape
        for task in range(len(peers.TASKS)):
            positive = held.targets[:, task] == 1
            assert predicted[positive, task].mean() > 1.5 * predicted[~positive, task].mean()


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_it_reports_from_small_sizes(monkeypatch, tmp_path, has_bfloat16):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setitem(training_step.SIZES, "cpu", training_step.Sizes(64, 2, 64, 2))
    for name, value in {"PRODUCT": 64, "COPY": 1024, "ROUNDS": 2, "VOCABULARY": 50}.items():
        monkeypatch.setattr(training_step, name, value)
    monkeypatch.setattr(training_step, "compare_bfloat16_auc", lambda device: [["click", "0.5", "0"]])
    monkeypatch.setattr(training_step, "has_bfloat16", lambda device: has_bfloat16)
    training_step.main()
    name = "training_step.md" if has_bfloat16 else "training_step_float32.md"
    report = (tmp_path / name).read_text(encoding="utf-8")
    assert ("| funnelcast, bfloat16 |" in report) == has_bfloat16
    assert ("no products of bfloat16" in report) != has_bfloat16
    assert "of the limit" in report and "`aten::" in report
