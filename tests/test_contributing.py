"""CONTRIBUTING.md: its drawing is that of the code, and it names what there is."""

import re

from tests.support.drawing import PAGE, read_arrows, with_drawing, without_detours
from tests.support.places import ROOT

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_drawing_is_current() -> None:
    assert with_drawing(TEXT) == TEXT, "run: python -m tests.support.drawing"


def test_the_drawing_has_every_package_and_no_circle() -> None:
    arrows = read_arrows()
    rooms = {
        path.stem for path in (ROOT / "pipeline").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert {room.partition(".")[2] for room in arrows if "." in room} == rooms - {"__init__"}
    # A circle would have no end.
    assert set(without_detours(arrows)) == set(arrows)


def test_make_has_the_commands_of_the_page() -> None:
    named = set(re.findall(r"make ([a-z-]+)`", TEXT))
    assert {target for target in named if target.startswith("test")} == {
        "test",
        *(f"test-{layer}" for layer in ("unit", "warehouse", "spark", "airflow", "browser", "slow", "services")),
    }
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets


def test_the_links_of_the_page_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
