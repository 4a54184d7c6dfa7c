"""The sections about campaigns: `[targeting]`, which every list obeys, and `[campaigns.NAME]`."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from pipeline.config.base import ConfigSection, Identifier

OpenShare = Annotated[float, Field(ge=0, lt=1)]
Money = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _check_time_of_day(value: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError("a time of day such as '10:00'")
    return value


def _check_campaign_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value):
        raise ValueError("a campaign's name of lower-case letters, digits, '-' and '_', such as 'spring-cash'")
    return value


def _check_quiet_hours(value: tuple[str, str]) -> tuple[str, str]:
    if value[0] == value[1]:
        raise ValueError("two times of day that differ, such as ['21:00', '08:00']")
    return value


TimeOfDay = Annotated[str, AfterValidator(_check_time_of_day)]
QuietHours = Annotated[tuple[TimeOfDay, TimeOfDay], AfterValidator(_check_quiet_hours)]
CampaignName = Annotated[str, AfterValidator(_check_campaign_name)]


class FrequencyCap(ConfigSection):
    """`targeting.frequency_cap`: how many messages a user may get, by the user's own calendar."""

    messages: PositiveInt
    """The most messages within `days`, the planned one included."""
    days: Annotated[int, Field(ge=1, le=365)]
    """The calendar days counted, the day of sending included."""


class Targeting(ConfigSection):
    """`[targeting]`: the rules of every campaign's list. A list is for the day after its night."""

    path: str = "targets"
    """The folder that lists are exported to, or any URI that Arrow writes to."""
    salt: str = "funnelcast"
    """The salt of the hash that draws holdout and control groups; another salt redraws them."""
    holdout_share: OpenShare = 0.0
    """The share of users whom no campaign texts, always the same ones."""
    frequency_cap: FrequencyCap | None = None
    """The most messages a user may get in a number of days; by default there is no limit."""
    send_at: TimeOfDay = "10:00"
    """When messages go out, in the funnel's time zone."""
    quiet_hours: QuietHours | None = None
    """From and to, in the user's own time zone (`time_zone` in `source.users.columns`, else the funnel's); nobody is
    texted then."""


class Campaign(ConfigSection):
    """`[campaigns.NAME]`: what a campaign's outcomes are worth, what it may cost, and how it is measured.

    A user's expected value is the sum over stages of worth x p, less the cost of one SMS. All money is in one currency.
    """

    worth: Annotated[dict[str, Money], Field(min_length=1)]
    """What reaching a stage is worth, beyond what the stages before it are worth; by stage."""
    sms_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The cost of one message."""
    goal: Identifier | None = None
    """The stage that decides whether the campaign worked; by default the last."""
    size: PositiveInt | None = None
    """The most messages; name this or `budget`, or neither for no limit."""
    budget: Money | None = None
    """The most that all messages may cost."""
    min_band: dict[str, Annotated[int, Field(ge=1, le=10)]] = Field(default={})
    """The lowest score band, 1 to 10, that a user may be in; by stage."""
    control_share: OpenShare = 0.1
    """The share of the selected users who are not texted, to measure what the messages cause; 0 goes without."""
    measurable_uplift: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of the outcomes that the messages must cause for the control group to show it (80% power, 5% level)."""

    @model_validator(mode="after")
    def _check_limit(self) -> "Campaign":
        if self.size is not None and self.budget is not None:
            raise ValueError("size and budget: name one of them")
        if self.budget is not None and self.budget < self.sms_cost:
            raise ValueError(f"budget: got {self.budget}, takes at least one SMS's cost, {self.sms_cost}")
        return self
