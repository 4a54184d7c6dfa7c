"""The sections that describe the funnel and its data: `[funnel]`, `[source.events]`, `[source.users]`, `[features]`."""

import re
from datetime import date
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator

from pipeline.config.base import ConfigSection, Identifier, Properties, check_names
from pipeline.dates import FIRST_DAY, LAST_DAY

EXPOSURE = "exposure"
BUILT_IN_CONTEXT = ("campaign", "hour")
"""Attributes that every exposure has, whatever the source maps."""
RESERVED_COLUMNS = {
    "user_id",
    "consent",
    "consent_at",
    "consent_order",
    "time_zone",
    "landed_on",
    "as_of",
    "ds",
    "event_id",
    "exposure_id",
    "exposure_time",
    "profile_on",
    "seen_on",
    "completed_on",
    "made_from",
    "exposure_date",
    "feature_as_of",
}
"""Columns of the tables that hold features; no attribute of a user may take their names."""


def _check_time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone such as 'Asia/Shanghai'") from None
    return value


class Stage(ConfigSection):
    """`funnel.stages`: one step of the funnel, an entry of the list."""

    name: Identifier
    """The stage's name in tables, scores and reports."""
    event: str
    """The source's name of the event that reaches the stage."""
    window_days: PositiveInt
    """How long after an exposure the event still counts, in days of 24 hours; in calendar days, if the log knows only
    dates (`source.events.time_precision`)."""


class Funnel(ConfigSection):
    """`[funnel]`: what is sent, and the stages it should lead to."""

    timezone: Annotated[str, AfterValidator(_check_time_zone)]
    """The IANA time zone in which nights, windows and local dates are counted."""
    exposure: str
    """The source's name of the event that a message was sent."""
    exposure_word: Annotated[str, Field(pattern=r"\S")] = "message"
    """What reports call an exposure, in the singular: `message`, `email`, `call`, `visit`, …"""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """The stages in the order in which users pass through them, one or more."""
    attribution: Literal["last_touch", "any_in_window"] = "last_touch"
    """Which exposures an outcome credits: `last_touch` only the latest before it, of its own campaign where it names
    one; `any_in_window` every one whose window it falls into."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Funnel":
        names = [EXPOSURE, *(stage.name for stage in self.stages)]
        events = [self.exposure, *(stage.event for stage in self.stages)]
        for label, values in (("name", names), ("event", events)):
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"stages and exposure need different {label}s; {repeated[0]!r} repeats")
        return self

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)

    @property
    def event_kinds(self) -> tuple[str, ...]:
        """Our names of the events: the exposure, then the stages in order."""
        return (EXPOSURE, *self.stage_names)

    @property
    def event_names(self) -> dict[str, str]:
        """Our names of the events by the source's."""
        return {self.exposure: EXPOSURE} | {stage.event: stage.name for stage in self.stages}


class Reader(ConfigSection):
    """A Spark reader."""

    format: str = "parquet"
    """Any format that Spark reads: `parquet`, `csv`, `json`, `jdbc`, …"""
    path: str | None = None
    """Where the files are; `{ds}` stands for the landing day. A source without files, such as `jdbc`, has no path."""
    missing_day: Literal["stop", "empty"] = "stop"
    """What a landing day is for which nothing lies at `path`: `stop` stops the night; `empty` takes it as a day without
    rows, and nights do not wait for it, unless `ready` names what they wait for."""
    declared: str | None = Field(default=None, alias="schema")
    """Types of the source's columns in Spark's DDL, such as `offer STRING, amount DOUBLE`. Of these columns, one that a
    day lacks is null, without a warning; a CSV file without a header has them in this order; JSON that is declared
    `STRING` is read as it is written. Others are as they are found."""
    options: Properties = Field(default={})
    """Options of the Spark reader; `{ds}` works here too, in a query for example."""
    ready: str | None = None
    """A path that exists once a night's partition is complete, such as `landing/{ds}/_SUCCESS`; by default `path`."""
    where: str | None = None
    """A Spark SQL condition on the source's columns; other rows are not this funnel's and are not read."""
    columns: dict[str, str] = Field(default={})
    """Our column = the source's column, or a Spark SQL expression over its columns."""
    raw_content: Literal["mapped", "all"] = "mapped"
    """What of a rejected row is kept: `mapped`, the columns that the mapping reads, and of a line that does not fit its
    header the length only; `all`, every column, and such lines as they are written, in messages, too."""

    @field_validator("path", "ready")
    @classmethod
    def _check_placeholders(cls, path: str | None) -> str | None:
        # Of braces, Hadoop's patterns have lists: {2026,2027}.
        for found in re.findall(r"\{[A-Za-z_]+\}", path or ""):
            if found != "{ds}":
                raise ValueError(f"{{ds}} for the landing day, in the place of {found}")
        return path

    @property
    def is_partitioned(self) -> bool:
        return self.path is not None and "{ds}" in self.path


class EventSource(Reader):
    """`[source.events]`: the events, by any Spark reader.

    `columns` maps `user_id`, `event` and `event_time`, and optionally `event_id`, `campaign_id` and `landed_on`.
    """

    context: dict[str, str] = Field(default={})
    """Attributes of an exposure: our name = the source's column or a Spark SQL expression."""
    same_id: Literal["warn", "keep", "drop"] = "warn"
    """What rows are that share an `event_id` but differ in user, event or time: `keep` takes them as events of their
    own; `warn` does so, too, and warns; `drop` keeps the first of each id, and warns of the others."""
    lookback_days: Annotated[int, Field(ge=0)] = 7
    """How many earlier landing days are searched for an event that is delivered again."""
    future_tolerance_hours: Annotated[int, Field(ge=0)] = 0
    """How many hours past the end of its landing day an event's time may lie; raise it if the source cuts its days in
    another time zone."""
    earliest: Annotated[date, Field(ge=FIRST_DAY, le=LAST_DAY)] = date(2000, 1, 1)
    """The first day that an event can be of, and a row can have landed on; an earlier time is a mistake, and the event
    is quarantined."""
    time_zone: Annotated[str, AfterValidator(_check_time_zone)] | None = None
    """What a time without a zone means: an IANA time zone, such as `UTC`; by default the funnel's own."""
    max_events_per_user_day: PositiveInt = 1000
    """More rows of one user on a landing day than a person can have; the night names such ids, which often stand for
    many people, such as `0` or `anonymous`."""
    busy_users: Literal["keep", "leave_out"] = "keep"
    """What happens to the rows of a user on a day with more than `max_events_per_user_day`: `leave_out` moves them to
    `quarantine`, outside `audit.max_quarantine_share`."""
    time_precision: Literal["auto", "instant", "day"] = "auto"
    """What event times know. With `day`, only their dates count: an outcome follows an exposure of its own day, and
    windows are calendar days. `auto` takes a log for one of dates if every event lies at midnight, and warns."""

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        return check_names(columns, ("user_id", "event", "event_time", "event_id", "campaign_id", "landed_on"))


class UserSource(Reader):
    """`[source.users]`: the users' profiles, by any Spark reader. Optional: without it, users are those with events.

    `columns` maps `user_id`, and optionally `consent`, `time_zone` (an IANA name), `landed_on`, `updated_at` (when the
    profile was changed) and the attributes that `[features]` names. An attribute that it leaves out is read from the
    source's column of the same name.
    """

    consent_words: dict[str, bool] = Field(default={})
    """Words of consent besides true, yes, t, y and 1, and false, no, f, n and 0, in any case: such as
    `{ opted_in = true, opted_out = false }`. Any other word counts as withdrawn, with a warning."""
    decimal_comma: bool = False
    """Whether numbers in text are written with a decimal comma, such as `1.234,50` or `1 234,50`."""


class Source(ConfigSection):
    events: EventSource
    users: UserSource | None = None

    @property
    def has_time_zones(self) -> bool:
        """Whether the source provides its users' own time zones (IANA names)."""
        return self.users is not None and "time_zone" in self.users.columns


class Features(ConfigSection):
    """`[features]`: what the model sees of a user and of an exposure."""

    windows_days: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 7, 30, 90)
    """Windows in days, ascending. Events of each kind are counted in each window; the days since the last one are
    counted within the longest."""
    categorical: tuple[Identifier, ...] = ()
    """Users' attributes that are categories."""
    numeric: tuple[Identifier, ...] = ()
    """Users' attributes that are numbers."""
    static: tuple[Identifier, ...] = ()
    """Those of both that never change, such as an amount applied for. A user has the first value that lands from the
    first message on, also of a profile that lands only after it; without this, a model learns from such messages that
    the attribute is missing. Leave out what a stage brings about, such as an income given at registration."""
    context: tuple[Identifier, ...] = ()
    """Attributes of an exposure that the model sees: names from `source.events.context`, or `campaign` and `hour`,
    which every exposure has."""

    @field_validator("windows_days")
    @classmethod
    def _check_order(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if list(windows) != sorted(set(windows)):
            raise ValueError("days in ascending order, each once, such as [1, 7, 30, 90]")
        return windows

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Features":
        names = [*self.categorical, *self.numeric]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is declared twice; name it once, under categorical or numeric")
            if name in RESERVED_COLUMNS:
                raise ValueError(
                    f"{name!r} is a column that Funnelcast adds itself; give the attribute another name and map it "
                    f"under source.users.columns: its_{name} = {name!r}"
                )
        for name in self.static:
            if name not in names:
                raise ValueError(f"static names {name!r}, which is neither under categorical nor under numeric")
        return self
