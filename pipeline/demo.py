"""A company of simulated users, from its first day to a list of whom to text, its scores shown beside the truth."""

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
from pipeline.campaigns.exports import export
from pipeline.campaigns.targets import make, show_list
from pipeline.config.settings import Settings, load
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.nights import load_history, nightly
from pipeline.report.report import report
from pipeline.runs.context import Context
from pipeline.simulate.simulate import Simulation, Summary, simulate
from pipeline.terminal import print_table, show_progress, show_training_progress
from pipeline.training.steps import train

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
    """Simulate, load, train, run the last nights one by one, make a target list; print it all and where to look next.

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
    with show_training_progress() as on_progress:
        train(Context(settings), trained, on_progress=on_progress)
    scored = DateRange(trained + timedelta(days=1), last_night)
    with show_progress() as progress:
        task = progress.add_task("nights", total=len(scored), note="")
        for ds in scored:
            progress.update(task, note=ds.isoformat())
            nightly(Context(settings, notify=progress.console.print), ds)
            progress.advance(task)

    scores = Context(settings).warehouse.arrow("user_scores", first=scored.first, last=scored.last).to_pandas()
    quality = judge(scores, out / "source" / "truth" / "exposures.parquet", settings)
    _show_scores(scores, last_night, settings)
    _show_quality(scores, quality)
    _make_list(settings, last_night)
    _show_next(config, last_night, settings)
    return quality


def simulate_company(out: Path, *, users: int, days: int, start: date, seed: int) -> Summary:
    """Simulate into a new folder, with a progress bar, and print what was written in one line.

    Raises:
        FunnelError: a wrong argument, or `out` is not empty.
    """
    with show_progress() as progress:
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


def _make_list(settings: Settings, last_night: date) -> None:
    """Make and export the campaign's list, and write the night's report anew, which then has it."""
    context = Context(settings)
    (campaign,) = settings.campaigns
    try:
        made = make(context, last_night, campaign)
    except FunnelError as error:
        # A company of few users is no reason to end a demo, but the reason is worth seeing.
        print(f"\nno target list: {error}")
        return
    show_list(made)
    export(context, last_night, campaign)
    report(context, last_night)


def _show_scores(scores: pd.DataFrame, last_night: date, settings: Settings) -> None:
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
    print_table(table)


def _show_quality(scores: pd.DataFrame, quality: list[Quality]) -> None:
    print(f"These {scores['ds'].nunique()} nights' scores against what became of the texts sent the day after")
    table = Table("stage", box=SIMPLE_HEAD)
    for column in ("texts", "positives", "AUC", "ceiling", "log loss", "calibration error"):
        table.add_column(column, justify="right")
    for each in quality:
        figures = (each.auc, each.ceiling, each.log_loss, each.calibration_error)
        table.add_row(each.stage, f"{each.texts:,}", f"{each.positives:,}", *map(_number, figures))
    print_table(table)
    print("ceiling: the AUC of the true probabilities, which only the simulator knows")


def _show_next(config: Path, last_night: date, settings: Settings) -> None:
    last_stage = settings.funnel.stage_names[-1]
    (campaign,) = settings.campaigns
    print(
        f"\nNext:\n"
        f"  {settings.resolve(settings.reports.path)}/{last_night}.html     that night's report: open it in a browser\n"
        f"  python dags/standalone.py {config}     a real Airflow over this company (make airflow)\n"
        f"  funnel targets -c {config} --ds {last_night} --campaign {campaign} --size 6000     a longer one\n"
        f"  funnel models -c {config}\n"
        f"  funnel tables -c {config} --views\n"
        f"  funnel sql -c {config} \"SELECT * FROM bands WHERE ds = '{last_night}' AND stage = '{last_stage}' "
        'ORDER BY band DESC"\n'
        f"  funnel sql -c {config}     a prompt; .help says what it takes\n"
        f"  funnel nightly -c {config} --ds {last_night}     runs that night again: the same partition\n"
        f'  {config}     the configuration; the README\'s "Your own data" says how to write yours'
    )


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"
