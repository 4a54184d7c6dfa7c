"""Tables and progress bars for the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

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


def print_table(table: Table) -> None:
    """Print a table, wrapped to the terminal's width; unwrapped into a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(table)


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
