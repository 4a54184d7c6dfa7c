"""Which list to measure: the versions of campaigns' lists and which of their stages are mature."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import compress
from typing import Any

import duckdb

from pipeline.config.funnel import Stage
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError


@dataclass(frozen=True)
class ListVersion:
    """A version of a campaign's list."""

    ds: date
    campaign: str
    version: int
    goal: str
    send_on: date
    is_measured: bool
    """Whether results are about this version: the newest that was exported, else the newest."""
    mature: tuple[Stage, ...]
    """The stages whose windows have passed, in the funnel's order."""
    immature: tuple[Stage, ...]
    left_out: int
    """Targets who are not in the file that went out: they had withdrawn consent or completed by then."""

    @property
    def is_mature(self) -> bool:
        """Whether the outcomes of the goal are known."""
        return self.goal in (stage.name for stage in self.mature)

    def maturity_date(self, stage: Stage) -> date:
        """The night on which a stage's window will have passed, or did."""
        return self.send_on + timedelta(stage.window_days)


def choose_list(
    connection: duckdb.DuckDBPyConnection, settings: Settings, campaign: str, ds: date | None, version: int | None
) -> ListVersion:
    """The version of a campaign's list to measure.

    Args:
        ds: the list's night; by default the newest whose goal is mature.
        version: by default the newest that was exported, else the newest.

    Raises:
        FunnelError: no such campaign, list or version, or its goal is no longer a stage; or none of its stages is
            mature, with the dates when they will be.
    """
    lists = _find_lists(connection, settings, "campaign_id = $campaign", {"campaign": campaign})
    if not lists:
        names = connection.execute("SELECT DISTINCT campaign_id FROM targets ORDER BY 1").fetchall()
        known = f"lists exist for {', '.join(name for (name,) in names)}" if names else "no campaign has one yet"
        raise FunnelError(f"no list of campaign {campaign!r}: {known}; `funnel targets` makes one")
    of_night = [each for each in lists if ds in (None, each.ds)]
    if not of_night:
        nights = ", ".join(str(night) for night in sorted({each.ds for each in lists}, reverse=True)[:5])
        raise FunnelError(f"no list of campaign {campaign!r} for {ds}; the newest are for {nights}")
    candidates = [each for each in of_night if (each.is_measured if version is None else each.version == version)]
    if not candidates:
        versions = ", ".join(str(each.version) for each in reversed(of_night) if each.ds == of_night[0].ds)
        raise FunnelError(
            f"no version {version} of campaign {campaign!r} for {of_night[0].ds}; its versions are {versions}"
        )
    chosen = next((each for each in candidates if each.is_mature), candidates[0])
    _require_goal(settings, chosen)
    _require_outcomes(chosen, needs_goal=ds is None)
    return chosen


def find_matured_lists(connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date) -> list[ListVersion]:
    """The measured versions whose goal had matured by the night `ds`, newest first."""
    return [
        each
        for each in _find_lists(connection, settings, "ds < $ds AND is_measured", {"ds": ds})
        for goal in each.mature
        if goal.name == each.goal and each.maturity_date(goal) <= ds
    ]


def select_columns(kind: str, stages: Sequence[str]) -> str:
    """A view's columns of one kind, one per stage."""
    return ", ".join(f"{kind}_{stage}" for stage in stages)


def _find_lists(
    connection: duckdb.DuckDBPyConnection, settings: Settings, condition: str, parameters: Mapping[str, Any]
) -> list[ListVersion]:
    """Newest first."""
    stages = settings.funnel.stages
    rows = connection.execute(
        "SELECT ds, campaign_id, version, goal, send_on, is_measured, left_out, "
        f"{select_columns('mature', settings.funnel.stage_names)} FROM campaign_lists "
        f"WHERE {condition} ORDER BY ds DESC, campaign_id, version DESC",
        parameters,
    ).fetchall()
    return [
        ListVersion(
            ds,
            campaign,
            version,
            goal,
            send_on,
            is_measured,
            mature=tuple(compress(stages, matured)),
            immature=tuple(stage for stage, is_mature in zip(stages, matured, strict=True) if not is_mature),
            left_out=left_out,
        )
        for ds, campaign, version, goal, send_on, is_measured, left_out, *matured in rows
    ]


def _require_goal(settings: Settings, chosen: ListVersion) -> None:
    if chosen.goal not in settings.funnel.stage_names:
        raise FunnelError(
            f"the list of {chosen.campaign!r} for {chosen.ds} was made for {chosen.goal!r}, which is no longer a stage "
            f"of the configuration; its stages are {', '.join(settings.funnel.stage_names)}"
        )


def _require_outcomes(chosen: ListVersion, *, needs_goal: bool) -> None:
    if chosen.is_mature or (chosen.mature and not needs_goal):
        return
    dates = ", ".join(f"{stage.name} on {chosen.maturity_date(stage)}" for stage in chosen.immature)
    hint = f"; --ds {chosen.ds} shows the mature stages" if chosen.mature else ""
    raise FunnelError(
        f"the list of {chosen.campaign!r} for {chosen.ds} is not mature yet: it matures for {dates}{hint}"
    )
