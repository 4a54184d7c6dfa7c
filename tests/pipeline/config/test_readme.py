"""`pipeline/README.md`: its reference is that of the code, its examples load."""

import re
from pathlib import Path

from pipeline.config.campaigns import Campaign, FrequencyCap
from pipeline.config.funnel import EventSource, Stage
from pipeline.config.sections import Threshold
from pipeline.config.settings import Settings, load
from tests.support.configuration_page import PAGE, all_sections, key_docs, render_page
from tests.support.places import ROOT

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_reference_is_that_of_the_code() -> None:
    assert render_page(TEXT) == TEXT, "run: python -m tests.support.configuration_page"


def test_every_section_is_in_the_reference() -> None:
    sections = dict(all_sections())
    top = {name.partition(".")[0].strip("[") for name in sections}
    assert top == set(Settings.model_fields) - {"base"}
    inside = {
        "[funnel.stages]": Stage,
        "source.events": EventSource,
        "targeting.frequency_cap": FrequencyCap,
        "campaigns.NAME": Campaign,
        "monitoring.thresholds.NAME": Threshold,
    }
    assert inside.items() <= sections.items()


def test_every_key_has_a_docstring_that_is_a_sentence() -> None:
    undocumented = [
        f"{name}.{key}"
        for name, section in all_sections()
        for key, doc in key_docs(section).items()
        if not re.fullmatch(r"[A-Z`].*[.…]", doc)
    ]
    assert undocumented == []


def test_its_configuration_loads(tmp_path: Path) -> None:
    blocks = [block for block in re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL) if "[funnel]" in block]
    assert blocks
    for number, block in enumerate(blocks):
        config = tmp_path / f"{number}.toml"
        config.write_text(block, encoding="utf-8")
        assert load(config).funnel.stage_names == ("click", "complete")


def test_the_worked_example_quotes_its_configuration() -> None:
    config = (ROOT / "tests" / "configs" / "bpi2012.toml").read_text(encoding="utf-8").splitlines()
    quoted = re.findall(r"^    (\w+ = \S.*)$", TEXT, re.MULTILINE)
    assert len(quoted) == 4
    for line in quoted:
        assert line.partition(" # ")[0].rstrip() in config
    assert len([line for line in config if line]) <= 40
