"""What is secret in a configuration, and the one place where it is masked.

`text.show`, which every text passes on its way to people, and `guard_output` call `mask`. It masks what `learn` has
found in the configuration, wherever it turns up, and whatever looks like a password or a token in an address.
"""

import html
import json
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
SHORTEST = 3
"""Characters of a secret; a shorter one would be found in every other word."""
SHORTEST_INSIDE = 8
"""Characters of a secret that is masked inside longer words, too."""

_SECRET_WORDS = frozenset({"authorization", "cookie", "pass", "pat", "pwd", "sas", "sig"})
_SECRET_PARTS = ("password", "passwd", "secret", "token", "credential", "passphrase", "signature")
_KEYS = re.compile(r"(access|account|api|encryption|master|private|secret|shared|signing|storage)[^a-z0-9]*key")
_PLAIN_WORDS = frozenset(
    {"algorithm", "class", "column", "enabled", "endpoint", "expiration", "file", "location", "path", "provider"}
    | {"size", "type", "uri", "url"}
)
"""What a property's name ends with that says something about a secret, but is none: `token.provider`."""
_CONTAINERS = frozenset({"abfs", "abfss", "wasb", "wasbs"})
"""Schemes of Azure, in which what stands before the @ is a folder."""

_USER_INFO = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://(?:[^\s/?#@:\"'<>]*:[^\s\"'<>]*|[^\s/?#@:\"'<>]+)@")
_ORACLE = re.compile(r"(jdbc:oracle:\w+:[^\s/@]*/)([^\s@]+)(?=@)")
# A password may be a word, such as "secret", that is then masked in names, too.
_PAIR = re.compile(r"(?<![\w.*])([A-Za-z*][\w.*-]*)=([^\s&;,\"'<>)}]+)")
_ENTRY = re.compile(r"([\"']?)(?<![\w*])([A-Za-z*][\w.*-]*)\1\s*[:=]\s*([\"'])((?:\\.|(?!\3).)*)\3?")
_BEARER = re.compile(r"\b(Bearer|Basic)(\s+)([\w.~+/=-]{6,})")

# In a value of its own, a secret may hold what would end it in a sentence.
_WHOLE_USER_INFO = re.compile(r"://([^/?#@:]*)(?::(.*))?@", re.DOTALL)
_WHOLE_PAIR = re.compile(r"(?<![\w.])([A-Za-z][\w.-]*)=([^\s&;]+)")

_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def is_secret_name(name: str) -> bool:
    """Whether a property of this name holds a secret.

    >>> [is_secret_name(each) for each in ("s3.secret-access-key", "keyPassword", "fs.azure.account.key.x", "sasToken")]
    [True, True, True, True]
    >>> [is_secret_name(each) for each in ("token.provider", "primaryKey", "compass", "user", "path")]
    [False, False, False, False, False]
    >>> is_secret_name("s3.***-access-key")
    True
    """
    if MASK in name:
        # What was masked in it may be what says so.
        return True
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", ".", name).lower()
    words = re.findall("[a-z0-9]+", spaced)
    if not words or words[-1] in _PLAIN_WORDS:
        return False
    return (
        bool(_SECRET_WORDS & set(words))
        or any(part in word for part in _SECRET_PARTS for word in words)
        or bool(_KEYS.search(spaced))
    )


def learn(content: object, name: str = "") -> None:
    """Remember the secrets of a configuration, checked or not: `mask` finds them from now on.

    Args:
        content: tables, lists and values, as TOML or JSON has them.
        name: the key that holds the content.
    """
    global _pattern
    found = {form for secret in _find_secrets(content, name) for form in _forms(secret)} - _known
    if not found:
        return
    _known.update(found)
    # The longest first: a secret may begin with another.
    _pattern = re.compile("|".join(map(_bounded, sorted(_known, key=lambda each: (-len(each), each)))))


def learn_environment(environment: Mapping[str, str], prefix: str) -> None:
    """Remember the secrets in the variables with this prefix, be they values, JSON, or JSON with a mistake."""
    for variable, value in environment.items():
        if variable.startswith(prefix):
            try:
                content = json.loads(value)
            except (ValueError, RecursionError):
                content = value
            learn(content, variable.rpartition("__")[2])
            learn([entry[4] for entry in _ENTRY.finditer(value) if is_secret_name(entry[2])], "secret")


def known() -> list[str]:
    """The secrets learnt so far, in every form in which they may be written."""
    return sorted(_known)


def mask(text: str) -> str:
    """The text without the secrets that are known or look like some.

    >>> mask("cannot reach postgresql://me:s3c/ret@db:5432/x?sslmode=off or https://h/?token=abc&page=2")
    'cannot reach postgresql://***@db:5432/x?sslmode=off or https://h/?token=***&page=2'
    >>> mask("{'type': 'rest', 'token': 'abc'}"), mask("Authorization: Bearer abcdef")
    ("{'type': 'rest', 'token': '***'}", 'Authorization: Bearer ***')
    >>> mask("abfss://box@account.dfs.core.windows.net/2026"), mask("s3://bucket/team@home/x")
    ('abfss://box@account.dfs.core.windows.net/2026', 's3://bucket/team@home/x')
    """
    if _pattern is not None:
        text = _pattern.sub(MASK, text)
    if "@" in text:
        text = _USER_INFO.sub(_mask_user_info, text)
        text = _ORACLE.sub(rf"\1{MASK}", text)
    if "=" in text:
        text = _PAIR.sub(lambda pair: f"{pair[1]}={MASK}" if is_secret_name(pair[1]) else pair[0], text)
    if '"' in text or "'" in text:
        text = _ENTRY.sub(_mask_entry, text)
    return _BEARER.sub(rf"\1\2{MASK}", text)


def guard_output() -> None:
    """Mask what this process says of itself: log records with their tracebacks, uncaught errors and warnings."""
    # Each by itself: a library may have put its own back.
    sys.excepthook = _print_masked
    threading.excepthook = _print_masked_of_thread
    if not getattr(logging.getLogRecordFactory(), "masks", False):
        logging.setLogRecordFactory(_masking(logging.getLogRecordFactory()))
    if not getattr(warnings.formatwarning, "masks", False):
        warnings.formatwarning = _masking_warnings(warnings.formatwarning)


def _masking(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def make_masked(*given: Any, **named: Any) -> logging.LogRecord:
        record = make(*given, **named)
        try:
            said = record.getMessage()
        except (TypeError, ValueError):
            # What does not fit its arguments is complained of by the handler.
            return record
        if (masked := mask(said)) != said:
            record.msg, record.args = masked, None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = mask("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
        return record

    make_masked.masks = True  # type: ignore[attr-defined]
    return make_masked


def _masking_warnings(show: Callable[..., str]) -> Callable[..., str]:
    def show_masked(*given: Any, **named: Any) -> str:
        return mask(show(*given, **named))

    show_masked.masks = True  # type: ignore[attr-defined]
    return show_masked


def _print_masked_of_thread(failed: threading.ExceptHookArgs) -> None:
    _print_masked(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _print_masked(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if not issubclass(kind, SystemExit):
        print(mask("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _mask_user_info(found: re.Match[str]) -> str:
    is_container = found[1].lower() in _CONTAINERS and ":" not in found[0].removeprefix(f"{found[1]}:")
    return found[0] if is_container else f"{found[1]}://{MASK}@"


def _mask_entry(found: re.Match[str]) -> str:
    if not is_secret_name(found[2]) or not found[4]:
        return found[0]
    start, end = found.start(4) - found.start(), found.end(4) - found.start()
    return f"{found[0][:start]}{MASK}{found[0][end:]}"


def _find_secrets(content: object, name: str) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _find_secrets(value, str(key))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _find_secrets(value, name)
    elif is_secret_name(name) or ("webhook" in name.lower() and "://" in str(content)):
        yield str(content)
        yield from str(content).splitlines()
    elif isinstance(content, str):
        yield from _find_in_text(content)


def _find_in_text(text: str) -> Iterator[str]:
    if mask(text) == text:
        return
    for found in _WHOLE_USER_INFO.finditer(text):
        secret = found[1] if found[2] is None else found[2]
        yield secret
        # What takes the address apart may take a / for the password's end.
        yield re.split("[/?#@]", secret, maxsplit=1)[0]
    yield from (found[2] for found in _ORACLE.finditer(text))
    yield from (found[2] for found in _WHOLE_PAIR.finditer(text) if is_secret_name(found[1]))
    yield from (found[3] for found in _BEARER.finditer(text))


def _forms(secret: str) -> Iterator[str]:
    """A secret as errors, pages and addresses write it."""
    for form in {secret, unquote(secret)}:
        if len(form) >= SHORTEST and form.lower() not in ("true", "false", "none", "null"):
            yield from (form, quote(form), quote(form, safe=""), quote_plus(form), html.escape(form))
            yield from (repr(form)[1:-1], json.dumps(form)[1:-1])


def _bounded(secret: str) -> str:
    escaped = re.escape(secret)
    return escaped if len(secret) >= SHORTEST_INSIDE else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"
