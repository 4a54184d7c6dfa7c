"""The drawing of the packages in CONTRIBUTING.md, from the imports that the code has: python -m tests.support.drawing

An arrow points to what is imported. One that follows from others is left out: a package may also import whatever lies
further along its arrows.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp

from tests.support.places import ROOT

PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- drawing: python -m tests.support.drawing -->", "<!-- end of drawing -->"
PACKAGES = ("pipeline", "model", "sql")

Arrows = dict[str, set[str]]


def room_of(module: str) -> str:
    """`pipeline.scoring` of `pipeline.scoring.predict`; `model` and `sql` as a whole."""
    return ".".join(module.split(".")[:2]) if module.startswith("pipeline.") else module.split(".")[0]


def read_arrows() -> Arrows:
    """Which rooms each room imports."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    arrows: Arrows = {room_of(module): set() for module in graph.modules if module != "pipeline"}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if "pipeline" not in (module, imported) and room_of(module) != room_of(imported):
                arrows[room_of(module)].add(room_of(imported))
    # SQL is read as data, by name.
    arrows["pipeline.engines"].add("sql")
    arrows["dags"] = {room_of(module) for path in (ROOT / "dags").rglob("*.py") for module in _imported_by(path)}
    return arrows


def _imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            yield str(node.module)


def without_detours(arrows: Arrows) -> Arrows:
    """The arrows without those that follow from others.

    >>> without_detours({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    {'a': {'b'}, 'b': {'c'}, 'c': set()}
    """
    reached: Arrows = {}

    def reach(room: str) -> set[str]:
        if room not in reached:
            reached[room] = arrows[room].union(*(reach(each) for each in arrows[room]))
        return reached[room]

    return {room: {each for each in to if not any(each in reach(other) for other in to)} for room, to in arrows.items()}


def draw(arrows: Arrows) -> str:
    """The arrows in Mermaid's language."""
    names = {room: room.removeprefix("pipeline.").strip("_") for room in arrows}
    lines = [f"    {names[room]} --> {names[each]}" for room in sorted(arrows) for each in sorted(arrows[room])]
    return "\n".join(["```mermaid", "flowchart TD", *lines, "```"])


def with_drawing(page: str) -> str:
    """The page with its drawing as the code is now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{draw(without_detours(read_arrows()))}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_drawing(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
