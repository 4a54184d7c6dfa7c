"""A night's report: one HTML file that needs nothing else to be read, for whoever asks how the night went."""

from collections.abc import Callable
from datetime import date
from importlib.resources import files

import duckdb
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pipeline.analyst.connection import connect
from pipeline.errors import FunnelError
from pipeline.files import write_atomically
from pipeline.report.backtest import backtest
from pipeline.report.campaigns import campaigns
from pipeline.report.glossary import GLOSSARY
from pipeline.report.model import drift, experts
from pipeline.report.night import Night, read_night
from pipeline.report.operations import audits, stages, where_next
from pipeline.report.parts import Section, about
from pipeline.report.scores import funnel_by_day, in_figures, scores_and_bands, what_changed
from pipeline.runs.context import Context

TABLES = "runs, metrics, audits, user_scores, activity, events, feature_samples, targets"
SECTIONS: tuple[Callable[[Night], Section | None], ...] = (
    in_figures,
    what_changed,
    scores_and_bands,
    backtest,
    funnel_by_day,
    drift,
    experts,
    campaigns,
    audits,
    stages,
    where_next,
)
"""In the order in which a reader asks; one of which the night has nothing is None."""


def report(context: Context, ds: date) -> str:
    """Write a night's report to `<[reports] path>/<ds>.html`, whole or not at all; the same night is the same file.

    A night that failed has one too: it starts with the cause.

    Returns: the file's path, or its URI where the configuration names one.

    Raises:
        FunnelError: nothing ran for the night (names the newest that has), or the file cannot be written.
    """
    settings = context.settings
    try:
        with connect(settings, TABLES) as connection:
            night = read_night(settings, connection, ds)
            page = _render(night, [section for build in SECTIONS if (section := build(night))])
    except duckdb.Error as error:
        raise FunnelError(f"report {ds}: {str(error).strip().splitlines()[0]}", stage="report") from error
    path = f"{settings.resolve(settings.reports.path).rstrip('/')}/{ds}.html"
    write_atomically(path, page.encode(), what=f"the report {path}", see="[reports] path")
    context.notify(f"report    {ds}  {path}")
    return path


def _render(night: Night, sections: list[Section]) -> str:
    # Everything is escaped but the charts and the style, which are ours.
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["about"] = about
    template, style = (
        files("pipeline.report").joinpath(f"templates/report.{kind}.j2").read_text("utf-8") for kind in ("html", "css")
    )
    return environment.from_string(template).render(
        night=night, sections=sections, glossary=GLOSSARY, style=Markup(style)
    )
