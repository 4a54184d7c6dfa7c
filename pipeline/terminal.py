"""Progress bars on a terminal; where there is none, nothing but the lines that stages print."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from model import Progress as TrainingProgress


PIPE_WIDTH = 10_000


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A progress display: description, bar, count, elapsed time, and a last free text."""
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
    """Print a table: folded to the terminal's width, and as wide as it needs to be in a file or a pipe."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(table)


@contextmanager
def show_training_progress() -> Iterator[Callable[["TrainingProgress"], None]]:
    """A bar over all batches of all epochs, with rows/s and each task's loss."""
    with show_progress() as progress:
        task = progress.add_task("train", total=None, note="")

        def show(state: "TrainingProgress") -> None:
            losses = "  ".join(f"{name} {loss:.4f}" for name, loss in state.loss.items())
            progress.update(
                task,
                total=state.epochs * state.batches,
                completed=(state.epoch - 1) * state.batches + state.batch,
                note=f"{state.rows_per_second:,.0f} rows/s  {losses}",
            )

        yield show
