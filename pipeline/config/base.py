"""What every section of the configuration is made of: its base class and the values that several sections take."""

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

T = TypeVar("T")


class ConfigSection(BaseModel):
    """A table of the TOML file: immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_identifier(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
        raise ValueError("a lower-case name of letters, digits and underscores, such as 'click'")
    return value


Identifier = Annotated[str, AfterValidator(_check_identifier)]
Share = Annotated[float, Field(ge=0, le=1)]
Properties = dict[str, SecretStr]
"""Properties of another system, any of which may be a password: no message and no dump of the settings shows one."""


def reveal(properties: Mapping[str, SecretStr]) -> dict[str, str]:
    """The properties as they are, for the system that they are meant for."""
    return {name: value.get_secret_value() for name, value in properties.items()}


def check_names(
    values: dict[str, T], known: tuple[str, ...], prefix: str = "", *, what: str = "columns"
) -> dict[str, T]:
    """Return the values if every key is a known name.

    Args:
        prefix: what the message begins with, such as the configuration key.
        what: what the message calls the known names.

    Raises:
        ValueError: names the unknown key and lists the known ones.
    """
    for name in values:
        if name not in known:
            raise ValueError(f"{prefix}{name!r} is not one of the {what} {', '.join(known)}")
    return values
