"""The README's page for data scientists, run as it is printed."""

import os
import re
import subprocess
import sys
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import Bundle
from model.config import Architecture
from tests.model.funnels import draw_funnel
from tests.support.places import ROOT

README = ROOT / "README.md"


def test_the_page_for_data_scientists_runs_as_it_is_printed(tmp_path, monkeypatch, capsys):
    page = README.read_text(encoding="utf-8").split("## The model, alone")[1]
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    table = draw_funnel(1_000).table
    draw = np.random.default_rng(0)
    tags = [["new", "vip"][: int(count)] for count in draw.integers(0, 3, table.num_rows)]
    table = table.append_column("tags", pa.array(tags)).append_column("day", pa.array(range(table.num_rows)))
    pq.write_table(table, tmp_path / "exposures.parquet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code[1].replace("epochs=20", "epochs=2"), names)
    scores = names["scores"]
    assert scores.shape == (1_000, 3) and (np.diff(scores, axis=1) <= 0).all()
    printed = capsys.readouterr().out
    for piece in ("auc=", "expert", "entropy", "tags", "offer"):
        assert piece in printed


@pytest.mark.slow
def test_the_script_for_several_gpus_runs_in_two_processes(tmp_path):
    page = README.read_text(encoding="utf-8").split("### Several GPUs")[1]
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (tmp_path / "several.py").write_text(code[1].replace("epochs=20", "epochs=1"), encoding="utf-8")
    table = draw_funnel(1_000).table
    (tmp_path / "exposures").mkdir()
    pq.write_table(table, tmp_path / "exposures" / "part-0.parquet", row_group_size=150)
    pq.write_table(table, tmp_path / "later.parquet")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "several.py"]
    environment = {**os.environ, "PYTHONPATH": str(README.parent), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=900)
    assert Bundle.load(tmp_path / "complete-model").metrics["click"].held_out_rows > 0


def test_every_architecture_has_a_row():
    page = README.read_text(encoding="utf-8").split("## The model, alone")[1].split("\n## ")[0]
    header, *rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert (header, rows) == ("architecture", list(get_args(Architecture)))
