"""The page of benchmarks lists every command and every table."""

import re
from pathlib import Path

from tests.benchmarks.__main__ import SPEED

FOLDER = Path(__file__).parent
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_benchmark_of_speed_has_its_command():
    assert sorted(re.findall(r"^\| `tests\.benchmarks (\w+)` \|", PAGE, re.MULTILINE)) == sorted(SPEED)


def test_every_table_is_linked_and_every_link_leads_somewhere():
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link}
    assert {link for link in links if not (FOLDER / link).exists()} == set()
    assert {f"results/{table.name}" for table in FOLDER.glob("results/*.md")} <= links
