"""What `funnel demo` may replace: a demo's own folder, and no company of anybody's."""

from collections.abc import Callable
from pathlib import Path

from tests.support.commands import Ended
from tests.support.company import Company


def test_a_demo_does_not_replace_a_company(company: Company, funnel: Callable[..., Ended]) -> None:
    (company.folder / "source").mkdir()
    before = sorted(company.folder.rglob("*"))
    complaint = funnel("demo", "--out", company.folder).complaint
    assert str(company.folder) in complaint and "--out" in complaint
    assert sorted(company.folder.rglob("*")) == before


def test_a_demo_does_not_fill_a_folder_that_holds_anything(tmp_path: Path, funnel: Callable[..., Ended]) -> None:
    (tmp_path / "letter.txt").write_text("keep me", encoding="utf-8")
    assert str(tmp_path) in funnel("demo", "--out", tmp_path).complaint
    assert (tmp_path / "letter.txt").read_text(encoding="utf-8") == "keep me"
