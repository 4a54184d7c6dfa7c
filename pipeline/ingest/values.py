"""Reads a column of the source as text, number, consent, time or date, and keeps apart what it could not read.

A value that was there is either read or lost, never both: `Reading.lost` has it as it was written. Blanks at the ends,
no-break and other Unicode ones too, are not part of a value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import wraps
from typing import Concatenate, ParamSpec
from zoneinfo import available_timezones

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    ShortType,
    StringType,
    StructType,
    TimestampNTZType,
)

from pipeline.errors import FunnelError, describe_error

P = ParamSpec("P")
OWN = "__funnelcast_"
"""What our own columns among the source's begin with; a source with such a name itself is refused."""
BLANKS = "".join(map(chr, (*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200C)))) + (
    "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
)
"""What is cut off the ends of a text: the blanks of Unicode, those without width included."""
REPLACEMENT = "\ufffd"
"""What readers put in the place of bytes that are no UTF-8."""
IDENTIFYING = ("user_id", "event", "event_id")
"""Columns without which a row is rejected."""
TRUE_WORDS = ("true", "t", "yes", "y")
FALSE_WORDS = ("false", "f", "no", "n")
NUMBERS = (ByteType, ShortType, IntegerType, LongType, FloatType, DoubleType, DecimalType)
EXACT = {FloatType: 2**24, DoubleType: 2**53}
"""Up to here a binary float holds every whole number; beyond it, digits are lost."""

_MISSING = "they count as missing"
_REJECTED = "their rows are in quarantine"
_ENCODING = 'if the source has another encoding, name it in its options: encoding = "ISO-8859-1"'
_NUMBER = r"^[+-]?(\d{1,200}\.?\d*|\.\d+)([eE][+-]?\d{1,2})?$"
_GROUPS = ". '\u2019\u00a0\u2009\u202f"
_COMMA_NUMBER = rf"^[+-]?(\d+|\d{{1,3}}([{_GROUPS}]\d{{3}})+)(,\d+)?$"
_DAY = r"^\d{4}-\d{1,2}-\d{1,2}"
_CLOCK = r"[ T]\d{1,2}(:\d{1,2}(:\d{1,2}(\.\d*)?)?)?"
_OFFSET = r"(Z|JST|(UTC|GMT|UT)?([+-]\d{1,2}(:?\d{2}(:?\d{2})?)?)|UTC|GMT|UT|[A-Za-z_]+/[A-Za-z0-9_/+-]+)"
"""A time zone of which there is one. Letters such as CST, IST and BST are used by several, and EST also in summer."""
_WITHOUT_ZONE = rf"{_DAY}({_CLOCK})?$"
_WITH_ZONE = rf"{_DAY}{_CLOCK} *{_OFFSET}$"
_WITH_LETTERS = rf"{_DAY}{_CLOCK} *[A-Za-z][A-Za-z0-9]*$"
_DATE_AS_NUMBER = r"^(19|20|21)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])[0-5]\d([0-5]\d)?)?$"


@dataclass(frozen=True)
class Reading:
    """One of our columns over the source's rows.

    Args:
        name: as the configuration calls it, e.g. "age" or "context.offer".
        value: what was read; null where nothing was there, or nothing that could be read.
        lost: what was there and could not be read, as it was written; else null.
        fault: what such values are, for a message: "no number".
        effect: what becomes of them, and what helps.
        problem: why a time cannot be used, as a reason of the quarantine; null for one that can, and for other columns.
        refusal: what the night stops with if anything is lost; None: it goes on.
    """

    name: str
    value: Column
    lost: Column
    fault: str
    effect: str
    problem: Column | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class Mapped:
    """A column or an expression of the source that is mapped to one of our columns.

    Args:
        name: our column, as the configuration calls it.
        key: its key in the configuration, e.g. "source.users.columns.age".
        expression: what the key says.
        column: the same over the source's rows, and `kind`, its type.
        unconverted: what the expression itself could not convert, as text; None if it converts nothing.
    """

    name: str
    key: str
    expression: str
    column: Column
    kind: DataType
    unconverted: Column | None = None

    def require_no_bytes(self) -> None:
        if isinstance(self.kind, BinaryType):
            raise FunnelError(
                f"{self.key} = {self.expression!r} is binary: say what its bytes are, "
                f'"decode({self.expression}, \'UTF-8\')" if they are text or "hex({self.expression})" if they are not'
            )

    def require_one_value(self) -> None:
        if isinstance(self.kind, ArrayType | MapType | StructType):
            cure = f"{self.expression}[0]" if isinstance(self.kind, ArrayType) else f"{self.expression}.id"
            raise FunnelError(
                f"{self.key} = {self.expression!r} is of type {self.kind.simpleString()}: name the one value in it, "
                f'such as "{cure}"'
            )


class Steps:
    """What is computed of the source's rows on the way to our columns.

    What is used more than once is kept as a column: Spark would otherwise compute, and compile, each use anew.
    """

    def __init__(self, rows: DataFrame) -> None:
        self.rows = rows
        self._kept: list[Column] = []
        self._readings: list[tuple[Mapped, Reading, int]] = []

    def keep(self, column: Column) -> Column:
        """Keep a column, which may be computed of others that were kept before."""
        name = f"{OWN}{len(self._kept)}"
        self._kept.append(column.alias(name))
        return F.col(name)

    def keep_text(self, column: Column) -> Column:
        """Keep a text without blanks at its ends; its bytes may be no UTF-8."""
        # Most texts have none. Spark's trim looks for the character at either end among all blanks in turn.
        is_bare = (column >= F.lit("!")) & (column < F.lit("\x7f")) & F.substring(column, -1, 1).between("!", "~")
        return self.keep(F.when(is_bare, column).otherwise(F.btrim(column, F.lit(BLANKS))))

    def note(self, mapped: Mapped, reading: Reading) -> None:
        """Have `select` answer for a reading."""
        self._readings.append((mapped, reading, len(self._kept)))

    def select(self, columns: Sequence[Column]) -> DataFrame:
        """Select columns that are computed of what was kept.

        Raises:
            FunnelError: a reading does not fit the type of its column; the message names its key.
        """
        # Every frame is analysed whole, so there are few: aliases of one list are seen by its later columns.
        try:
            return self.rows.select("*", *self._kept).select(*columns)
        except PySparkException:
            for mapped, reading, kept in self._readings:
                self._check(mapped, reading, kept)
            raise

    def _check(self, mapped: Mapped, reading: Reading, kept: int) -> None:
        try:
            self.rows.select("*", *self._kept[:kept]).select(reading.value, reading.lost)
        except PySparkException as error:
            raise FunnelError(
                f"{mapped.key} = {mapped.expression!r} does not fit: its type is {mapped.kind.simpleString()} "
                f"({describe_error(error)}); an expression can make it another"
            ) from None


def reads_a_column(
    read: Callable[Concatenate[Steps, Mapped, P], Reading],
) -> Callable[Concatenate[Steps, Mapped, P], Reading]:
    """Have a reading refuse a column whose type it cannot read, with its key, rather than fail inside a job."""

    @wraps(read)
    def checked(steps: Steps, mapped: Mapped, *arguments: P.args, **options: P.kwargs) -> Reading:
        mapped.require_no_bytes()
        reading = read(steps, mapped, *arguments, **options)
        if mapped.unconverted is not None and mapped.name not in IDENTIFYING:
            reading = replace(reading, lost=F.coalesce(reading.lost, mapped.unconverted))
        steps.note(mapped, reading)
        return reading

    return checked


@reads_a_column
def read_text(steps: Steps, mapped: Mapped) -> Reading:
    """Read text; a whole number becomes its digits, whatever the type: 17, 17.0 and 17.000 are one key.

    Text that is no UTF-8 is lost, and so is a float too large to tell whole numbers apart.

    Raises:
        FunnelError: the column is binary, or of another type that cannot be read so, or names a row by several values.
    """
    column, kind = mapped.column, mapped.kind
    if mapped.name in IDENTIFYING:
        mapped.require_one_value()
    effect = _REJECTED if mapped.name in IDENTIFYING else _MISSING
    if isinstance(kind, StringType):
        text = steps.keep_text(column)
        is_sound = F.is_valid_utf8(text) & ~F.contains(text, F.lit(REPLACEMENT))
        lost = F.when(~is_sound, F.make_valid_utf8(text))
        return Reading(mapped.name, F.when(is_sound, text), lost, "no UTF-8", f"{effect}; {_ENCODING}")
    if isinstance(kind, FloatType | DoubleType):
        largest = EXACT[type(kind)]
        limit = F.lit(float(largest))
        there = steps.keep(F.nanvl(column, F.lit(None).cast(kind)))
        whole = there.cast("long")
        written = F.when(whole.cast(kind) == there, whole.cast("string")).otherwise(there.cast("string"))
        return Reading(
            mapped.name,
            F.when(F.abs(there) <= limit, written),
            F.when(F.abs(there) > limit, _spell(there)),
            "no exact number",
            effect,
            refusal=f"{mapped.key} = {mapped.expression!r} has floats beyond {largest:,}, whose last digits are lost; "
            "deliver it as text or as whole numbers",
        )
    text = column.try_cast("string")
    if isinstance(kind, DecimalType):
        # Comparing two decimals would round them to a common scale.
        short = F.when(F.contains(text, F.lit("E")), text).otherwise(F.regexp_replace(text, r"\.?0+$", ""))
        text = F.when(column == 0, F.lit("0")).otherwise(short) if kind.scale else text
    return Reading(mapped.name, text, _nothing(), "no text", effect)


@reads_a_column
def read_number(steps: Steps, mapped: Mapped, *, has_decimal_comma: bool) -> Reading:
    """Read a number, as float64; true and yes are 1, false and no are 0. NaN is no value; infinity is no number.

    Raises:
        FunnelError: the column is binary, or of another type that cannot be read so.
    """
    fault, effect = "no number", f"{_MISSING} (decimal commas: source.users.decimal_comma)"
    if not isinstance(mapped.kind, StringType):
        number = steps.keep(F.nanvl(mapped.column.try_cast("double"), F.lit(None).cast("double")))
        is_finite = F.abs(number) < F.lit(float("inf"))
        lost = F.when(~is_finite, number.cast("string"))
        return Reading(mapped.name, F.when(is_finite, number), lost, fault, effect)
    text = steps.keep_text(mapped.column)
    if has_decimal_comma:
        # The comma becomes a point; what groups thousands has no counterpart and goes.
        number = F.when(F.rlike(text, F.lit(_COMMA_NUMBER)), F.translate(text, f",{_GROUPS}", "."))
    else:
        number = F.when(F.rlike(text, F.lit(_NUMBER)), text)
    word = F.lower(text)
    by_word = F.when(word.isin(*TRUE_WORDS), F.lit(1.0)).when(word.isin(*FALSE_WORDS), F.lit(0.0))
    value = steps.keep(F.coalesce(number.try_cast("double"), by_word))
    lost = F.when(value.isNull() & ~word.isin("", "nan"), F.make_valid_utf8(text))
    return Reading(mapped.name, value, lost, fault, effect)


@reads_a_column
def read_consent(steps: Steps, mapped: Mapped, words: Mapping[str, bool]) -> Reading:
    """Read consent: true, false, or null where the source is silent. What cannot be read counts as withdrawn.

    Args:
        words: further words, whatever their case.

    Raises:
        FunnelError: the column is binary, or of another type that cannot be read so.
    """
    fault, effect = "neither true nor false", "they count as withdrawn (source.users.consent_words can name them)"
    if isinstance(mapped.kind, BooleanType):
        lost = _nothing() if mapped.unconverted is None else mapped.unconverted
        given = F.coalesce(mapped.column, F.when(lost.isNotNull(), F.lit(False)))
        return Reading(mapped.name, given, lost, fault, effect)
    text = read_text(steps, mapped)
    word = steps.keep(F.lower(text.value))
    own = {each.strip(BLANKS).lower(): meaning for each, meaning in words.items()}
    by_meaning = {meaning: [each for each, its in own.items() if its is meaning] for meaning in (False, True)}
    given = steps.keep(
        F.when(word.isin(*by_meaning[False]), F.lit(False))
        .when(word.isin(*by_meaning[True]), F.lit(True))
        .when(word.isin(*FALSE_WORDS) | F.rlike(word, F.lit(r"^0+(\.0*)?$")), F.lit(False))
        .when(word.isin(*TRUE_WORDS) | F.rlike(word, F.lit(r"^0*1(\.0*)?$")), F.lit(True))
    )
    lost = steps.keep(F.coalesce(text.lost, F.when(given.isNull() & (word != ""), text.value)))
    return Reading(mapped.name, F.coalesce(given, F.when(lost.isNotNull(), F.lit(False))), lost, fault, effect)


@reads_a_column
def read_zone(steps: Steps, mapped: Mapped) -> Reading:
    """Read the name of a time zone, null where it is blank. One that is unknown is kept, and counted as lost."""
    text = read_text(steps, mapped)
    name = F.nullif(text.value, F.lit(""))
    unknown = F.when(~name.isin(*sorted(available_timezones())), name)
    return Reading(
        mapped.name, name, F.coalesce(text.lost, unknown), "no IANA time zone", "the funnel's own is used for them"
    )


@reads_a_column
def read_time(steps: Steps, mapped: Mapped, *, earliest: date, zone: str | None) -> Reading:
    """Read an instant. A number is seconds since 1970, in a column of numbers as in one of text.

    Args:
        earliest: a time before this date is none that anybody meant.
        zone: where a time without a zone was taken; None: in the session's.

    Returns: the reading, whose `problem` says why a time that was there cannot be used.

    Raises:
        FunnelError: the column is binary, or of another type that cannot be read so.
    """
    column, kind = mapped.column, mapped.kind
    problem = _nothing()
    if isinstance(kind, NUMBERS):
        if isinstance(kind, FloatType | DoubleType):
            column = steps.keep(F.nanvl(column.cast("double"), F.lit(None).cast("double")))
        text, value, problem = _spell(column), column.try_cast("timestamp"), _find_number_problem(column, earliest)
    elif isinstance(kind, StringType):
        text = steps.keep(F.nullif(steps.keep_text(column), F.lit("")))
        number = steps.keep(F.when(F.rlike(text, F.lit(r"^\d+(\.\d*)?$")), text.try_cast("double")))
        # Spark reads a time with a zone only if it has seconds.
        complete = F.regexp_replace(text, rf"({_DAY}[ T]\d{{1,2}}:\d{{1,2}})(?= *[A-Za-z+-])", "$1:00")
        value = steps.keep(
            F.when(number.isNotNull(), number.try_cast("timestamp"))
            .when(F.rlike(text, F.lit(_WITHOUT_ZONE)), _locate(text, zone))
            .when(F.rlike(text, F.lit(_WITH_ZONE)), complete.try_cast("timestamp"))
        )
        has_letters = F.rlike(text, F.lit(_WITH_LETTERS)) & ~F.rlike(text, F.lit(_WITH_ZONE))
        problem = F.when(number.isNotNull(), _find_number_problem(number, earliest)).when(
            value.isNull() & has_letters, F.lit("ambiguous time zone")
        )
        text = F.make_valid_utf8(text)
    else:
        text = column.try_cast("string")
        is_local = isinstance(kind, TimestampNTZType | DateType) and zone is not None
        value = _locate(text, zone) if is_local else column.try_cast("timestamp")
    value = steps.keep(value)
    problem = steps.keep(
        F.when(value >= F.lit(earliest).cast("timestamp"), problem).when(
            text.isNotNull(),
            F.coalesce(problem, F.when(value.isNull(), F.lit("unparsable time")), F.lit(f"time before {earliest}")),
        )
    )
    lost = F.when(problem.isNotNull(), text)
    return Reading(mapped.name, F.when(problem.isNull(), value), lost, "no usable time", _REJECTED, problem)


@reads_a_column
def read_date(steps: Steps, mapped: Mapped, *, earliest: date) -> Reading:
    """Read a date, such as a landing day; one before `earliest` is none that anybody meant.

    Raises:
        FunnelError: the column is binary, or of another type that cannot be read so.
    """
    text = mapped.column.try_cast("string")
    value = mapped.column.try_cast("date")
    if isinstance(mapped.kind, StringType):
        text = steps.keep(F.nullif(steps.keep_text(text), F.lit("")))
        value = F.when(F.rlike(text, F.lit(_DAY)), text.try_cast("date"))
        text = F.make_valid_utf8(text)
    value = steps.keep(value)
    value = F.when(value >= F.lit(earliest), value)
    return Reading(mapped.name, value, F.when(value.isNull(), text), "no usable date", _REJECTED)


def pack_lost(readings: Sequence[Reading]) -> Column:
    """One column for what all readings lost: an array in their order; null where they lost nothing."""
    lost = [reading.lost for reading in readings]
    return F.when(F.coalesce(*lost).isNotNull(), F.array(*lost))


def _locate(text: Column, zone: str | None) -> Column:
    """The instant of a local time, given as text, in a zone."""
    if zone is None:
        return text.try_cast("timestamp")
    clock = F.regexp_replace(text, rf"({_DAY})$", "$1 0:00:00")
    clock = F.regexp_replace(clock, rf"({_DAY}[ T]\d{{1,2}})$", "$1:00:00")
    clock = F.regexp_replace(clock, rf"({_DAY}[ T]\d{{1,2}}:\d{{1,2}})$", "$1:00")
    return F.concat(clock, F.lit(f" {zone}")).try_cast("timestamp")


def _find_number_problem(number: Column, earliest: date) -> Column:
    """Why a number is no count of seconds since 1970 that can be used; null if it is one, or merely out of range."""
    seconds, is_early = F.abs(number), number.try_cast("timestamp") < F.lit(earliest).cast("timestamp")
    return (
        F.when(
            F.rlike(number.try_cast("decimal(38,0)").cast("string"), F.lit(_DATE_AS_NUMBER)),
            F.lit("date written as a number"),
        )
        .when(is_early & number.between(1900, 2200), F.lit("year written as a number"))
        # Spreadsheets count days since 1899, some databases since 1970.
        .when(is_early & number.between(10_000, 100_000), F.lit("days written as a number"))
        .when(seconds >= 1e17, F.lit("time in nanoseconds"))
        .when(seconds >= 1e14, F.lit("time in microseconds"))
        .when(seconds >= 1e11, F.lit("time in milliseconds"))
    )


def _spell(number: Column) -> Column:
    """A float with all its digits where it is whole: 20260302 rather than 2.0260302E7."""
    digits = number.try_cast("decimal(38,0)")
    return F.when(digits.cast("double") == number, digits.cast("string")).otherwise(number.cast("string"))


def _nothing() -> Column:
    return F.lit(None).cast("string")
