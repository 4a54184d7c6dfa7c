"""Python code in the pages for data scientists runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import Bundle
from model.config import ArchitectureName
from tests.model.funnels import draw_funnel
from tests.support.places import ROOT

PAGE = ROOT / "model" / "README.md"
PAGES = (PAGE, ROOT / "README.md")


def read_blocks(page: Path, *, distributed: bool) -> list[str]:
    """The page's Python blocks that import the model: scripts for `torchrun`, or the others."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [each for each in blocks if "from model import" in each and ("torch.distributed" in each) == distributed]


def pages_with_blocks(*, distributed: bool) -> list:
    found = [(page, block) for page in PAGES for block in read_blocks(page, distributed=distributed)]
    return [pytest.param(block, id=str(page.relative_to(ROOT))) for page, block in found]


def test_the_models_own_page_shows_a_fit_on_one_device_and_on_several():
    assert [len(read_blocks(PAGE, distributed=distributed)) for distributed in (False, True)] == [1, 1]


@pytest.mark.parametrize("code", pages_with_blocks(distributed=False))
def test_an_example_runs_as_printed(code, tmp_path, monkeypatch, capsys):
    table = draw_funnel(1_000).table
    draw = np.random.default_rng(0)
    tags = [["new", "vip"][: int(count)] for count in draw.integers(0, 3, table.num_rows)]
    table = table.append_column("tags", pa.array(tags)).append_column("day", pa.array(range(table.num_rows)))
    pq.write_table(table, tmp_path / "exposures.parquet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code.replace("epochs=20", "epochs=2"), names)
    scores = names["scores"]
    assert scores.shape == (1_000, 3) and (np.diff(scores, axis=1) <= 0).all()
    printed = capsys.readouterr().out
    for piece in ("auc=", "expert", "entropy", "tags", "offer"):
        assert piece in printed


@pytest.mark.slow
@pytest.mark.parametrize("code", pages_with_blocks(distributed=True))
def test_a_script_for_several_gpus_runs_in_two_processes(code, tmp_path):
    (tmp_path / "several.py").write_text(code.replace("epochs=20", "epochs=1"), encoding="utf-8")
    table = draw_funnel(1_000).table
    (tmp_path / "exposures").mkdir()
    pq.write_table(table, tmp_path / "exposures" / "part-0.parquet", row_group_size=150)
    pq.write_table(table, tmp_path / "later.parquet")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "several.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=900)
    assert Bundle.load(tmp_path / "complete-model").metrics["click"].held_out_rows > 0


def test_every_architecture_has_a_row():
    header, *rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert (header, rows) == ("architecture", list(get_args(ArchitectureName)))


def test_every_link_leads_somewhere():
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", PAGE.read_text(encoding="utf-8")) if "://" not in link}
    assert links and {link for link in links if not (PAGE.parent / link).exists()} == set()
