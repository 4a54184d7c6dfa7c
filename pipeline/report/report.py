"""A night's report: one self-contained HTML file that says how the night went.

To add a section, write a module in `pipeline/report/sections` with a function `build(night)` that returns a `Section`,
or None if the night has nothing to show. Add it to `SECTIONS` below, at its place in the page.
"""

from collections.abc import Callable
from datetime import date
from importlib.resources import files

import duckdb
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from pipeline.analyst.connection import connect
from pipeline.errors import FunnelError
from pipeline.files import write_atomically
from pipeline.report.formats import format_expected
from pipeline.report.glossary import build_glossary
from pipeline.report.kept import SEE, report_path
from pipeline.report.night import Night, read_night
from pipeline.report.parts import Section
from pipeline.report.sections import (
    audits,
    backtest,
    campaigns,
    changes,
    drift,
    experts,
    figures,
    funnel,
    next_steps,
    scores,
    stages,
    training,
)
from pipeline.runs.context import Context
from pipeline.text import show

TABLES = "runs, metrics, audits, user_scores, activity, events, feature_samples, targets"
SECTIONS: tuple[Callable[[Night], Section | None], ...] = (
    figures.build,
    changes.build,
    scores.build,
    backtest.build,
    funnel.build,
    drift.build,
    training.build,
    experts.build,
    campaigns.build,
    audits.build,
    stages.build,
    next_steps.build,
)
"""In the order of the page."""


def report(context: Context, ds: date) -> str:
    """Write a night's report to `<[reports] path>/<ds>.html`, whole or not at all; the same night is the same file.

    A failed night has a report too, which starts with the cause.

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
    path, storage = report_path(settings, ds), settings.storage.iceberg
    write_atomically(path, page.encode(), what=f"the report {path}", see=SEE, storage=storage)
    context.notify(f"report    {ds}  {path}")
    return path


def _show(value: object) -> object:
    """Text with its control characters visible, marks that turn its direction among them; other values as they are."""
    return show(value, keep="\n") if type(value) is str else value


def _render(night: Night, sections: list[Section]) -> str:
    # Everything is escaped except the charts and the style, which are our own.
    environment = Environment(
        undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_show
    )
    environment.filters["format_expected"] = format_expected
    template, style = (
        files("pipeline.report").joinpath(f"templates/report.{kind}.j2").read_text("utf-8") for kind in ("html", "css")
    )
    return environment.from_string(template).render(
        night=night,
        sections=sections,
        glossary=build_glossary(night.exposure, night.exposures),
        style=Markup(style),
    )
