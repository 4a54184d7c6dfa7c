"""The users to erase, and where a table's rows and texts name them."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

ERASED = "(erased)"
"""What texts have in place of an id."""
DISTINCTIVE_LENGTH = 6
MOST_AT_ONCE = 500
"""Ids that one regular expression looks for."""
WORD = re.compile(r"\w+")
QUOTES = ("'", '"', "&#x27;", "&#39;", "&quot;", "&#34;")


class SoughtUsers:
    """User ids as they are found in tables and texts.

    A row with such a `user_id` goes, and so does one of the quarantine whose raw content names one. In other texts the
    id is replaced. An id that could as well be a word or a number, `ann` or `17`, counts there only in quotes or
    after `user_id: `.

    `seen` has those that were found so far.
    """

    def __init__(self, ids: Collection[str]) -> None:
        self.ids = frozenset(ids)
        self.seen: set[str] = set()
        self.distinctive = frozenset(each for each in ids if is_distinctive(each))

    def is_in(self, batch: pa.RecordBatch) -> bool:
        """Whether rows, as a file of any table has them, name one."""
        if not batch.num_rows:
            return False
        names = batch.schema.names
        is_theirs = "user_id" in names and self._is_equal_to_any(batch.column("user_id"), self.ids)
        is_text = "user_id" not in names
        others = [name for name in names if name != "user_id"]
        # Each column is read: whoever is in any of them is there.
        found = [self._is_in_column(batch.column(name), is_raw=name == "raw", is_text=is_text) for name in others]
        return is_theirs or any(found)

    def take_out(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows without theirs, and without their ids in other rows' texts."""
        names = batch.schema.names
        is_text = "user_id" not in names
        if not is_text:
            batch = batch.filter(pc.invert(pc.fill_null(self._equals(batch.column("user_id"), self.ids), False)))
        if "raw" in names:
            batch = batch.filter(pa.array([not self._is_in_raw(each) for each in batch.column("raw").to_pylist()]))
        for position, name in enumerate(names):
            column = batch.column(position)
            if name not in ("user_id", "raw") and self._is_in_column(column, is_raw=False, is_text=is_text):
                replaced = pa.array(
                    [self._replace_in(each, is_text=is_text) for each in column.to_pylist()], column.type
                )
                batch = batch.set_column(position, batch.schema.field(position), replaced)
        return batch

    def is_named(self, text: str) -> bool:
        """Whether a text names one."""
        return bool(list(self._find(text)))

    def is_bound(self, column: str, bound: bytes, *, length: int | None) -> bool:
        """Whether a column's lowest or highest value is one; given a length, whether it may be one's cut off there."""
        text = bound.decode("utf-8", errors="replace")
        if text in (self.ids if column == "user_id" else self.distinctive):
            self.seen.add(text)
            return True
        # An upper bound is cut and its last character raised.
        return length is not None and len(text) == length and text[:-1] in self._beginnings(length)

    def replace(self, text: str) -> str:
        """The text with `ERASED` in place of each of their ids."""
        parts, at = [], 0
        for begin, end in self._find(text):
            parts += [text[at:begin], ERASED]
            at = end
        return "".join([*parts, text[at:]])

    def _beginnings(self, length: int) -> frozenset[str]:
        return frozenset(each[: length - 1] for each in self.ids if len(each) > length)

    def _find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where a text names one: begin and end."""
        until = 0
        for word in WORD.finditer(text):
            for user_id, offset in self._by_word.get(word[0], ()):
                begin = word.start() - offset
                end = begin + len(user_id)
                if begin >= until and text.startswith(user_id, begin) and self._stands_alone(text, begin, end):
                    until = end
                    self.seen.add(user_id)
                    yield begin, end

    def _stands_alone(self, text: str, begin: int, end: int) -> bool:
        before, after = text[:begin][-1:], text[end : end + 1]
        if text[begin:end] not in self.distinctive:
            is_quoted = text[:begin].endswith(QUOTES) and text[end:].startswith(QUOTES)
            return is_quoted or text[:begin].endswith("user_id: ")
        return not (WORD.match(before) or WORD.match(after))

    @cached_property
    def _by_word(self) -> Mapping[str, list[tuple[str, int]]]:
        """The ids by the first word in them, and where in them it begins."""
        found: dict[str, list[tuple[str, int]]] = {}
        # Of ids that begin alike, the longest is the one that is named.
        for each in sorted(self.ids, key=len, reverse=True):
            if word := WORD.search(each):
                found.setdefault(word[0], []).append((each, word.start()))
        return found

    def _is_equal_to_any(self, column: pa.Array, ids: Collection[str]) -> bool:
        found = pc.unique(column.filter(pc.fill_null(self._equals(column, ids), False)).cast(pa.string())).to_pylist()
        self.seen.update(found)
        return bool(found)

    @staticmethod
    def _equals(column: pa.Array, ids: Collection[str]) -> pa.Array:
        return pc.is_in(column.cast(pa.string()), pa.array(sorted(ids), pa.string()))

    def _is_in_column(self, column: pa.Array, *, is_raw: bool, is_text: bool) -> bool:
        texts = _texts_of(column)
        if texts is None or not len(texts):
            return False
        if not is_text:
            return self._is_equal_to_any(texts, self.distinctive)
        names_one = self._is_in_raw if is_raw else self.is_named
        found = [names_one(each) for each in self._with_any(texts) if each is not None]
        return any(found)

    def _with_any(self, texts: pa.Array) -> list[str | None]:
        """The texts in which any id may be found, whatever stands beside it."""
        if len(self.ids) > MOST_AT_ONCE:
            return list(texts.to_pylist())
        some = "|".join(map(re.escape, sorted(self.ids)))
        return list(texts.filter(pc.fill_null(pc.match_substring_regex(texts, some), False)).to_pylist())

    def _is_in_raw(self, raw: str | None) -> bool:
        """Whether a row of the source is theirs: a value of it is the id, or its text names it."""
        if raw is None:
            return False
        if self.is_named(raw):
            return True
        try:
            values = json.loads(raw)
        except ValueError:
            return False
        found = self.ids & {str(each).strip() for each in _leaves(values)}
        self.seen |= found
        return bool(found)

    def _replace_in(self, value: object, *, is_text: bool) -> object:
        if isinstance(value, str):
            return self.replace(value) if is_text else None if value in self.distinctive else value
        if isinstance(value, list):
            return [(key, self._replace_in(each, is_text=is_text)) for key, each in value]
        return value


def is_distinctive(user_id: str) -> bool:
    """Whether an id in a text can hardly be anything else.

    >>> [is_distinctive(each) for each in ("u00017", "+447700900123", "ann", "17")]
    [True, True, False, False]
    """
    return len(user_id) >= DISTINCTIVE_LENGTH and any(each.isdigit() for each in user_id)


def _texts_of(column: pa.Array) -> pa.Array | None:
    """A column's texts, or those that its maps hold; None if it has none."""
    kind = column.type
    if pa.types.is_map(kind):
        return _texts_of(column.items)
    return column.cast(pa.string()) if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
