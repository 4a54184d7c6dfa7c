"""What has landed since a list was made: who of it may no longer be texted, and how old the list is."""

from dataclasses import dataclass
from datetime import date

import duckdb

from pipeline.campaigns.decisions import create_known_users
from pipeline.config.settings import Settings
from pipeline.runs.context import Context

LANDING_TABLES = ("events", "users", "activity")


@dataclass(frozen=True)
class Recheck:
    """The targets of one version of a list that may still be texted, best first, and how many may not."""

    user_ids: tuple[str, ...]
    withdrawn: int
    """Targets who have withdrawn consent."""
    completed: int
    """Other targets who have reached the last stage."""

    @property
    def left_out(self) -> int:
        return self.withdrawn + self.completed

    @property
    def targets(self) -> int:
        return len(self.user_ids) + self.left_out


def recheck_targets(
    connection: duckdb.DuckDBPyConnection, settings: Settings, ds: date, campaign: str, version: int
) -> Recheck:
    """Check the targets of a list against everything that has landed, whatever the list's night.

    A day whose events have landed may have no activity yet, so its completions are looked for in the events.

    Args:
        connection: has targets, users, activity and events.
    """
    create_known_users(connection, settings, date.max)
    rows = connection.execute(
        """
        WITH completed AS (
          SELECT user_id FROM known_users WHERE completed_on IS NOT NULL
          UNION
          SELECT user_id FROM events WHERE event = $last_stage AND landed_on > $ds
        ),
        withdrawn AS (SELECT user_id FROM known_users WHERE consent = false)
        SELECT user_id, user_id IN (FROM withdrawn), user_id IN (FROM completed)
        FROM targets
        WHERE ds = $ds AND campaign_id = $campaign AND version = $version AND arm = 'target'
        ORDER BY rank
        """,
        {"ds": ds, "campaign": campaign, "version": version, "last_stage": settings.funnel.stage_names[-1]},
    ).fetchall()
    return Recheck(
        user_ids=tuple(user for user, has_withdrawn, has_completed in rows if not (has_withdrawn or has_completed)),
        withdrawn=sum(has_withdrawn for _, has_withdrawn, _ in rows),
        completed=sum(has_completed and not has_withdrawn for _, has_withdrawn, has_completed in rows),
    )


def find_newest_landing(context: Context) -> date | None:
    """The newest landing day of the source's data; None if nothing has landed."""
    days = (context.warehouse.row_counts(name, first=date.min, last=date.max) for name in LANDING_TABLES)
    return max((day for counts in days for day in counts), default=None)


def describe_age(ds: date, landed_until: date | None, campaign: str) -> str | None:
    """One line if data has landed since the night of a list; None otherwise."""
    if landed_until is None or landed_until <= ds:
        return None
    return (
        f"the list is of {ds}, and data has landed until {landed_until}: once that night is scored, "
        f"`funnel targets --ds {landed_until} --campaign {campaign}` makes a list that knows it"
    )
