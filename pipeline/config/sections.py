"""The sections of the configuration, one class a table of the TOML file, each checked by itself."""

import re
from typing import Annotated, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

T = TypeVar("T")

EXPOSURE = "exposure"
BUILT_IN_CONTEXT = ("campaign", "hour")
RESERVED_COLUMNS = {
    "user_id",
    "consent",
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


def _identifier(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError("a lower-case name of letters, digits and underscores, such as 'click'")
    return value


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone such as 'Asia/Shanghai'") from None
    return value


Identifier = Annotated[str, AfterValidator(_identifier)]
Share = Annotated[float, Field(ge=0, le=1)]
Architecture = Literal["shared_bottom", "l2_constrained", "cross_stitch", "omoe", "mmoe", "ple", "aitm", "esmm"]


def _low_to_high(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= value[0] <= value[1]:
        raise ValueError("the lowest and the highest ratio in this order, such as [0.3, 3.0]")
    return value


Ratios = Annotated[tuple[float, float], AfterValidator(_low_to_high)]


class ConfigSection(BaseModel):
    """A table of the TOML file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(ConfigSection):
    """One step of the funnel: its name here, the source's event name, and how long after an exposure it counts."""

    name: Identifier
    event: str
    window_days: PositiveInt


class Funnel(ConfigSection):
    """`[funnel]`: the time zone nights are counted in, the exposure's event name and the stages in order."""

    timezone: Annotated[str, AfterValidator(_time_zone)]
    exposure: str
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    attribution: Literal["last_touch", "any_in_window"] = "last_touch"

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Funnel":
        names = [EXPOSURE, *(stage.name for stage in self.stages)]
        events = [self.exposure, *(stage.event for stage in self.stages)]
        for label, values in (("name", names), ("event", events)):
            repeated = sorted({value for value in values if values.count(value) > 1})
            if repeated:
                raise ValueError(f"every stage and the exposure need {label}s of their own; {repeated[0]!r} repeats")
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
        """The source's event names, each with our name for it."""
        return {self.exposure: EXPOSURE} | {stage.event: stage.name for stage in self.stages}


class Reader(ConfigSection):
    """A Spark reader: `format`, `path` (with `{ds}` for the night's date) and its `options`."""

    format: str = "parquet"
    path: str | None = None
    options: dict[str, str] = {}
    ready: str | None = None
    """A path that is there once the night's partition is whole, such as `landing/{ds}/_SUCCESS`; else `path` itself."""
    where: str | None = None
    """Spark SQL condition on the source's rows; rows outside it are not this funnel's and are never read in."""
    columns: dict[str, str] = {}
    """Our column = the source's column, or a Spark SQL expression over its columns."""

    @property
    def is_partitioned(self) -> bool:
        return self.path is not None and "{ds}" in self.path


class EventSource(Reader):
    """`[source.events]`. Columns it maps: user_id, event, event_time; optionally event_id, campaign_id, landed_on."""

    context: dict[str, str] = {}
    """Attributes of an exposure: our name = the source's column or a Spark SQL expression."""
    lookback_days: Annotated[int, Field(ge=0)] = 7
    future_tolerance_hours: Annotated[int, Field(ge=0)] = 0
    """How far past the end of its landing day an event's time may lie, for partitions cut in another zone."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        return check_names(columns, ("user_id", "event", "event_time", "event_id", "campaign_id", "landed_on"))


class UserSource(Reader):
    """`[source.users]`. Columns it maps: user_id; optionally consent, time_zone, landed_on, and any feature."""


class Source(ConfigSection):
    events: EventSource
    users: UserSource | None = None

    @property
    def has_time_zones(self) -> bool:
        """Whether the source tells of its users' own time zones (IANA names)."""
        return self.users is not None and "time_zone" in self.users.columns


class Features(ConfigSection):
    """`[features]`: counting windows, user attributes by kind, and what of an exposure's context the model sees."""

    windows_days: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 7, 30, 90)
    categorical: tuple[Identifier, ...] = ()
    numeric: tuple[Identifier, ...] = ()
    context: tuple[Identifier, ...] = ()

    @field_validator("windows_days")
    @classmethod
    def _ascending(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if list(windows) != sorted(set(windows)):
            raise ValueError("days in ascending order, each once, such as [1, 7, 30, 90]")
        return windows

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Features":
        names = [*self.categorical, *self.numeric]
        for name in names:
            if names.count(name) > 1 or name in RESERVED_COLUMNS:
                raise ValueError(f"{name!r} is declared twice or is one of the pipeline's own columns")
        return self


class Warehouse(ConfigSection):
    """`[warehouse]`: any PyIceberg catalog. The default is a SQLite catalog and files under `path`."""

    path: str = "warehouse"
    namespace: Identifier = "funnel"
    catalog: dict[str, str] = {}
    """PyIceberg catalog properties (`type`, `uri`, `warehouse`, …); empty means SQLite under `path`."""


class Models(ConfigSection):
    """`[models]`: the MLflow registry. The default is SQLite and local files under `path`."""

    path: str = "models"
    """A local folder: the default store, and copies of bundles that an MLflow server holds."""
    tracking_uri: str | None = None
    """An MLflow server's address, or a database's; without one, a SQLite file and folders under `path`."""
    name: Identifier = "funnel"
    """The registered model's name."""

    @field_validator("path")
    @classmethod
    def _local(cls, path: str) -> str:
        if "://" in path:
            raise ValueError("a local folder; bundles go to an object store by an MLflow server, models.tracking_uri")
        return path

    @field_validator("tracking_uri")
    @classmethod
    def _server_or_database(cls, uri: str | None) -> str | None:
        if uri is not None and not re.match(r"(https?|(postgresql|mysql|mssql|sqlite)(\+\w+)?)://", uri):
            raise ValueError("an MLflow server's or a database's address, such as 'http://mlflow:5000'")
        return uri


class Training(ConfigSection):
    """`[training]`: how much history teaches, how many later days judge and calibrate, and the network's shape."""

    history_days: PositiveInt = 180
    holdout_days: PositiveInt = 14
    min_positives: PositiveInt = 10
    """Mature positives a stage needs before a model of it is worth fitting."""
    seed: Annotated[int, Field(ge=0)] = 0
    epochs: PositiveInt = 12
    patience: PositiveInt = 2
    batch_size: PositiveInt = 4096
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    architecture: Architecture = "mmoe"
    numeric_embedding: Literal["none", "piecewise_linear", "periodic"] = "none"
    experts: PositiveInt = 6
    expert_units: tuple[PositiveInt, ...] = (64,)
    gate_units: tuple[PositiveInt, ...] = ()
    tower_units: tuple[PositiveInt, ...] = (32,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    context_dropout: Share = 0.3
    device: str = "auto"


class Promotion(ConfigSection):
    """`[promotion]`: what a challenger must show, on the later days held out from both, to become champion."""

    stage: Identifier | None = None
    """The stage that must get better; the last one unless named. No other stage may get worse."""
    min_positives: PositiveInt = 10
    """Held-out positives that each stage needs before a comparison means anything."""
    max_calibration_gap: Annotated[float, Field(gt=0)] = 0.2
    """How far expected positives may lie from observed ones, as a share of these, beyond what chance explains."""


class Maintenance(ConfigSection):
    """`[maintenance]`: what may be cleared away, never what a reader or a rollback still needs."""

    keep_days: PositiveInt = 7
    """Snapshots of so many days stay, and with them all that a reader pinned or a rollback returns to."""
    keep_publishes: Annotated[int, Field(ge=2)] = 5
    """At least so many of a table's last publishes stay, however old."""
    orphan_hours: Annotated[int, Field(ge=24)] = 72
    """A staged file that no snapshot names is removed at this age: longer than any run takes to publish."""
    compact_files: Annotated[int, Field(ge=2)] = 8
    """A partition of more small files than this is written anew as one."""


class Threshold(ConfigSection):
    """Past `warn` a night warns, past `stop` it fails: its scores are not announced, and no list is made of them."""

    warn: float | None = None
    stop: float | None = None


class Monitoring(ConfigSection):
    """`[monitoring]`: how much is looked at, and how far a figure may go before somebody is told."""

    sample_users: Annotated[int, Field(ge=1000)] = 20_000
    """Of how many scored users a night keeps the features, to compare them with those the model began with."""
    backtest_nights: PositiveInt = 28
    """Of how many nights, the latest whose outcomes are known, scores are held against outcomes."""
    thresholds: dict[str, Threshold] = {}
    """By a figure's name in `metrics`; a figure not named here keeps its default in `pipeline.config.figures`."""


class Reports(ConfigSection):
    path: str = "reports"


class Operations(ConfigSection):
    """`[operations]`: what the DAGs wait for, when scores are late, and who is told."""

    source_wait_hours: PositiveInt = 6
    """How long after the night's midnight the source's partition may still come."""
    scores_due_hours: PositiveInt = 8
    """Scores later than this after the night's midnight are late: the webhook is told."""
    poke_seconds: Annotated[int, Field(ge=15)] = 60
    """Pause between two looks at the source. On a busy host Airflow loses a look that follows too soon on another."""
    retry_minutes: Annotated[float, Field(gt=0)] = 5
    """Pause before the first retry; each further one is twice as long."""
    training_schedule: str = "0 6 * * 1"
    """Cron expression, in the funnel's time zone, of the weekly training."""
    maintenance_schedule: str = "0 12 * * *"
    """Cron expression, in the funnel's time zone, of the daily maintenance."""
    training_queue: str = "default"
    """The Airflow queue whose workers train: those with a GPU."""
    webhook_connection: str | None = None
    """The Airflow connection whose address is told of failures and late scores; nobody is told without one."""


class Scoring(ConfigSection):
    """`[scoring]`: the context of the campaign being planned; without it nights score the average campaign."""

    context: dict[str, str] = {}
    score_batch_rows: PositiveInt = 16384


class Audit(ConfigSection):
    """`[audit]`: thresholds of the checks before each commit."""

    empty_day: Literal["critical", "warning"] = "critical"
    """What a day without events is, when the nights before it had some."""
    row_count_ratio: Ratios = (0.3, 3.0)
    """Rows of a night against the median of its last 7 nights; outside is a warning."""
    max_quarantine_share: Share = 0.1
    stage_rate_ratio: Ratios = (0.2, 5.0)
    """A stage's events to exposures against the last 7 nights; outside is a warning."""


class Spark(ConfigSection):
    """`[spark]`: where Spark runs. `conf` takes any Spark property."""

    master: str = "local[*]"
    driver_memory: str = "1500m"
    conf: dict[str, str] = {}


def check_names(
    columns: dict[str, T], known: tuple[str, ...], prefix: str = "", *, what: str = "columns"
) -> dict[str, T]:
    """The columns, if each is a known one.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name in columns:
        if name not in known:
            raise ValueError(f"{prefix}only the {what} {', '.join(known)}; {name!r} is none of them")
    return columns
