"""The sections of the configuration about campaigns: `[targeting]`, which every list obeys, and `[campaigns.NAME]`."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from pipeline.config.sections import ConfigSection, Identifier

OpenShare = Annotated[float, Field(ge=0, lt=1)]
Money = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _time_of_day(value: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
        raise ValueError("a time of day such as '10:00'")
    return value


def _campaign(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value):
        raise ValueError("a campaign's name of lower-case letters, digits, '-' and '_', such as 'spring-cash'")
    return value


def _with_an_end(value: tuple[str, str]) -> tuple[str, str]:
    if value[0] == value[1]:
        raise ValueError("two times of day that differ, such as ['21:00', '08:00']")
    return value


TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]
QuietHours = Annotated[tuple[TimeOfDay, TimeOfDay], AfterValidator(_with_an_end)]
CampaignName = Annotated[str, AfterValidator(_campaign)]


class FrequencyCap(ConfigSection):
    """At most `messages` in any `days` of the user's own calendar, the planned one included."""

    messages: PositiveInt
    days: Annotated[int, Field(ge=1, le=365)]


class Targeting(ConfigSection):
    """`[targeting]`: the rules of every campaign's list. Lists are for the day after their night."""

    path: str = "targets"
    """Where exported lists go: a folder, or any URI that Arrow writes to."""
    salt: str = "funnelcast"
    """Salts the hash that draws holdout and control groups; another salt draws them anew."""
    holdout_share: OpenShare = 0.0
    """Users whom no campaign texts, the same ones always."""
    frequency_cap: FrequencyCap | None = None
    send_at: TimeOfDay = "10:00"
    """When messages go out, in the funnel's time zone."""
    quiet_hours: QuietHours | None = None
    """From and to, in the user's own time zone (`source.users.columns` `time_zone`, else the funnel's)."""


class Campaign(ConfigSection):
    """`[campaigns.NAME]`: what a campaign's outcomes are worth, what it may cost, and how it is measured.

    Expected value of a user = the sum over stages of worth x p, less the cost of one SMS, in one currency.
    """

    worth: Annotated[dict[str, Money], Field(min_length=1)]
    """Money that a user is worth who gets to a stage, beyond what the stages before it are worth."""
    sms_cost: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    goal: Identifier | None = None
    """The stage whose outcomes decide whether it worked; the last one unless named."""
    size: PositiveInt | None = None
    budget: Money | None = None
    min_band: dict[str, Annotated[int, Field(ge=1, le=10)]] = Field(default={})
    control_share: OpenShare = 0.1
    measurable_uplift: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of the list's outcomes that the message must have caused to be seen (80% power, 5% level)."""

    @model_validator(mode="after")
    def _one_limit(self) -> "Campaign":
        if self.size is not None and self.budget is not None:
            raise ValueError("size and budget: name one of them")
        if self.budget is not None and self.budget < self.sms_cost:
            raise ValueError(f"budget: got {self.budget}, takes at least one SMS's cost, {self.sms_cost}")
        return self
