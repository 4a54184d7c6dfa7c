"""Lists the files of a source: each with the day it landed and what the names of its folders say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

LISTING_OPTIONS = {"pathglobfilter", "modifiedbefore", "modifiedafter", "ignoremissingfiles", "timezone"}
"""Options by which Spark's readers leave files out."""
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""How Hive and Spark write a null into a folder's name."""


@dataclass(frozen=True)
class SourceFile:
    """A file below one of the reader's paths.

    Args:
        day: its landing day; None where the path does not name one.
        folders: the subfolders that lead to it, the outermost first.
    """

    path: str
    day: date | None
    folders: tuple[str, ...] = ()

    @property
    def keys(self) -> dict[str, str | None]:
        """The columns that folders such as `hour=09` hold, as Spark reads them."""
        pairs = [folder.split("=", 1) for folder in self.folders if is_column(folder)]
        return {unquote(name): None if value == NO_VALUE else unquote(value) for name, value in pairs}


def is_column(folder: str) -> bool:
    """Whether a folder's name holds a column's value.

    >>> is_column("hour=09"), is_column("09"), is_column("=09")
    (True, False, False)
    """
    return folder.find("=") > 0


def list_files(
    spark: SparkSession, paths: Sequence[str], options: Mapping[str, str], template: str
) -> list[SourceFile]:
    """List all data files below the paths, in subfolders too, as Spark finds them.

    Args:
        options: the reader's; those that leave files out do so here.
        template: the path with `{ds}` for the day, as an absolute path; a backslash escapes a wildcard.
    """
    kept = {key: value for key, value in options.items() if key.lower() in LISTING_OPTIONS}
    # With a schema, nothing is opened.
    reader = spark.read.schema("_ string").options(**kept).option("recursiveFileLookup", "true")
    # Spark lists escaped URIs; readers take plain paths.
    found = sorted(map(unquote, reader.parquet(*paths).inputFiles()))
    pattern = re.compile(day_pattern(template))
    return [_describe_file(path, pattern) for path in found]


def _describe_file(path: str, pattern: re.Pattern[str]) -> SourceFile:
    match = pattern.search(path)
    if match is None:
        return SourceFile(path, None)
    day = date.fromisoformat(match[1]) if pattern.groups else None
    return SourceFile(path, day, tuple(part for part in path[match.end() :].split("/")[:-1] if part))


def escape_wildcards(folder: str) -> str:
    """A folder's path as a pattern, in Hadoop's globs, of itself alone.

    >>> escape_wildcards("/data [1]*")
    '/data \\\\[1\\\\]\\\\*'
    """
    return re.sub(r"([][{}*?\\])", r"\\\1", folder)


def day_pattern(template: str) -> str:
    """The regular expression, for Python and Java, of paths below a template; its one group is the landing day.

    >>> day_pattern("/a*/{ds}/x[12].{csv,tsv}")
    '/a[^/]*/(\\\\d{4}-\\\\d{2}-\\\\d{2})/x[12]\\\\.(?:csv|tsv)'
    """
    before, *after = map(_glob_pattern, template.split("{ds}"))
    if not after:
        return before
    return before + r"(\d{4}-\d{2}-\d{2})" + r"\d{4}-\d{2}-\d{2}".join(after)


def _glob_pattern(glob: str) -> str:
    pattern, is_choice, is_set = "", False, False
    characters = iter(glob)
    for character in characters:
        if character == "\\":
            pattern += re.escape(next(characters, character))
        elif is_set:
            is_set = character != "]"
            pattern += character
        elif character == "[":
            is_set = True
            pattern += character
        elif character in "*?":
            pattern += {"*": "[^/]*", "?": "[^/]"}[character]
        elif character in "{}" or (is_choice and character == ","):
            is_choice = character != "}"
            pattern += {"{": "(?:", ",": "|", "}": ")"}[character]
        else:
            pattern += re.escape(character)
    return pattern


def landing_day(frame: DataFrame, template: str) -> Column:
    """The day that the path of a row's file names."""
    return F.to_date(F.regexp_extract(_file_path(frame), day_pattern(template), 1))


def folder_value(frame: DataFrame, template: str, name: str, kind: str) -> Column:
    """The value of a column that the folders' names hold."""
    below = F.regexp_replace(_file_path(frame), "^.*?" + day_pattern(template), "")
    value = F.regexp_extract(below, f"/{re.escape(name)}=([^/]*)/", 1)
    return _decode(F.when(~value.isin("", NO_VALUE), value)).try_cast(kind)


def _file_path(frame: DataFrame) -> Column:
    # `metadataColumn` finds Spark's own `_metadata` where the source has a column of that name, too.
    return _decode(frame.metadataColumn("_metadata").getField("file_path"))


def _decode(escaped: Column) -> Column:
    # In a path, a plus sign is literal; `url_decode` would turn it into a space.
    return F.url_decode(F.replace(escaped, F.lit("+"), F.lit("%2B")))
