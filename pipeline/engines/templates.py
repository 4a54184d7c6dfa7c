"""Renders the SQL files with Jinja: stages, windows, dates. An unknown name is an error."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined


def render(name: str, **parameters: Any) -> str:
    """The text of `sql/<name>.sql` with its parameters filled in.

    Raises:
        jinja2.UndefinedError: the file uses a parameter that is not given.
    """
    text = files("sql").joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return _environment().from_string(text).render(**parameters)


def literal(value: str) -> str:
    """Quote a name from the configuration as a SQL string.

    >>> literal("it's")
    "'it\\\\'s'"
    """
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def quote(name: str) -> str:
    """Quote a column's name as Spark SQL reads it, whatever it has in it; sqlglot translates it for DuckDB.

    >>> quote("order"), quote("a `b`.c")
    ('`order`', '`a ``b``.c`')
    """
    return "`" + name.replace("`", "``") + "`"


@cache
def _environment() -> Environment:
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters |= {"literal": literal, "quote": quote}
    return environment
