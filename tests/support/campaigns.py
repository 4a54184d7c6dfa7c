"""Companies with campaigns, and their warehouse on one night."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from tests.support.company import Company
from tests.support.nights import publish, publish_scores, record

D = date(2026, 3, 1)
MONITORED = datetime(2026, 3, 2, 2, tzinfo=UTC)
"""When monitoring passed the scores of `publish_scores`."""
WITH_ZONES = {'consent = "sms_consent" }': 'consent = "sms_consent", time_zone = "tz" }'}
"""A replacement in the tests' funnel that maps users' time zones."""
CAP_AND_QUIET = """
[targeting]
frequency_cap = { messages = 2, days = 3 }
quiet_hours = ["21:00", "08:00"]
"""
CAMPAIGN = """
[campaigns.{name}]
worth = {{ complete = 100, click = 1 }}
sms_cost = {sms_cost}
control_share = {control_share}
{more}
"""


def campaign(name: str = "spring", *, sms_cost: float = 1.0, control_share: float = 0.0, more: str = "") -> str:
    """A campaign's section; by default without a control group, so that small lists are enough."""
    return CAMPAIGN.format(name=name, sms_cost=sms_cost, control_share=control_share, more=more)


def make_night(
    make_company: Callable[..., Company],
    scores: Mapping[str, float],
    text: str,
    *,
    users: Iterable[Mapping[str, Any]] | None = None,
    day: date = D,
) -> Company:
    """A company of these users (by default those with scores) on the evening of `day`, which monitoring has passed."""
    company = make_company(text, replace=WITH_ZONES)
    publish(company, "users", day, users if users is not None else [{"user_id": user} for user in scores])
    publish_scores(company, day, scores)
    record(company, day, "monitor", MONITORED)
    return company


def make_exposure(user: str, at: str, *, number: int = 0) -> dict[str, Any]:
    """An exposure as a row of `events`."""
    moment = datetime.fromisoformat(at)
    return {"event_id": f"{user}-{at}-{number}", "user_id": user, "event": "exposure", "event_time": moment}


def read_reasons(company: Company, version: int = 1, *, campaign: str = "spring") -> dict[str, tuple[str, str]]:
    """Arm and reason of each user of a list; no user is on it twice."""
    rows = [row for row in company.rows("targets") if (row["version"], row["campaign_id"]) == (version, campaign)]
    found = {row["user_id"]: (row["arm"], row["reason"]) for row in rows}
    assert len(found) == len(rows)
    return found
