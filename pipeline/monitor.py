"""A night's figures into `metrics`: volumes, freshness, and how far the scores moved since the night before.

A rerun replaces the night's figures in one commit, so that a reader finds each of them once. DuckDB and numpy do the
work: no JVM.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

import duckdb
import numpy as np

from pipeline.analyst import connect
from pipeline.context import Context
from pipeline.dates import DateRange, end_of_day
from pipeline.errors import FunnelError
from pipeline.runs import Counts, recorded

PUBLISHING = ("score", "publish")
"""The stages that bring scores to their readers; the last of them to end says when."""
DECILES = np.arange(1, 10) / 10


@dataclass(frozen=True)
class Meaning:
    """What a figure says to a person, and how its value reads."""

    title: str
    explained: str
    kind: Literal["count", "share", "hours", "probability", "index"]


MEANINGS = {
    "rows_landed": Meaning("Rows landed", "events and users that arrived and were kept", "count"),
    "quarantined_share": Meaning("Quarantined", "share of the rows read that were rejected", "share"),
    "hours_to_scores": Meaning("Scores ready after", "from the end of the day to its scores", "hours"),
    "users_scored": Meaning("Users scored", "everyone who may be texted", "count"),
    "users_in_common": Meaning("Scored the night before, too", "share of tonight's users", "share"),
    "mean_score": Meaning("Mean score", "share of users expected to get there, were all texted", "probability"),
    "score_psi": Meaning(
        "Shift of the scores",
        "PSI against the night before: 0 is none, above 0.1 look at it, above 0.25 large",
        "index",
    ),
}
"""All that `monitor` measures, by the name it has in `metrics`, in the order a report tells it."""


@dataclass(frozen=True)
class Measured:
    """One figure; of one stage, or of the whole night."""

    name: str
    value: float
    stage: str | None = None


def monitor(context: Context, ds: date) -> None:
    """Measure a night and put its figures into `metrics` in place of those of an earlier run.

    Raises:
        FunnelError: the night has no scores; names the newest that has.
    """
    nights = context.warehouse.row_counts("user_scores", first=date.min, last=date.max)
    if ds not in nights:
        newest = f"the newest night is {max(nights)}" if nights else "no night has any yet"
        raise FunnelError(f"no scores of {ds}, {newest}: run `funnel nightly --ds {ds}` first")
    with recorded(context, "monitor", DateRange(ds, ds)) as run:
        before = max((night for night in nights if night < ds), default=None)
        run.read(context.warehouse.pin("user_scores", first=before or ds, last=ds))
        connection = connect(context.settings, "user_scores, runs")
        stages = context.settings.funnel.stage_names
        figures = [
            *_volumes(connection, ds),
            *_freshness(connection, ds, end_of_day(ds, context.settings.zone)),
            *_scores(connection, ds, before, stages),
        ]
        names = ", ".join(f"'{name}'" for name in MEANINGS)
        context.warehouse.replace(
            "metrics",
            [vars(figure) | {"ds": ds, "run_id": context.run_id} for figure in figures],
            where=f"ds = '{ds}' AND name IN ({names})",
        )
        run.by_day = {ds: Counts(rows_in=nights[ds], rows_out=len(figures))}


def psi(earlier: np.ndarray, later: np.ndarray) -> float:
    """Population stability index of two samples: the sum over bins of (q - p) ln(q / p), p earlier, q later.

    Bins are the earlier sample's deciles; equal ones are one bin. Half a row is added to each bin, so that an empty
    one counts as rare, not as impossible. 0 for equal samples. With n and m rows chance alone gives about
    (bins - 1) (1/n + 1/m): few rows shift by themselves.

    The index and its usual bounds, 0.1 and 0.25, are Siddiqi's (Credit Risk Scorecards, Wiley 2006); what chance
    gives is from Yurdakul and Naranjo (Statistical properties of the population stability index, Journal of Risk
    Model Validation 14(4), 2020).

    >>> scores = np.linspace(0.01, 0.3, 1000)
    >>> psi(scores, scores)
    0.0
    >>> psi(scores, scores + 0.1) > 0.25
    True
    """
    edges = np.unique(np.quantile(earlier, DECILES))
    bins = len(edges) + 1
    p, q = (
        (np.bincount(np.searchsorted(edges, sample), minlength=bins) + 0.5) / (len(sample) + 0.5 * bins)
        for sample in (earlier, later)
    )
    return float(np.sum((q - p) * np.log(q / p)))


def _volumes(connection: duckdb.DuckDBPyConnection, ds: date) -> Iterator[Measured]:
    landed = connection.execute(
        "SELECT rows_in, rows_out, quarantined FROM runs WHERE ds = ? AND stage = 'ingest' AND status = 'ok' "
        "ORDER BY started_at DESC LIMIT 1",
        [ds],
    ).fetchone()
    if landed:
        rows_in, rows_out, quarantined = landed
        yield Measured("rows_landed", rows_out)
        yield Measured("quarantined_share", quarantined / rows_in if rows_in else 0.0)


def _freshness(connection: duckdb.DuckDBPyConnection, ds: date, midnight: datetime) -> Iterator[Measured]:
    """Hours from the end of the night's day, in the funnel's time zone, to the end of the run that wrote its scores."""
    published = connection.execute(
        "SELECT max(epoch(started_at) + seconds) FROM runs WHERE ds = $ds AND status = 'ok' "
        "AND run_id IN (SELECT run_id FROM user_scores WHERE ds = $ds) AND stage IN (SELECT unnest($stages))",
        {"ds": ds, "stages": list(PUBLISHING)},
    ).fetchone()
    if published and published[0] is not None:
        yield Measured("hours_to_scores", (published[0] - midnight.timestamp()) / 3600)


def _scores(
    connection: duckdb.DuckDBPyConnection, ds: date, before: date | None, stages: tuple[str, ...]
) -> Iterator[Measured]:
    columns = ", ".join(f'"p_{stage}"' for stage in stages)
    of_night = f"SELECT {columns} FROM user_scores WHERE ds = ?"
    tonight = connection.execute(of_night, [ds]).fetchnumpy()
    earlier = connection.execute(of_night, [before]).fetchnumpy() if before else None
    users = len(tonight[f"p_{stages[0]}"])
    yield Measured("users_scored", users)
    if before:
        ((common,),) = connection.execute(
            "SELECT count(*) FROM user_scores WHERE ds = ? "
            "AND user_id IN (SELECT user_id FROM user_scores WHERE ds = ?)",
            [ds, before],
        ).fetchall()
        yield Measured("users_in_common", common / users)
    for stage in stages:
        column = f"p_{stage}"
        yield Measured("mean_score", float(tonight[column].mean()), stage)
        if earlier:
            yield Measured("score_psi", psi(earlier[column], tonight[column]), stage)
