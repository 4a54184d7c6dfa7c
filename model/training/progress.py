"""A progress bar for a terminal or a notebook."""

from __future__ import annotations

from model.training.trainer import OnProgress, Progress


def progress_bar() -> OnProgress:
    """An ``on_progress`` for ``fit``: a bar an epoch, with rows per second and each task's loss.

    >>> from contextlib import redirect_stderr
    >>> from io import StringIO
    >>> show = progress_bar()
    >>> with redirect_stderr(StringIO()) as screen:
    ...     show(Progress(1, 2, 5, 10, 2000.0, {"click": 0.25}, None))
    ...     show(Progress(1, 2, 10, 10, 2000.0, {"click": 0.2}, 0.9))
    >>> screen.getvalue().splitlines()[-1].split("\\r")[-1].rstrip()
    'epoch 1/2: 10/10 | 2,000 rows/s | click 0.2000 | held out 0.9000'
    """
    from tqdm import tqdm

    bar: tqdm | None = None

    def show(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                total=progress.batches,
                desc=f"epoch {progress.epoch}/{progress.epochs}",
                bar_format="{desc}: {n_fmt}/{total_fmt}{postfix}",
                mininterval=0.0,
            )
        bar.n = progress.batch
        losses = [f"{task} {loss:.4f}" for task, loss in progress.loss.items()]
        judged = [] if progress.held_out is None else [f"held out {progress.held_out:.4f}"]
        bar.bar_format = "{desc}: {n_fmt}/{total_fmt} | " + " | ".join(
            [f"{progress.rows_per_second:,.0f} rows/s", *losses, *judged]
        )
        bar.refresh()
        if progress.batch == progress.batches and (judged or progress.held_out is None):
            bar.close()
            bar = None

    return show
