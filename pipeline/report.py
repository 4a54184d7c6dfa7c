"""A night's report: one HTML file that needs nothing else to be read, for whoever asks how the night went."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from importlib.resources import files
from typing import Any
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from pyarrow.fs import FileSystem

from pipeline.analyst import connect
from pipeline.config import Settings
from pipeline.context import Context
from pipeline.dates import DateRange
from pipeline.errors import FunnelError, first_line
from pipeline.monitor import MEANINGS
from pipeline.report_charts import distribution, means_by_band, rates_by_day
from pipeline.sections import EXPOSURE

RATE_DAYS = 30


@dataclass(frozen=True)
class Chart:
    """A drawing, what it is called, and what it shows in words for those who cannot see it."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Band:
    """One band of one stage: its users and their mean score."""

    band: int
    users: int
    mean: float


@dataclass(frozen=True)
class Facts:
    """What is known of one night; each part may be missing."""

    ds: date
    zone: str
    stages: tuple[str, ...]
    runs: list[dict[str, Any]]
    scores: dict[str, Any] | None
    """Users, model version and time of the night's scores."""
    before: date | None
    """The newest night before this one that has scores."""
    figures: list[dict[str, Any]]
    """What `monitor` measured: `meaning`, `stage` (None: the whole night), `tonight`, `before`."""
    bands: dict[str, list[Band]]
    score_charts: list[Chart]
    band_charts: list[Chart]
    rate_charts: list[Chart]

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """The stages whose latest run failed, the newest first."""
        return [run for run in reversed(self.runs) if run["status"] != "ok"]

    @cached_property
    def warnings(self) -> list[tuple[str, str]]:
        """Stage and text of each warning."""
        return [(run["stage"], line) for run in self.runs for line in run["warnings"].splitlines()]


def report(context: Context, ds: date) -> str:
    """Write a night's report to `<[reports] path>/<ds>.html`, whole or not at all; the same night is the same file.

    A night that failed has one too: it starts with the cause.

    Returns: the file's path, or its URI where the configuration names one.

    Raises:
        FunnelError: nothing ran for the night (names the newest that has), or the file cannot be written.
    """
    settings = context.settings
    page = _render(_facts(settings, ds))
    path = _write(settings.resolve(settings.reports.path), f"{ds}.html", page)
    context.notify(f"report    {ds}  {path}")
    return path


def _facts(settings: Settings, ds: date) -> Facts:
    try:
        connection = connect(settings, "runs, metrics, user_scores, activity")
        runs = _latest_runs(connection, ds)
        if not runs:
            raise FunnelError(_nothing_ran(connection, ds))
        stages = settings.funnel.stage_names
        scores = _scores(connection, ds)
        ((before,),) = connection.execute("SELECT max(ds) FROM user_scores WHERE ds < ?", [ds]).fetchall()
        bands = _bands(connection, ds, stages) if scores else {}
        return Facts(
            ds=ds,
            zone=settings.funnel.timezone,
            stages=stages,
            runs=runs,
            scores=scores,
            before=before,
            figures=_figures(connection, ds, before, stages),
            bands=bands,
            score_charts=_score_charts(connection, ds, before, stages) if scores else [],
            band_charts=_band_charts(bands),
            rate_charts=_rate_charts(connection, ds, stages),
        )
    except duckdb.Error as error:
        raise FunnelError(f"report {ds}: {str(error).strip().splitlines()[0]}") from error


def _latest_runs(connection: duckdb.DuckDBPyConnection, ds: date) -> list[dict[str, Any]]:
    """The latest run of each stage that ran for the night, in the order they started."""
    return _rows(
        connection,
        "SELECT stage, status, rows_in, rows_out, duplicates, quarantined, seconds, warnings, message, "
        "strftime(started_at, '%Y-%m-%d %H:%M') AS started FROM runs WHERE ds = $ds "
        "QUALIFY row_number() OVER (PARTITION BY stage ORDER BY started_at DESC) = 1 ORDER BY started_at",
        {"ds": ds},
    )


def _nothing_ran(connection: duckdb.DuckDBPyConnection, ds: date) -> str:
    ((newest,),) = connection.execute("SELECT max(ds) FROM runs").fetchall()
    known = f"the newest night that ran is {newest}" if newest else "no night has run yet"
    return f"nothing ran for {ds}, {known}: run `funnel nightly --ds {ds}` first"


def _scores(connection: duckdb.DuckDBPyConnection, ds: date) -> dict[str, Any] | None:
    (scores,) = _rows(
        connection,
        "SELECT count(*) AS users, any_value(model_version) AS model, "
        "strftime(max(scored_at), '%Y-%m-%d %H:%M') AS scored_at FROM user_scores WHERE ds = $ds",
        {"ds": ds},
    )
    return scores if scores["users"] else None


def _figures(
    connection: duckdb.DuckDBPyConnection, ds: date, before: date | None, stages: Sequence[str]
) -> list[dict[str, Any]]:
    """What `monitor` measured, tonight and the night before, in its order and the funnel's."""
    measured = {
        (day, name, stage): value
        for day, name, stage, value in connection.execute(
            "SELECT ds, name, stage, value FROM metrics WHERE ds IN (?, ?)", [ds, before or ds]
        ).fetchall()
    }
    return [
        {
            "meaning": meaning,
            "stage": stage,
            "tonight": measured[ds, name, stage],
            "before": measured.get((before, name, stage)),
        }
        for name, meaning in MEANINGS.items()
        for stage in (None, *stages)
        if (ds, name, stage) in measured
    ]


def _bands(connection: duckdb.DuckDBPyConnection, ds: date, stages: Sequence[str]) -> dict[str, list[Band]]:
    """Each stage's bands, the lowest first; one that nobody is in is missing."""
    return {
        stage: [
            Band(*row)
            for row in connection.execute(
                f"SELECT band_{stage}, count(*), avg(p_{stage}) FROM user_scores WHERE ds = ? GROUP BY ALL ORDER BY 1",
                [ds],
            ).fetchall()
        ]
        for stage in stages
    }


def _score_charts(
    connection: duckdb.DuckDBPyConnection, ds: date, before: date | None, stages: Sequence[str]
) -> list[Chart]:
    charts = []
    for stage in stages:
        scores = _column(connection, f"p_{stage}", ds)
        earlier = _column(connection, f"p_{stage}", before) if before else None
        half, top = float(np.median(scores)), float(np.quantile(scores, 0.99))
        caption = f"Half of the users score below {percent(half)}, one in a hundred above {percent(top)}."
        if before:
            caption += f" The outline is {before}."
        charts.append(Chart(stage, Markup(distribution(f"scores-{stage}", scores, earlier)), caption))
    return charts


def _band_charts(bands: Mapping[str, Sequence[Band]]) -> list[Chart]:
    charts = []
    for stage, of_stage in bands.items():
        means = {band.band: band.mean for band in of_stage}
        mean = sum(band.mean * band.users for band in of_stage) / sum(band.users for band in of_stage)
        best = max(means)
        caption = f"Band {best} averages {percent(means[best])}, all users {percent(mean)} (dashed)."
        charts.append(Chart(stage, Markup(means_by_band(f"bands-{stage}", means, mean)), caption))
    return charts


def _rate_charts(connection: duckdb.DuckDBPyConnection, ds: date, stages: Sequence[str]) -> list[Chart]:
    """Each stage's events per message of the same day, as known by the night."""
    days = DateRange(ds - timedelta(days=RATE_DAYS - 1), ds)
    counted = {
        (day, event): n
        for day, event, n in connection.execute(
            "SELECT event_date, event, sum(n)::BIGINT FROM activity "
            "WHERE landed_on BETWEEN $first AND $last AND event_date BETWEEN $first AND $last GROUP BY ALL",
            {"first": days.first, "last": days.last},
        ).fetchall()
    }
    messages = {day: n for (day, event), n in counted.items() if event == EXPOSURE}
    if not messages:
        return []
    charts = []
    for stage in stages:
        rates = [counted.get((day, stage), 0) / messages[day] if day in messages else None for day in days]
        overall = sum(counted.get((day, stage), 0) for day in messages) / sum(messages.values())
        charts.append(
            Chart(
                stage,
                Markup(rates_by_day(f"rates-{stage}", list(days), rates)),
                f"{percent(overall)} over these days"
                + ("." if rates[-1] is None else f", {percent(rates[-1])} on the last one."),
            )
        )
    return charts


def _render(facts: Facts) -> str:
    # Everything is escaped but the charts, which are ours.
    environment = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "figure": figure}
    template = files("pipeline").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(night=facts, last_stage=facts.stages[-1])


def percent(value: float) -> str:
    """A share as a percentage of three digits.

    >>> percent(0.0974271), percent(0.00861)
    ('9.74%', '0.861%')
    """
    return f"{100 * value:.3g}%"


def figure(value: float | None, kind: str) -> str:
    """A figure of `monitor` as a person reads it.

    >>> figure(2704.0, "count"), figure(5.25, "hours"), figure(6212.2, "hours"), figure(0.0032, "index")
    ('2,704', '5.2 h', '259 days', '0.003')
    """
    match kind:
        case _ if value is None:
            return "–"
        case "count":
            return f"{value:,.0f}"
        case "hours":
            return f"{value:.1f} h" if abs(value) < 48 else f"{value / 24:,.0f} days"
        case "index":
            return f"{value:.3f}"
    return percent(value)


def _write(folder: str, name: str, page: str) -> str:
    """Under another name first: whoever opens the report sees the old one or the new, never half."""
    target = f"{folder.rstrip('/')}/{name}"
    try:
        filesystem, path = FileSystem.from_uri(folder)
        filesystem.create_dir(path, recursive=True)
        draft = f"{path}/.{name}.{uuid4().hex}"
        try:
            with filesystem.open_output_stream(draft) as stream:
                stream.write(page.encode())
            filesystem.move(draft, f"{path}/{name}")
        except OSError:
            with suppress(OSError):
                filesystem.delete_file(draft)
            raise
    except (OSError, pa.ArrowInvalid) as error:
        raise FunnelError(f"the report {target} cannot be written: {first_line(error)}; see [reports] path") from None
    return target


def _rows(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    result = connection.execute(query, parameters)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _column(connection: duckdb.DuckDBPyConnection, name: str, ds: date) -> np.ndarray:
    column: np.ndarray = connection.execute(f"SELECT {name} FROM user_scores WHERE ds = ?", [ds]).fetchnumpy()[name]
    return column
