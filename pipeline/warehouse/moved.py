"""A note in a warehouse that was moved away, so that whoever still comes to it is told where it is."""

from pathlib import Path

NOTE = "moved-to.txt"


def note_move(old: Path, new: Path) -> None:
    """Leave the note in the old folder."""
    (old / NOTE).write_text(f"{new}\n", encoding="utf-8")


def moved_to(folder: Path) -> str | None:
    """Where a warehouse was moved to; None if it was not."""
    note = folder / NOTE
    return note.read_text(encoding="utf-8").strip() if note.exists() else None
