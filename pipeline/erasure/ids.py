"""The ids of the users to erase, from the command line and from a file."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import FunnelError
from pipeline.ingest.values import BLANKS
from pipeline.text import show

HEADER = "user_id"
"""What the first line of an exported list is."""


def read_ids(given: Sequence[str], file: Path | None, *, notify: Callable[[str], None]) -> list[str]:
    """The ids, each once and without blanks at its ends, as ingest has cut them.

    Args:
        file: UTF-8 text with one id a line, be it quoted; a first line `user_id` is none.

    Raises:
        FunnelError: the file cannot be read or has no id, or an id that was given is empty.
    """
    ids = [each.strip(BLANKS) for each in given]
    if "" in ids:
        raise FunnelError("--user: got an empty id")
    if file is not None:
        found, unreadable = _read_file(file)
        if not found:
            why = f": none of its {len(unreadable):,} lines can be read" if unreadable else ""
            raise FunnelError(f"--file: {file} has no id{why}; it takes UTF-8 text with one id a line")
        if unreadable:
            notify(f"warning: {file}: {len(unreadable):,} lines are no ids, the first is line {unreadable[0]}")
        ids += found
    return sorted(set(ids))


def _read_file(file: Path) -> tuple[list[str], list[int]]:
    """A file's ids, and the numbers of the lines that are none."""
    try:
        lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise FunnelError(f"--file: {file} cannot be read: {error.strerror}") from None
    found, unreadable = [], []
    for number, line in enumerate(lines, 1):
        try:
            text = _unquote(line.decode("utf-8").strip(BLANKS))
        except UnicodeDecodeError:
            unreadable.append(number)
            continue
        if show(text) != text:
            unreadable.append(number)
        elif text and not (number == 1 and text == HEADER):
            found.append(text)
    return found, unreadable


def _unquote(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if is_quoted else text
