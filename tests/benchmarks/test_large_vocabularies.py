"""The benchmark of large vocabularies: its dense rival is dense, and it reports from small sizes."""

import pytest
import torch

from tests.benchmarks import harness, large_vocabularies
from tests.benchmarks.large_vocabularies import NEXT_TO_NOTHING
from tests.benchmarks.peers import Ours, make_examples, make_spec

pytestmark = pytest.mark.slow


def test_the_rival_moves_every_row_and_ends_where_rows_touched_do():
    rows = make_examples(2_000, 500)
    weights = []
    for penalty in (NEXT_TO_NOTHING, 0.0):
        ours = Ours(make_spec(500), l2_embedding=penalty)
        torch.manual_seed(0)
        ours.train(rows, 100)
        assert ours.trainer is not None
        assert bool(ours.trainer.tables) == (penalty == 0.0)
        weights.append(ours.network.inputs.ids.table.weight.detach())
    # AdamW turns rounding errors in gradients into whole steps, so a few numbers differ by several steps.
    assert (weights[0] - weights[1]).abs().mean() < 1e-5 < 1e-2 < weights[0].abs().mean()


def test_it_reports_from_small_sizes(monkeypatch, tmp_path):
    pytest.importorskip("deepctr_torch.models")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    for name, value in {"SMALL": 50, "LARGE": 500, "BATCH": 64, "STEPS": 2}.items():
        monkeypatch.setattr(large_vocabularies, name, value)
    monkeypatch.setattr(large_vocabularies, "compare_with_dense", lambda: [["loss", "1", "0"]])
    large_vocabularies.main()
    assert "| times DeepCTR-Torch | 10 |" in (tmp_path / "large_vocabularies.md").read_text(encoding="utf-8")
