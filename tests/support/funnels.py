"""Pieces of companies: source rows, and configurations without what a test does not need."""

from collections.abc import Mapping
from datetime import date

from tests.support.company import Company

WITHOUT_USERS: Mapping[str, str] = {
    '[source.users]\npath = "source/users/{ds}"\ncolumns = { user_id = "uid", consent = "sms_consent" }\n': "",
    'categorical = ["city_tier"]\nnumeric = ["age"]\n': "",
}
"""Replacements in the tests' funnel that leave it without `[source.users]`."""


def sms(
    id: str | None,
    uid: str | None,
    ts: str | None,
    *,
    type: str | None = "sms_sent",
    campaign: str | None = None,
    offer: str | None = None,
) -> dict[str, str | None]:
    """A row of the source's events."""
    return {"id": id, "uid": uid, "type": type, "ts": ts, "campaign": campaign, "offer": offer}


def files_by_day(company: Company, name: str) -> dict[date, tuple[str, ...]]:
    """The data files of each partition as readers see them: equal paths are a partition that nobody touched."""
    warehouse = company.context().warehouse
    column = warehouse.tables[name].partition
    days = {row[column] for row in company.rows(name)}
    return {day: warehouse.pin(name, first=day, last=day).files for day in sorted(days)}
