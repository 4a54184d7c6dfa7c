"""The night a report is about: what ran, what was scored, what came before; and the queries that sections share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import zip_longest
from typing import Any

import duckdb
import numpy as np

from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.report.formats import pluralise_noun


@dataclass(frozen=True)
class NightWarning:
    """A line of warning, and whether the night before had none like it."""

    stage: str
    text: str
    is_new: bool


@dataclass(frozen=True)
class Night:
    """One night. Tables may be empty and figures missing: a failed night is read as it is.

    `before` is the latest earlier night that has scores.
    """

    settings: Settings
    connection: duckdb.DuckDBPyConnection
    ds: date
    before: date | None
    runs: list[dict[str, Any]]
    """The latest run of each stage, in the order they started."""
    scores: dict[str, Any] | None
    """`users`, `model`, `scored_at` and `expected` (outcomes of the last stage from one exposure each)."""

    @property
    def stages(self) -> tuple[str, ...]:
        return self.settings.funnel.stage_names

    @property
    def exposure(self) -> str:
        """What the funnel calls an exposure, such as `message`."""
        return self.settings.funnel.exposure_word

    @property
    def exposures(self) -> str:
        return pluralise_noun(self.exposure)

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """The stages whose latest run failed, newest first."""
        return [run for run in reversed(self.runs) if run["status"] != "ok"]

    @property
    def is_monitored(self) -> bool:
        """Whether monitoring has run since the night was scored."""
        scored = self.scores["scored_epoch"] if self.scores else None
        return any(run["stage"] == "monitor" and (scored is None or run["epoch"] >= scored) for run in self.runs)

    @cached_property
    def warnings(self) -> list[NightWarning]:
        earlier = {(stage, topic) for stage, topic, _ in _list_warnings(_read_runs(self.connection, self.before))}
        return [
            NightWarning(stage, line, is_new=self.before is not None and (stage, topic) not in earlier)
            for stage, topic, line in _list_warnings(self.runs)
        ]

    @property
    def to_do(self) -> str:
        """The operator's next step."""
        again = f"funnel nightly --ds {self.ds}"
        if self.scores and any(run["stage"] == "monitor" for run in self.failures):
            return (
                "Make no list from these scores until monitoring passes: fix the cause it names, then run "
                f"funnel monitor --ds {self.ds}."
            )
        if self.failures:
            return f"Fix what failed, then run the night again: {again}. Nothing is counted twice."
        if not self.scores:
            return f"Score the night: {again}."
        if not self.is_monitored:
            return f"Make no list from these scores before they are monitored: funnel monitor --ds {self.ds}."
        if self.warnings:
            return "Read the warnings below before you use the scores."
        return "Nothing: the scores may be used."

    def query(self, text: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(text, parameters).fetchall()

    def read_column(self, name: str, ds: date) -> np.ndarray:
        """A column of a night's scores."""
        text = f"SELECT {name} FROM user_scores WHERE ds = ? ORDER BY user_id"
        column: np.ndarray = self.connection.execute(text, [ds]).fetchnumpy()[name]
        return column


def read_night(settings: Settings, connection: duckdb.DuckDBPyConnection, ds: date) -> Night:
    """Read a night from the connection's tables.

    Raises:
        FunnelError: nothing ran for it; names the newest that has.
    """
    runs = _read_runs(connection, ds)
    if not runs:
        raise FunnelError(_describe_missing_night(connection, ds))
    ((before,),) = connection.execute("SELECT max(ds) FROM user_scores WHERE ds < ?", [ds]).fetchall()
    return Night(settings, connection, ds, before, runs, _read_scores(connection, ds, settings.funnel.stage_names[-1]))


def _read_runs(connection: duckdb.DuckDBPyConnection, ds: date | None) -> list[dict[str, Any]]:
    return _query_dicts(
        connection,
        "SELECT stage, status, rows_in, rows_out, duplicates, quarantined, seconds, warnings, warning_topics, message, "
        "strftime(started_at, '%Y-%m-%d %H:%M') AS started, epoch(started_at) AS epoch FROM runs WHERE ds = $ds "
        "QUALIFY row_number() OVER (PARTITION BY stage ORDER BY started_at DESC) = 1 ORDER BY started_at",
        {"ds": ds},
    )


def _describe_missing_night(connection: duckdb.DuckDBPyConnection, ds: date) -> str:
    ((newest,),) = connection.execute("SELECT max(ds) FROM runs").fetchall()
    known = f"the newest night that ran is {newest}" if newest else "no night has run yet"
    return f"nothing ran for {ds}, {known}: run `funnel nightly --ds {ds}` first"


def _read_scores(connection: duckdb.DuckDBPyConnection, ds: date, last_stage: str) -> dict[str, Any] | None:
    (scores,) = _query_dicts(
        connection,
        f"SELECT count(*) AS users, any_value(model_version) AS model, sum(p_{last_stage}) AS expected, "
        "strftime(max(scored_at), '%Y-%m-%d %H:%M') AS scored_at, epoch(max(scored_at)) AS scored_epoch "
        "FROM user_scores WHERE ds = $ds",
        {"ds": ds},
    )
    return scores if scores["users"] else None


def _query_dicts(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    result = connection.execute(query, parameters)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _list_warnings(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Stage, topic and line of each warning; the topic is empty in runs recorded before the column existed."""
    return [
        (run["stage"], topic, line)
        for run in runs
        for line, topic in zip_longest(
            run["warnings"].splitlines(), (run["warning_topics"] or "").splitlines(), fillvalue=""
        )
    ]
