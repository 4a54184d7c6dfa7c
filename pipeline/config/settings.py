"""Read the TOML file that describes a funnel into one typed, checked object.

`FUNNEL_<SECTION>__<KEY>` environment variables override the file, e.g. `FUNNEL_SPARK__DRIVER_MEMORY=4g`.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from pipeline.config.base import ConfigSection, check_names
from pipeline.config.campaigns import Campaign, CampaignName, Targeting
from pipeline.config.features import UserAttribute, declared_features
from pipeline.config.figures import check_thresholds
from pipeline.config.funnel import BUILT_IN_CONTEXT, Features, Funnel, Source
from pipeline.config.sections import (
    Audit,
    Maintenance,
    Models,
    Monitoring,
    Operations,
    Promotion,
    Reports,
    Retention,
    Scoring,
    Spark,
    Storage,
    Training,
    Warehouse,
)
from pipeline.errors import ConfigError
from pipeline.secrets import learn, learn_environment

ENVIRONMENT = "FUNNEL_"
"""What the variables begin with that override the file."""


class Settings(BaseSettings):
    """The whole configuration. `base` is the folder of the TOML file, where relative paths start."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=ENVIRONMENT, env_nested_delimiter="__")

    funnel: Funnel
    source: Source
    features: Features = Features()
    warehouse: Warehouse = Warehouse()
    storage: Storage = Storage()
    models: Models = Models()
    training: Training = Training()
    promotion: Promotion = Promotion()
    scoring: Scoring = Scoring()
    audit: Audit = Audit()
    maintenance: Maintenance = Maintenance()
    retention: Retention = Retention()
    monitoring: Monitoring = Monitoring()
    targeting: Targeting = Targeting()
    campaigns: dict[CampaignName, Campaign] = {}
    reports: Reports = Reports()
    operations: Operations = Operations()
    spark: Spark = Spark()
    base: Path = Path()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @model_validator(mode="after")
    def _check_sections_together(self) -> "Settings":
        self._check_event_columns()
        self._check_context()
        self._check_stages()
        check_thresholds(self.monitoring.thresholds)
        self._check_planned_context()
        self._check_attributes()
        self._check_retention()
        return self

    def _check_event_columns(self) -> None:
        for key in ("user_id", "event", "event_time"):
            if key not in self.source.events.columns:
                raise ValueError(f"source.events.columns has no {key!r}; map it to a column of the source")

    def _check_context(self) -> None:
        declared = self.source.events.context
        for name in self.features.context:
            if name not in declared and name not in BUILT_IN_CONTEXT:
                known = ", ".join([*declared, *BUILT_IN_CONTEXT])
                raise ValueError(f"features.context names {name!r}; source.events.context declares only: {known}")

    def _check_stages(self) -> None:
        stages = self.funnel.stage_names
        if self.promotion.stage not in (None, *stages):
            raise ValueError(f"promotion.stage: got {self.promotion.stage!r}, takes one of {', '.join(stages)}")
        for name, campaign in self.campaigns.items():
            check_names(campaign.worth, stages, f"campaigns.{name}.worth: ", what="stages")
            check_names(campaign.min_band, stages, f"campaigns.{name}.min_band: ", what="stages")
            if campaign.goal not in (None, *stages):
                raise ValueError(f"campaigns.{name}.goal: got {campaign.goal!r}, takes one of {', '.join(stages)}")

    def _check_planned_context(self) -> None:
        for name in self.scoring.context:
            if name not in self.features.context:
                raise ValueError(f"scoring.context names {name!r}, which features.context does not declare")

    def _check_attributes(self) -> None:
        attributes, users = (*self.features.categorical, *self.features.numeric), self.source.users
        if attributes and users is None:
            raise ValueError("features.categorical and features.numeric need a [source.users]")
        if users:
            # A misspelt `consent` would otherwise text those who have withdrawn it.
            known_columns = ("user_id", "consent", "time_zone", "landed_on", "updated_at", *attributes)
            check_names(users.columns, known_columns, "source.users.columns: ")
            if "user_id" not in users.columns:
                raise ValueError("source.users.columns has no 'user_id'; map it to a column of the source")
        computed = self._computed_columns
        for name in attributes:
            if name in computed:
                raise ValueError(f"features: {name!r} is one of the pipeline's own columns; give it another name")
        for name in computed:
            if computed.count(name) > 1:
                raise ValueError(
                    f"two columns of the examples would be called {name!r}; give the stage or the context "
                    "that makes it another name"
                )

    def _check_retention(self) -> None:
        window = max(stage.window_days for stage in self.funnel.stages)
        least = {
            "events": (
                self.training.history_days + window + self.source.events.lookback_days,
                "training.history_days, the longest window and source.events.lookback_days",
            ),
            "user_scores": (
                self.monitoring.backtest_nights + window,
                "monitoring.backtest_nights and the longest window",
            ),
            "targets": (window + 1, "the longest window and a day"),
            "exports": (window + 1, "the longest window and a day"),
        }
        for name, (days, what) in least.items():
            kept = getattr(self.retention, name)
            if kept is not None and kept < days:
                raise ValueError(f"retention.{name}: got {kept}, takes {days} or more: {what} together")

    @property
    def _computed_columns(self) -> list[str]:
        """The columns of `examples` that follow from the configuration, but for the users' attributes."""
        labels = [f"{kind}_{stage}" for kind in ("observed", "mature", "label") for stage in self.funnel.stage_names]
        return labels + [each.name for each in declared_features(self) if not isinstance(each.source, UserAttribute)]

    @property
    def has_update_times(self) -> bool:
        """Whether the source says when a profile was changed; an attribute of that name is one."""
        users = self.source.users
        attributes = (*self.features.categorical, *self.features.numeric)
        return users is not None and "updated_at" in users.columns and "updated_at" not in attributes

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.funnel.timezone)

    def resolve(self, path: str, ds: date | None = None) -> str:
        """Make a path of the configuration absolute. URIs stay as they are; `{ds}` becomes the date."""
        path = path if ds is None else path.replace("{ds}", ds.isoformat())
        return path if "://" in path else str((self.base / path).resolve())

    def resolve_pattern(self, path: str, ds: date | None = None, *, escape: Callable[[str], str]) -> str:
        """As `resolve`, for a path with wildcards: those in the name of the configuration's folder are escaped."""
        resolved = self.resolve(path, ds)
        if "://" in path or Path(path).is_absolute():
            return resolved
        own = next(str(each) for each in (self.base, *self.base.parents) if Path(resolved).is_relative_to(each))
        return escape(own) + resolved.removeprefix(own)


def load(path: Path) -> Settings:
    """Read and check a configuration file. Its secrets are masked in all that the process says from now on.

    Raises:
        ConfigError: names the file, the key, what it got and what it takes.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}: name one with --config or FUNNEL_CONFIG") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not valid TOML: values are nested too deeply") from None
    if "base" in content:
        raise ConfigError(f"{path}: base is not a key of the configuration; relative paths start at the file's folder")
    # Before the check, whose complaints quote what is wrong.
    learn(content)
    learn_environment(os.environ, ENVIRONMENT)
    try:
        return Settings(**content, base=path.resolve().parent)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_mistake(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}, or a FUNNEL_… environment variable: values are nested too deeply") from None
    except SettingsError as error:
        raise ConfigError(_describe_variable(error)) from None


def _describe_variable(error: SettingsError) -> str:
    """Describe a variable whose value is no JSON, without the value where it may hold a secret."""
    cause = error.__cause__
    got = getattr(cause, "doc", None)
    name = next((each for each in os.environ if each.startswith(ENVIRONMENT) and os.environ[each] == got), None)
    if name is None:
        return f"a {ENVIRONMENT}… environment variable: {error}"
    where = f"{getattr(cause, 'msg', 'it cannot be read')} at character {getattr(cause, 'pos', 0) + 1}"
    if _may_hold_secrets(name.removeprefix(ENVIRONMENT).lower().split("__")):
        return (
            f'{name} takes JSON such as {{"type": "rest"}}: {where}; its value is not shown, since it may hold secrets'
        )
    return f"{name}: got {got!r}, takes JSON such as [1, 7]: {where}"


def describe_mistake(error: ValidationError, section: str = "") -> str:
    """Describe in one line the mistake that explains the others: its key, what it got and what it takes.

    Args:
        section: the name of the section that was checked, if it was one alone.
    """
    # A misspelt key explains a "missing" one. A list that is short of its one bad item is not the mistake.
    errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    first, *others = [each for each in errors if each["type"] != "too_short"] or errors
    more = f" (and {len(others)} more)" if others else ""
    location = (section, *first["loc"]) if section else first["loc"]
    return _describe_error(first, location) + more


def _describe_error(error: ErrorDetails, location: tuple[int | str, ...]) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{key} is not a key of the configuration{_suggest_key(location)}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if not key or isinstance(error["input"], dict | ConfigSection):
        return f"{key}: {message}".removeprefix(": ")
    takes = re.sub(r"^(greater|less) than", r"a number \1 than", message.removeprefix("Input should be "))
    takes = re.sub(r"^\w+ should have (at least|at most) (\d+) items?.*", r"a list of \1 \2", takes)
    if _may_hold_secrets(location):
        return f"{key}: got a value that is not shown, since it may hold secrets; takes {takes}"
    return f"{key}: got {error['input']!r}, takes {takes}"


def _may_hold_secrets(location: Iterable[int | str]) -> bool:
    """Whether the value at a location of the configuration, or a value inside it, is secret by its type."""
    section: type[BaseModel] | None = Settings
    annotation: Any = Settings
    for part in location:
        fields = {field.alias or name: field for name, field in section.model_fields.items()} if section else {}
        if part not in fields:
            break
        annotation = fields[str(part)].annotation
        section = _section_of(annotation)
    return _has_secrets(annotation)


def _has_secrets(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_has_secrets(field.annotation) for field in annotation.model_fields.values())
    return annotation is SecretStr or any(map(_has_secrets, get_args(annotation)))


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation names, alone or as one of its arguments."""
    candidates = [annotation, *get_args(annotation)]
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _suggest_key(location: tuple[int | str, ...]) -> str:
    section: type[BaseModel] = Settings
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    close = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it takes {', '.join(section.model_fields)}"
