"""The rules of a list that are worked out before SQL applies them: when a message comes, and how many there may be."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from pipeline.config.campaigns import Campaign, Targeting
from pipeline.dates import end_of_day
from pipeline.errors import FunnelError


@dataclass(frozen=True)
class Zone:
    """What the planned message means to the users of one time zone."""

    time_zone: str | None
    """As the source has it; None: it says nothing."""
    is_known: bool
    """Whether it is nothing or an IANA name. The funnel's own zone stands in for any other."""
    is_quiet: bool
    """Whether the message would come in quiet hours."""
    capped_from: datetime
    """The first instant of the calendar days that count for the frequency cap, the last of which the message is on."""
    capped_until: datetime
    """The first instant after them."""


@dataclass(frozen=True)
class Limit:
    """How many messages there may be (None: as many as are worth one), and the reason of users who come after them."""

    texts: int | None
    reason: str


def zones(names: Iterable[str | None], targeting: Targeting, send_on: date, funnel_zone: ZoneInfo) -> list[Zone]:
    """Each name with what the message sent on `send_on` means there."""
    sent_at = datetime.combine(send_on, time.fromisoformat(targeting.send_at), funnel_zone)
    days = targeting.frequency_cap.days if targeting.frequency_cap else 1
    found = []
    for name in names:
        own = time_zone(name) if name is not None else None
        local = sent_at.astimezone(own or funnel_zone)
        found.append(
            Zone(
                time_zone=name,
                is_known=name is None or own is not None,
                is_quiet=targeting.quiet_hours is not None and is_quiet(local.time(), targeting.quiet_hours),
                capped_from=end_of_day(local.date() - timedelta(days=days), own or funnel_zone),
                capped_until=end_of_day(local.date(), own or funnel_zone),
            )
        )
    return found


def time_zone(name: str) -> ZoneInfo | None:
    """The zone of an IANA name; None if it is none."""
    with suppress(KeyError, ValueError, OSError):
        return ZoneInfo(name)
    return None


def is_quiet(at: time, hours: tuple[str, str]) -> bool:
    """Whether a time of day lies in [from, to), which may go past midnight.

    >>> [is_quiet(time.fromisoformat(at), ("21:00", "08:00")) for at in ("20:59", "21:00", "07:59", "08:00")]
    [False, True, True, False]
    """
    first, until = map(time.fromisoformat, hours)
    return first <= at < until if first < until else at >= first or at < until


def limit_of(campaign: Campaign, *, size: int | None, budget: float | None) -> Limit:
    """How many messages a list may have.

    Args:
        size, budget: instead of the campaign's own.

    Raises:
        FunnelError: not one message is left, or both are given.
    """
    if size is not None and budget is not None:
        raise FunnelError("--size and --budget: name one of them")
    for name, value in (("--size", size), ("--budget", budget)):
        # What is not a number is not above zero either.
        if value is not None and not 0 < value < float("inf"):
            raise FunnelError(f"{name}: got {value}, takes a number above zero")
    if size is None and budget is None:
        size, budget = campaign.size, campaign.budget
    if size is not None:
        return Limit(size, "beyond_size")
    if budget is None or not campaign.sms_cost:
        return Limit(None, "")
    # As written: 0.3 buys three messages at 0.1, which binary fractions would make two.
    affordable = int(Decimal(str(budget)) // Decimal(str(campaign.sms_cost)))
    if not affordable:
        raise FunnelError(f"--budget: got {budget}, takes at least the cost of one SMS, {campaign.sms_cost}")
    return Limit(affordable, "beyond_budget")
