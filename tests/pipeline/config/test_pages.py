"""The configuration that pages print is accepted, as a whole file or appended to the tests' funnel."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.settings import load
from tests.support.company import SMALL_SPARK, Company
from tests.support.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "dags" / "README.md", *sorted((ROOT / "pipeline").rglob("README.md"))]


def toml_blocks() -> Iterator[tuple[str, str]]:
    """Each block with the page and line where it starts."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            yield f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, block.start()) + 1}", block[1]


BLOCKS = dict(toml_blocks())


@pytest.mark.parametrize("place", BLOCKS)
def test_a_configuration_in_a_page_is_accepted(place: str, tmp_path: Path) -> None:
    block = BLOCKS[place]
    if "[funnel]" in block.splitlines():
        config = tmp_path / "funnel.toml"
        config.write_text(block, encoding="utf-8")
    else:
        config = Company.make(tmp_path, block, replace={SMALL_SPARK: ""}).config
    assert load(config)


@pytest.mark.parametrize("topic", ["[campaigns.", "[monitoring.thresholds]", "[operations]"])
def test_the_pages_configure(topic: str) -> None:
    assert any(line.startswith(topic) for block in BLOCKS.values() for line in block.splitlines())
