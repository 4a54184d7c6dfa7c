"""The repository's Markdown pages: their links lead somewhere, and what they list exists."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cli import app, models_app
from tests.support.company import Company
from tests.support.places import ROOT

NOT_OURS = {"build", "demo", "dist"}
MOST_LINES = 170
"""Of the README: more belongs next to what it describes."""


def markdown_pages() -> list[Path]:
    folders = [each for each in ROOT.iterdir() if each.is_dir() and each.name[0] != "." and each.name not in NOT_OURS]
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))])


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; a repeated heading gets a number."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def broken_links(page: Path) -> Iterator[str]:
    """Links and images of a page that lead to no file or no heading; addresses of other sites are not followed."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            yield target


@pytest.mark.parametrize("page", markdown_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_image_of_a_page_exists(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# Two words, `code`\n## Again\n## Again\n```\n# no heading\n```\n", encoding="utf-8")
    page.write_text(
        "[fine](other.md) [fine](other.md#two-words-code) [fine](other.md#again-1) [fine](https://example.com/x)\n"
        "[gone](gone.md) ![gone](gone.png) [no heading](other.md#no-heading) [nor here](#again)\n"
        "`[code](ignored.md)`\n",
        encoding="utf-8",
    )
    assert list(broken_links(page)) == ["gone.md", "gone.png", "other.md#no-heading", "#again"]


def test_the_readme_is_short_and_names_every_command_and_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    table = text.partition("## Commands")[2].partition("## ")[0]
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {"nightly", "sql"} < commands
    assert [name for name in sorted({*commands, "models"}) if not re.search(rf"`(funnel )?{name}\b", table)] == []
    assert all(f"`funnel models {command.name}`" in table for command in models_app.registered_commands)
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)\s]+)\)", text)}
    results = ROOT / "tests" / "benchmarks" / "results"
    pages = {page for page in markdown_pages() if page.parent != results and page != ROOT / "README.md"}
    assert pages <= linked, "a page that the README does not lead to"


def test_the_settings_on_the_page_about_airflow_are_accepted(make_company: Callable[..., Company]) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "dags" / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    operations = make_company(block).settings.operations
    assert (operations.scores_due_hours, operations.webhook_connection) == (8, "funnel_webhook")
