"""`funnel demo`: a simulated company from its first day to a target list, its scores compared with the truth."""

import shutil
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from model.metrics import auc, expected_calibration_error, log_loss
from pipeline.campaigns.exports import export
from pipeline.campaigns.targets import make_list
from pipeline.campaigns.targets_table import print_list
from pipeline.config.settings import Settings, load
from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.nights import load_history, nightly
from pipeline.report.report import report
from pipeline.runs.context import Context
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation, Summary
from pipeline.terminal import TextTable, show_progress, show_training_progress
from pipeline.training.manually import promote_manually
from pipeline.training.steps import train

START = date(2026, 1, 1)
CONFIG = "funnel.toml"
HEAD_ROWS = 8


@dataclass(frozen=True)
class StageQuality:
    """How well one stage's published scores predicted the texts sent the day after each night.

    `ceiling` is the AUC of the true probabilities.
    """

    stage: str
    texts: int
    positives: int
    auc: float | None
    log_loss: float | None
    calibration_error: float | None
    ceiling: float | None


def demo(out: Path, *, users: int, days: int, nights: int) -> None:
    """Simulate, load, train, run the last nights one by one and make a target list; print results and next steps.

    Raises:
        FunnelError: `out` holds files that no demo made.
    """
    _clear(out)
    simulate_company(out / "source", users=users, days=days, start=START, seed=Simulation.seed)
    config = out / CONFIG
    config.write_text(files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8"), encoding="utf-8")
    settings = load(config)
    # Stop one night before the last simulated day: that day's texts are what the last night's scores predict.
    last_night = START + timedelta(days=days - 2)
    trained = last_night - timedelta(days=nights)

    load_history(Context(settings), DateRange(START, trained))
    with show_training_progress() as on_progress:
        version = train(Context(settings), trained, on_progress=on_progress)
    _promote_if_none(Context(settings), version, trained)
    scored = DateRange(trained + timedelta(days=1), last_night)
    with show_progress() as progress:
        task = progress.add_task("nights", total=len(scored), note="")
        for ds in scored:
            progress.update(task, note=ds.isoformat())
            nightly(Context(settings, notify=progress.console.print), ds)
            progress.advance(task)

    scores = Context(settings).warehouse.arrow("user_scores", first=scored.first, last=scored.last).to_pandas()
    quality = compare_with_truth(scores, out / "source" / "truth" / "exposures.parquet", settings)
    _show_scores(scores, last_night, settings)
    _show_quality(scores, quality)
    _make_list(settings, last_night)
    _show_next(config, last_night, settings)


def _promote_if_none(context: Context, version: str, trained: date) -> None:
    """Promote by hand what training refused: a small demo has too few positives to beat a constant by an interval."""
    if context.registry.champion(trained) is None:
        print(promote_manually(context, version, reason="a demo goes on"))


def simulate_company(out: Path, *, users: int, days: int, start: date, seed: int) -> Summary:
    """Simulate a company into a new folder, with a progress bar; print one line about it.

    Raises:
        FunnelError: an argument is wrong, or `out` is not empty.
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


def compare_with_truth(scores: pd.DataFrame, truth: Path, settings: Settings) -> list[StageQuality]:
    """Compare each night's published scores with the true outcomes of the texts sent the next day.

    Args:
        scores: rows of `user_scores`.
        truth: Parquet of the simulator's exposures, with `p_<stage>` and `y_<stage>` of each.
    """
    texts = pq.read_table(truth).to_pandas()
    texts["ds"] = pd.to_datetime(texts["sent_on"]) - pd.Timedelta(days=1)
    dated = scores.assign(ds=pd.to_datetime(scores["ds"]))
    matched = dated.merge(texts, on=["user_id", "ds"], suffixes=("", "_true"))
    quality = []
    for stage in settings.funnel.stage_names:
        outcome = matched[f"y_{stage}"].to_numpy(dtype=float)
        score = matched[f"p_{stage}"].to_numpy()
        quality.append(
            StageQuality(
                stage=stage,
                texts=len(matched),
                positives=int(outcome.sum()),
                auc=auc(outcome, score),
                log_loss=log_loss(outcome, score),
                calibration_error=expected_calibration_error(outcome, score),
                ceiling=auc(outcome, matched[f"p_{stage}_true"].to_numpy()),
            )
        )
    return quality


def _clear(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        # Only a simulated company knows the truth: a real one has a configuration, too.
        if not (out / "source" / "truth").exists():
            raise FunnelError(f"{out} holds files that no demo made: name an empty folder with --out")
        shutil.rmtree(out)


def _make_list(settings: Settings, last_night: date) -> None:
    """Make and export the campaign's list, then rewrite the night's report to include it."""
    context = Context(settings)
    (campaign,) = settings.campaigns
    try:
        targets = make_list(context, last_night, campaign)
    except FunnelError as error:
        # A small company may be refused a list: the demo goes on and shows why.
        print(f"\nno target list: {error}")
        return
    print_list(targets)
    export(context, last_night, campaign)
    report(context, last_night)


def _show_scores(scores: pd.DataFrame, last_night: date, settings: Settings) -> None:
    stages = settings.funnel.stage_names
    newest = scores[pd.to_datetime(scores["ds"]) == pd.Timestamp(last_night)]
    head = newest.sort_values([f"p_{stages[-1]}", "user_id"], ascending=[False, True]).head(HEAD_ROWS)
    print(f"\nuser_scores of {last_night}, model {head['model_version'].iloc[0]}: {HEAD_ROWS} of {len(newest):,} users")
    table = TextTable()
    table.add_column("user_id")
    for column in (*(f"p_{stage}" for stage in stages), *(f"band_{stage}" for stage in stages)):
        table.add_column(column, is_number=True)
    for row in head.to_dict("records"):
        probabilities = (f"{row[f'p_{stage}']:.4f}" for stage in stages)
        table.add_row(row["user_id"], *probabilities, *(str(row[f"band_{stage}"]) for stage in stages))
    table.print()


def _show_quality(scores: pd.DataFrame, quality: list[StageQuality]) -> None:
    print(f"Scores of {scores['ds'].nunique()} nights compared with the outcomes of the texts sent the day after")
    table = TextTable("stage")
    for column in ("texts", "positives", "AUC", "ceiling", "log loss", "calibration error"):
        table.add_column(column, is_number=True)
    for each in quality:
        figures = (each.auc, each.ceiling, each.log_loss, each.calibration_error)
        table.add_row(each.stage, f"{each.texts:,}", f"{each.positives:,}", *map(_format_number, figures))
    table.print()
    print("ceiling: AUC of the true probabilities, which only the simulator knows")


def _show_next(config: Path, last_night: date, settings: Settings) -> None:
    last_stage = settings.funnel.stage_names[-1]
    (campaign,) = settings.campaigns
    print(
        f"\nNext:\n"
        f"  {settings.resolve(settings.reports.path)}/{last_night}.html     the night's report: open it in a browser\n"
        f"  python dags/standalone.py {config}     a real Airflow over this company (make airflow)\n"
        f"  funnel targets -c {config} --ds {last_night} --campaign {campaign} --size 6000     a longer list\n"
        f"  funnel models -c {config}\n"
        f"  funnel tables -c {config} --views\n"
        f"  funnel sql -c {config} \"SELECT * FROM bands WHERE ds = '{last_night}' AND stage = '{last_stage}' "
        'ORDER BY band DESC"\n'
        f"  funnel sql -c {config}     a prompt; try .help\n"
        f"  funnel nightly -c {config} --ds {last_night}     run that night again: the same partition\n"
        f'  {config}     the configuration; pipeline/README.md, "Your own data", says how to write your own'
    )


def _format_number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.4f}"
