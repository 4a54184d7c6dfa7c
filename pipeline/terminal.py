"""Tables and progress bars for the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.text import show

if TYPE_CHECKING:
    from model import Progress as TrainingProgress

PIPE_WIDTH = 10_000
"""Columns of a table written to a file or a pipe: wide enough that no cell wraps."""


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Show progress as description, bar, count, elapsed time and a free `note`; nothing without a terminal."""
    with Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        transient=True,
    ) as progress:
        yield progress


class TextTable:
    """A table of text, shown as it is: square brackets are no markup, and control characters are escaped."""

    def __init__(self, *headers: str) -> None:
        self._table = Table(box=SIMPLE_HEAD)
        for header in headers:
            self.add_column(header)

    def add_column(self, header: str, *, is_number: bool = False) -> None:
        self._table.add_column(Text(show(header)), justify="right" if is_number else "left")

    def add_row(self, *cells: str) -> None:
        self._table.add_row(*(Text(show(cell)) for cell in cells))

    def print(self) -> None:
        """Print the table, wrapped to the terminal's width; unwrapped into a file or a pipe."""
        console = Console()
        if not console.is_terminal:
            console = Console(width=PIPE_WIDTH)
        console.print(self._table)


@contextmanager
def show_training_progress() -> Iterator[Callable[["TrainingProgress"], None]]:
    """Show a bar over all batches of all epochs, with rows/s and each task's loss; yields its callback."""
    with show_progress() as progress:
        task = progress.add_task("train", total=None, note="")

        def update(state: "TrainingProgress") -> None:
            losses = "  ".join(f"{name} {loss:.4f}" for name, loss in state.loss.items())
            progress.update(
                task,
                total=state.epochs * state.batches,
                completed=(state.epoch - 1) * state.batches + state.batch,
                note=f"{state.rows_per_second:,.0f} rows/s  {losses}",
            )

        yield update
