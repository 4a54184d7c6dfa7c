"""A company of simulated users, from its first day to its last nights' scores, shown beside the truth."""

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.table import Table

from model.metrics import auc, expected_calibration_error, log_loss
from pipeline.config import Settings, load
from pipeline.context import Context
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.nights import load as load_history
from pipeline.nights import nightly
from pipeline.progress import bar, show, training_progress
from pipeline.simulate import Simulation, Summary, simulate
from pipeline.training import train

START = date(2026, 1, 1)
CONFIG = "funnel.toml"
HEAD_ROWS = 8


@dataclass(frozen=True)
class Quality:
    """How one stage's published scores did on the texts sent the day after; `ceiling` is the true odds' AUC."""

    stage: str
    texts: int
    positives: int
    auc: float | None
    log_loss: float | None
    calibration_error: float | None
    ceiling: float | None


def demo(out: Path, *, users: int, days: int, nights: int) -> list[Quality]:
    """Simulate, load, train, run the last nights one by one, and print scores, quality and where to look next.

    Returns: a row of quality a stage.

    Raises:
        FunnelError: `out` holds something that no demo made.
    """
    _clear(out)
    simulate_company(out / "source", users=users, days=days, start=START, seed=Simulation.seed)
    config = out / CONFIG
    config.write_text(files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8"), encoding="utf-8")
    settings = load(config)
    # The last simulated day is the morning after: its texts show what the last night's scores were worth.
    last_night = START + timedelta(days=days - 2)
    trained = last_night - timedelta(days=nights)

    load_history(Context(settings), DateRange(START, trained))
    with training_progress() as on_progress:
        train(Context(settings), trained, on_progress=on_progress)
    scored = DateRange(trained + timedelta(days=1), last_night)
    with bar() as progress:
        task = progress.add_task("nights", total=len(scored), note="")
        for ds in scored:
            progress.update(task, note=ds.isoformat())
            nightly(Context(settings, notify=progress.console.print), ds)
            progress.advance(task)

    scores = Context(settings).warehouse.arrow("user_scores", first=scored.first, last=scored.last).to_pandas()
    quality = judge(scores, out / "source" / "truth" / "exposures.parquet", settings)
    _show(scores, quality, config, last_night, settings)
    return quality


def simulate_company(out: Path, *, users: int, days: int, start: date, seed: int) -> Summary:
    """Simulate into a new folder, with a progress bar, and print what was written in one line.

    Raises:
        FunnelError: a wrong argument, or `out` is not empty.
    """
    with bar() as progress:
        task = progress.add_task("simulate", total=days, note="")
        try:
            simulation = Simulation(users=users, days=days, start=start, seed=seed)
            summary = simulate(simulation, out, on_day=lambda _: progress.advance(task))
        except ValueError as error:
            raise FunnelError(str(error)) from None
    print(f"simulated {users:,} users over {days} days into {out}: {summary.exposures:,} texts")
    return summary


def judge(scores: pd.DataFrame, truth: Path, settings: Settings) -> list[Quality]:
    """Compare each night's published scores with what the simulator knows of the texts sent the next day.

    Args:
        scores: rows of `user_scores`.
        truth: the simulator's exposures, `p_<stage>` and `y_<stage>` for each.
    """
    texts = pq.read_table(truth).to_pandas()
    texts["ds"] = pd.to_datetime(texts["sent_on"]) - pd.Timedelta(days=1)
    told = scores.assign(ds=pd.to_datetime(scores["ds"]))
    judged = told.merge(texts, on=["user_id", "ds"], suffixes=("", "_true"))
    quality = []
    for stage in settings.funnel.stage_names:
        outcome = judged[f"y_{stage}"].to_numpy(dtype=float)
        score = judged[f"p_{stage}"].to_numpy()
        quality.append(
            Quality(
                stage=stage,
                texts=len(judged),
                positives=int(outcome.sum()),
                auc=auc(outcome, score),
                log_loss=log_loss(outcome, score),
                calibration_error=expected_calibration_error(outcome, score),
                ceiling=auc(outcome, judged[f"p_{stage}_true"].to_numpy()),
            )
        )
    return quality


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / CONFIG).exists() and not (out / "source" / "truth").exists():
            raise FunnelError(f"{out} holds something that is not a demo's: name an empty folder with --out")
        shutil.rmtree(out)


def _show(scores: pd.DataFrame, quality: list[Quality], config: Path, last_night: date, settings: Settings) -> None:
    stages = settings.funnel.stage_names
    newest = scores[pd.to_datetime(scores["ds"]) == pd.Timestamp(last_night)]
    head = newest.sort_values([f"p_{stages[-1]}", "user_id"], ascending=[False, True]).head(HEAD_ROWS)
    print(f"\nuser_scores of {last_night}, model {head['model_version'].iloc[0]}: {HEAD_ROWS} of {len(newest):,} users")
    table = Table(box=SIMPLE_HEAD)
    table.add_column("user_id")
    for column in (*(f"p_{stage}" for stage in stages), *(f"band_{stage}" for stage in stages)):
        table.add_column(column, justify="right")
    for row in head.to_dict("records"):
        probabilities = (f"{row[f'p_{stage}']:.4f}" for stage in stages)
        table.add_row(row["user_id"], *probabilities, *(str(row[f"band_{stage}"]) for stage in stages))
    show(table)
    print(f"These {scores['ds'].nunique()} nights' scores against what became of the texts sent the day after")
    table = Table("stage", box=SIMPLE_HEAD)
    for column in ("texts", "positives", "AUC", "ceiling", "log loss", "calibration error"):
        table.add_column(column, justify="right")
    for each in quality:
        figures = (each.auc, each.ceiling, each.log_loss, each.calibration_error)
        table.add_row(each.stage, f"{each.texts:,}", f"{each.positives:,}", *map(_number, figures))
    show(table)
    print("ceiling: the AUC of the true probabilities, which only the simulator knows")
    print(
        f"\nNext:\n"
        f"  {settings.resolve(settings.reports.path)}/{last_night}.html     that night's report: open it in a browser\n"
        f"  python dags/standalone.py {config}     a real Airflow over this company (make airflow)\n"
        f"  funnel models -c {config}\n"
        f"  funnel tables -c {config}\n"
        f'  funnel sql -c {config} "SELECT band_{stages[-1]}, count(*), avg(p_{stages[-1]}) FROM user_scores '
        f"WHERE ds = '{last_night}' GROUP BY ALL ORDER BY 1 DESC\"\n"
        f"  funnel nightly -c {config} --ds {last_night}     runs that night again: the same partition\n"
        f'  {config}     the configuration; the README\'s "Your own data" says how to write yours'
    )


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"
