"""The README's page for data scientists, run as it is printed."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.config import Architecture
from tests.model.funnels import draw_funnel

README = Path(__file__).parents[2] / "README.md"


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


def test_every_architecture_has_a_row():
    page = README.read_text(encoding="utf-8").split("## The model, alone")[1]
    header, *rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert (header, rows) == ("architecture", list(get_args(Architecture)))
