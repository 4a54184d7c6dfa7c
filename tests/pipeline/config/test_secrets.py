"""One secret is planted in every key of the configuration, and looked for in all that the process says about it."""

import copy
import json
import logging
import sys
import threading
import tomllib
import types
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from pipeline.config.settings import Settings, load
from pipeline.errors import ConfigError, FunnelError, describe_error
from pipeline.runs.context import Context
from pipeline.secrets import guard_output, learn, mask
from tests.support.company import FUNNEL

SECRET = "Pl4nted"
URL = f"https://me:{SECRET}/with-slash@db.example/x?access_token={SECRET}0123"
PROPERTIES = {"password": f"{SECRET}-in-a-property", "plain": URL, "options": f"-Dx.keyPassword={SECRET}"}
SHAPES = {"text": URL, "table": PROPERTIES, "list": [URL]}
Key = tuple[str | int, ...]


def keys_of(section: type[BaseModel], prefix: Key = ()) -> Iterator[Key]:
    """Every key, sections included; of the sections in a list or in a table of any names, those of one entry."""
    for name, field in section.model_fields.items():
        key = (*prefix, field.alias or name)
        yield key
        for step, inner in sections_in(field.annotation):
            yield from keys_of(inner, (*key, *step))


def sections_in(annotation: Any) -> Iterator[tuple[Key, type[BaseModel]]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
    elif get_origin(annotation) in (tuple, dict, Union, types.UnionType):
        step: Key = {tuple: (0,), dict: ("spring",)}.get(get_origin(annotation), ())
        for argument in get_args(annotation):
            for more, section in sections_in(argument):
                yield (*step, *more), section


KEYS = [key for key in keys_of(Settings) if key != ("base",)]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `funnel` does first, undone after the test."""
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    guard_output()
    yield
    logging.setLogRecordFactory(factory)


def test_the_keys_are_those_of_the_model() -> None:
    assert {("warehouse", "catalog"), ("source", "events", "options"), ("spark", "conf")} <= set(KEYS)
    assert {("funnel", "stages", 0, "event"), ("campaigns", "spring", "goal")} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ".".join(map(str, key)))
@pytest.mark.usefixtures("guarded")
def test_a_secret_in_any_key_is_said_nowhere(
    key: Key,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = tomllib.loads(FUNNEL.format(timezone="UTC", attribution="last_touch"))
    config = tmp_path / "funnel.toml"
    said = []
    for value in SHAPES.values():
        config.write_text(as_toml(plant(content, key, value)), encoding="utf-8")
        said += said_about(config, value)
    config.write_text(as_toml(content), encoding="utf-8")
    if not any(isinstance(step, int) for step in key):
        for text in (URL, json.dumps(PROPERTIES), json.dumps(PROPERTIES)[:-1], json.dumps([URL])):
            with monkeypatch.context() as patch:
                patch.setenv("FUNNEL_" + "__".join(map(str, key)).upper(), text)
                said += said_about(config, text)
    assert said
    for text in (*said, caplog.text, *capsys.readouterr()):
        assert SECRET not in text


def said_about(config: Path, value: object) -> list[str]:
    """All that can be said of a configuration, of a value in it, and of an error about the value."""
    try:
        settings = load(config)
    except ConfigError as error:
        return [str(error), describe_error(error)]
    lines: list[str] = []
    Context(settings, notify=lines.append).notify(f"reading {value}")
    error = ValueError(f"cannot use {value}")
    logging.getLogger("sqlalchemy").warning("connecting with %s", value)
    try:
        raise error
    except ValueError:
        logging.getLogger("pyiceberg").exception("failed")
    sys.excepthook(ValueError, error, error.__traceback__)
    print(warnings.formatwarning(f"deprecated: {value}", UserWarning, "x.py", 1, ""))
    told = [str(FunnelError(f"cannot use {value!r}")), describe_error(error), mask(repr(settings))]
    return [*lines, *told, describe_error(ValueError(json.dumps(value)))]


@pytest.mark.parametrize("key", ["warehouse.catalog", "spark.conf", "source.events.options", "models.tracking_uri"])
def test_no_dump_of_the_settings_shows_a_connection(key: str, tmp_path: Path) -> None:
    content = tomllib.loads(FUNNEL.format(timezone="UTC", attribution="last_touch"))
    value = URL if key == "models.tracking_uri" else PROPERTIES
    config = tmp_path / "funnel.toml"
    config.write_text(as_toml(plant(content, tuple(key.split(".")), value)), encoding="utf-8")
    settings = load(config)
    for text in (repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jdbc:postgresql://h/db?user=me&password=abc&ssl=1", "jdbc:postgresql://h/db?user=me&password=***&ssl=1"),
        ("jdbc:oracle:thin:me/abc@//h:1521/x", "jdbc:oracle:thin:me/***@//h:1521/x"),
        ("postgresql://me:a@b@h/db", "postgresql://***@h/db"),
        ("https://ghp_abc@h/x", "https://***@h/x"),
        ('{"s3.secret-access-key": "a\\"b"', '{"s3.secret-access-key": "***"'),
        ("hdfs://nn:8020/data/{ds} has no user_id = 'uid'", "hdfs://nn:8020/data/{ds} has no user_id = 'uid'"),
        ("at 10:00, me@example.org", "at 10:00, me@example.org"),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"s3.secret-access-key": "abc"}', '{"s3.***-access-key": "***"}'),
        ("{'secret': 'abc', 'user': 'ann'}", "{'***': '***', 'user': 'ann'}"),
        ("https://h/?secret=abc&page=2", "https://h/?***=***&page=2"),
        ("client.secret=abc user=ann", "client.***=*** user=ann"),
    ],
)
def test_a_password_that_is_a_word_of_the_names_does_not_bare_what_they_hold(text: str, shown: str) -> None:
    learn({"password": "secret"})
    assert mask(text) == shown


def plant(content: Mapping[str, Any], key: Key, value: object) -> dict[str, Any]:
    """The content with the value at the key; what is missing on the way is made."""
    planted: dict[str, Any] = copy.deepcopy(dict(content))
    here: Any = planted
    for step in key[:-1]:
        here = here[step] if isinstance(step, int) else here.setdefault(step, {})
    here[key[-1]] = value
    return planted


def as_toml(content: Mapping[str, Any]) -> str:
    return "\n".join(f"{name} = {_inline(value)}" for name, value in content.items())


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {_inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)
