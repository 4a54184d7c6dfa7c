"""What is settled before SQL applies a list's rules: the campaign, when a message arrives, how many there may be."""

import difflib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from pipeline.config.campaigns import Campaign, Targeting
from pipeline.config.settings import Settings
from pipeline.dates import end_of_day
from pipeline.errors import FunnelError


@dataclass(frozen=True)
class Zone:
    """What the planned message means for the users of one time zone."""

    time_zone: str | None
    """As the source names it; None: it names none."""
    is_known: bool
    """Whether it is None or an IANA name. Any other is treated as the funnel's own zone."""
    is_quiet: bool
    """Whether the message would arrive in quiet hours."""
    capped_from: datetime
    """The first instant of the calendar days that count for the frequency cap; the last is the day of the message."""
    capped_until: datetime
    """The first instant after them."""


@dataclass(frozen=True)
class Quota:
    """How many messages a list may have (None: all that are worth sending), and the reason given to users beyond it."""

    texts: int | None
    reason: str


def find_campaign(settings: Settings, name: str) -> Campaign:
    """The configuration's campaign of this name.

    Raises:
        FunnelError: there is none; names those there are.
    """
    if name in settings.campaigns:
        return settings.campaigns[name]
    if not settings.campaigns:
        raise FunnelError(f"no campaign {name!r}: the configuration has none, add a [campaigns.{name}]")
    close = difflib.get_close_matches(name, settings.campaigns, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise FunnelError(f"no campaign {name!r}; {hint}the configuration has {', '.join(settings.campaigns)}")


def resolve_zones(
    names: Iterable[str | None], targeting: Targeting, send_on: date, funnel_zone: ZoneInfo, *, by_day: bool = False
) -> list[Zone]:
    """What a message sent on `send_on` means in each named zone.

    Args:
        by_day: the log knows only the dates of messages, which are those of the funnel's zone.
    """
    sent_at = datetime.combine(send_on, time.fromisoformat(targeting.send_at), funnel_zone)
    days = targeting.frequency_cap.days if targeting.frequency_cap else 1
    zones = []
    for name in names:
        own = find_time_zone(name) if name is not None else None
        local = sent_at.astimezone(own or funnel_zone)
        calendar = funnel_zone if by_day else own or funnel_zone
        today = sent_at.astimezone(calendar).date()
        zones.append(
            Zone(
                time_zone=name,
                is_known=name is None or own is not None,
                is_quiet=targeting.quiet_hours is not None and is_quiet(local.time(), targeting.quiet_hours),
                capped_from=end_of_day(today - timedelta(days=days), calendar),
                capped_until=end_of_day(today, calendar),
            )
        )
    return zones


def find_time_zone(name: str) -> ZoneInfo | None:
    """The zone of an IANA name; None if there is no such zone."""
    with suppress(KeyError, ValueError, OSError):
        return ZoneInfo(name)
    return None


def is_quiet(at: time, hours: tuple[str, str]) -> bool:
    """Whether a time of day lies in [from, to), which may span midnight.

    >>> [is_quiet(time.fromisoformat(at), ("21:00", "08:00")) for at in ("20:59", "21:00", "07:59", "08:00")]
    [False, True, True, False]
    """
    first, until = map(time.fromisoformat, hours)
    return first <= at < until if first < until else at >= first or at < until


def resolve_quota(campaign: Campaign, *, size: int | None, budget: float | None) -> Quota:
    """How many messages a list may have.

    Args:
        size, budget: instead of the campaign's own.

    Raises:
        FunnelError: not even one message is allowed, or both are given.
    """
    if size is not None and budget is not None:
        raise FunnelError("--size and --budget: name one of them")
    for name, value in (("--size", size), ("--budget", budget)):
        # NaN is not above zero either.
        if value is not None and not 0 < value < float("inf"):
            raise FunnelError(f"{name}: got {value}, takes a number above zero")
    if size is None and budget is None:
        size, budget = campaign.size, campaign.budget
    if size is not None:
        return Quota(size, "beyond_size")
    if budget is None or not campaign.sms_cost:
        return Quota(None, "")
    # As written: 0.3 buys three messages at 0.1, which binary fractions would make two.
    affordable = int(Decimal(str(budget)) // Decimal(str(campaign.sms_cost)))
    if not affordable:
        raise FunnelError(f"--budget: got {budget}, takes at least the cost of one SMS, {campaign.sms_cost}")
    return Quota(affordable, "beyond_budget")
