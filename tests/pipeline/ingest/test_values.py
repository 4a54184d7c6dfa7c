"""How a value of the source is read, by type and spelling, and which values are lost."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession

from pipeline.engines.spark import open_session
from pipeline.errors import FunnelError
from pipeline.ingest.source import map_columns
from pipeline.ingest.values import Reading, Steps, read_consent, read_date, read_number, read_text, read_time
from tests.support.company import Company

EARLIEST = date(2000, 1, 1)
BEFORE = "time before 2000-01-01"
TODAY = datetime(2026, 3, 1, 9, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("spark")


CONF = {
    # A test before this one may have left the zone of its own funnel.
    "spark.sql.session.timeZone": "Asia/Shanghai",
    # Of few rows and many queries, compiling them would take nearly all the time.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


@pytest.fixture(scope="module")
def session(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    session = open_session(Company.make(tmp_path_factory.mktemp("values")).settings)
    before = {key: session.conf.get(key, None) for key in CONF}
    for key, value in CONF.items():
        session.conf.set(key, value)
    yield session
    for key, old in before.items():
        session.conf.unset(key) if old is None else session.conf.set(key, old)


def read(
    session: SparkSession,
    values: list[Any],
    kind: str,
    how: Callable[..., Reading],
    name: str = "user_id",
    expression: str = "theirs",
    **options: Any,
) -> list[tuple[Any, ...]]:
    """The value, what was lost and why, of each."""
    rows = session.createDataFrame([(each,) for each in values], f"theirs {kind}").coalesce(1)
    steps = Steps(rows)
    reading = how(steps, map_columns(rows, {name: expression}, "source.users.columns")[name], **options)
    columns = [reading.value, reading.lost, *([] if reading.problem is None else [reading.problem])]
    return [tuple(row) for row in steps.select(columns).collect()]


def texts(session: SparkSession, values: list[Any], kind: str, expression: str = "theirs") -> list[tuple[Any, ...]]:
    return read(session, values, kind, read_text, expression=expression)


def test_one_key_has_one_spelling_whatever_its_type(session: SparkSession) -> None:
    for kind, value in (
        ("double", 10_000_017.0),
        ("bigint", 10_000_017),
        ("decimal(38,10)", Decimal("10000017.0000000000")),
        ("float", 10_000_017.0),
        ("string", "10000017"),
        ("string", "\u00a0 10000017\t\u3000\ufeff"),
    ):
        assert texts(session, [value, None], kind) == [("10000017", None), (None, None)], kind
    assert texts(session, [-3.0, 0.5, float("nan"), 2.0**53], "double") == [
        ("-3", None),
        ("0.5", None),
        (None, None),
        ("9007199254740992", None),
    ]
    assert texts(session, [Decimal("0"), Decimal("1.5"), Decimal("-100")], "decimal(38,10)") == [
        ("0", None),
        ("1.5", None),
        ("-100", None),
    ]
    assert texts(session, ["0013 ", "a b", " ", ""], "string") == [
        ("0013", None),
        ("a b", None),
        ("", None),
        ("", None),
    ]


def test_floats_that_cannot_tell_whole_numbers_apart_stop_the_night(session: SparkSession) -> None:
    assert texts(session, [2.0**53 + 2, 1e300], "double") == [(None, "9007199254740994"), (None, "1.0E300")]
    assert texts(session, [2.0**24, 2.0**24 + 2], "float") == [("16777216", None), (None, "16777218")]


def test_bytes_that_are_no_utf_8_are_lost_and_binary_is_refused(session: SparkSession) -> None:
    latin = "ren\u00e9".encode("latin-1")
    assert texts(session, [latin, "ren\u00e9".encode()], "binary", "CAST(theirs AS STRING)") == [
        (None, "ren\ufffd"),
        ("ren\u00e9", None),
    ]
    assert texts(session, ["ren\ufffd"], "string") == [(None, "ren\ufffd")], "a reader put it in the place of bytes"
    with pytest.raises(FunnelError, match=r"source\.users\.columns\.user_id = 'theirs' is binary.*decode\(theirs"):
        texts(session, [latin], "binary")


def test_several_values_are_no_key(session: SparkSession) -> None:
    for kind, value, cure in (("array<string>", ["ann"], r'"theirs\[0\]"'), ("struct<id: int>", (1,), r'"theirs\.id"')):
        with pytest.raises(FunnelError, match=rf"user_id = 'theirs' is of type {kind.split('<')[0]}<.*such as {cure}"):
            texts(session, [value], kind)


def test_numbers_as_people_and_tools_write_them(session: SparkSession) -> None:
    def numbers(values: list[Any], kind: str = "string", *, comma: bool = False) -> list[tuple[Any, ...]]:
        return read(
            session, values, kind, lambda steps, mapped: read_number(steps, mapped, has_decimal_comma=comma), "age"
        )

    sound = {" 12.5 ": 12.5, "-.5": -0.5, "1e3": 1000.0, "true": 1.0, "False": 0.0, "yes": 1.0, "N": 0.0}
    assert numbers([*sound]) == [(value, None) for value in sound.values()]
    assert numbers(["", "\u00a0", "NaN", None]) == [(None, None)] * 4, "nothing was there"
    lost = ["1.000,50", "20 years", "1,5", "12d", "Infinity", "1e999"]
    assert numbers(lost) == [(None, each) for each in lost]
    german = {"1.000,50": 1000.5, "12,5": 12.5, "-1 234 567,0": -1234567.0, "1\u202f000": 1000.0, "7": 7.0, "yes": 1.0}
    assert numbers([*german], comma=True) == [(value, None) for value in german.values()]
    assert numbers(["1.5", "1,2,3"], comma=True) == [(None, "1.5"), (None, "1,2,3")]
    assert numbers([1.5, float("nan"), float("inf")], "double") == [(1.5, None), (None, None), (None, "Infinity")]
    assert numbers([True, False, None], "boolean") == [(1.0, None), (0.0, None), (None, None)]


def test_consent_is_read_in_usual_words_and_in_those_of_the_configuration(session: SparkSession) -> None:
    def consents(values: list[Any], kind: str = "string", **words: bool) -> list[tuple[Any, ...]]:
        return read(session, values, kind, read_consent, "consent", words=words)

    said = {"true": True, "YES": True, "y": True, "1": True, "1.0": True, " t": True}
    said |= {"false": False, "No": False, "0": False, "0.00": False}
    assert consents([*said]) == [(meaning, None) for meaning in said.values()]
    assert consents(["opted_in", "2", "on", "ren\ufffd"]) == [
        (False, "opted_in"),
        (False, "2"),
        (False, "on"),
        (False, "ren\ufffd"),
    ]
    assert consents(["", " ", None]) == [(None, None)] * 3
    assert consents(["Opted_In", "opted_out", "1"], opted_in=True, OPTED_OUT=False) == [
        (True, None),
        (False, None),
        (True, None),
    ]
    assert consents([1.0, 0.0, 2.0, float("nan")], "double") == [
        (True, None),
        (False, None),
        (False, "2"),
        (None, None),
    ]
    assert consents([True, False, None], "boolean") == [(True, None), (False, None), (None, None)]


def times(session: SparkSession, values: list[Any], kind: str, zone: str | None = None) -> list[tuple[Any, ...]]:
    found = read(
        session,
        values,
        kind,
        lambda steps, mapped: read_time(steps, mapped, earliest=EARLIEST, zone=zone),
        "event_time",
    )
    return [(value and value.astimezone(UTC), lost, problem) for value, lost, problem in found]


def test_a_time_that_nobody_can_mean_says_why(session: SparkSession) -> None:
    whys: dict[str, dict[Any, str]] = {
        "string": {
            "0001-01-01T00:00:00Z": BEFORE,
            "0001-01-01 00:00:00": BEFORE,
            "1899-12-30T00:00:00Z": BEFORE,
            "20260302": "date written as a number",
            "2026": "year written as a number",
            "1772355600000": "time in milliseconds",
            "2026-03-01 17:00:00 CST": "ambiguous time zone",
            "2026-03-01 17:00 IST": "ambiguous time zone",
            "2026-03-01T17:00:00 PRC": "ambiguous time zone",
            "12:30:00": "unparsable time",
            "2026-03": "unparsable time",
            "01/03/2026": "unparsable time",
            "at noon": "unparsable time",
        },
        "bigint": {
            0: BEFORE,
            20260302: "date written as a number",
            20260302153000: "date written as a number",
            2026: "year written as a number",
            1772355600_000: "time in milliseconds",
            1772355600_000_000_000: "time in nanoseconds",
        },
        "double": {20260302.0: "date written as a number", 46082.5: "days written as a number"},
        "decimal(20,0)": {Decimal(1772355600_000_000): "time in microseconds"},
        "timestamp": {datetime(1, 1, 2, tzinfo=UTC): BEFORE},
    }
    for kind, problems in whys.items():
        found = times(session, [*problems], kind)
        assert [(instant, problem) for instant, _, problem in found] == [(None, each) for each in problems.values()]
        if kind in ("string", "bigint"):
            assert [lost for _, lost, _ in found] == [str(each) for each in problems]


def test_a_time_is_an_instant(session: SparkSession) -> None:
    texts = [
        "1772355600",
        "2026-03-01T09:00:00Z",
        "2026-03-01T09:00Z",
        " 2026-03-01 10:00:00.000 Europe/Paris\u00a0",
        "2026-03-01 04:00-05:00",
        "2026-03-01 09:00:00 UTC",
        "2026-03-01 17:00:00+0800",
        "2026-03-01 17:00",
    ]
    assert times(session, texts, "string") == [(TODAY, None, None)] * len(texts)
    for kind, value in (
        ("bigint", 1772355600),
        ("double", 1772355600.0),
        ("timestamp", TODAY),
        ("timestamp_ntz", datetime(2026, 3, 1, 17)),
    ):
        assert times(session, [value, None], kind) == [(TODAY, None, None), (None, None, None)], kind


def test_what_a_time_without_a_zone_means_is_configured(session: SparkSession) -> None:
    assert times(session, [datetime(2026, 3, 1, 9)], "timestamp_ntz", "UTC") == [(TODAY, None, None)]
    # In Paris clocks skip this hour, in Shanghai they do not: nothing is lost on the way through the session's zone.
    assert times(session, [datetime(2026, 3, 29, 2, 30)], "timestamp_ntz", "UTC")[0][0] == datetime(
        2026, 3, 29, 2, 30, tzinfo=UTC
    )
    assert (
        times(session, ["2026-03-01 09:00:00", "2026-03-01 9:00", "2026-03-01T09"], "string", "UTC")
        == [(TODAY, None, None)] * 3
    )
    # One with a zone of its own keeps it.
    assert times(session, ["2026-03-01T09:00:00Z", 1772355600], "string", "Europe/Paris") == [(TODAY, None, None)] * 2
    assert times(session, [date(2026, 3, 1)], "date", "UTC")[0][0] == datetime(2026, 3, 1, tzinfo=UTC)


def test_a_landing_day_is_a_whole_date(session: SparkSession) -> None:
    def dates(values: list[Any], kind: str) -> list[tuple[Any, ...]]:
        return read(
            session, values, kind, lambda steps, mapped: read_date(steps, mapped, earliest=EARLIEST), "landed_on"
        )

    assert dates(["2026-03-01 ", "someday", "2026", "0001-01-01", "", None], "string") == [
        (date(2026, 3, 1), None),
        (None, "someday"),
        (None, "2026"),
        (None, "0001-01-01"),
        (None, None),
        (None, None),
    ]


def test_a_type_that_cannot_be_read_names_the_key(session: SparkSession) -> None:
    with pytest.raises(FunnelError, match=r"source\.users\.columns\.age = 'theirs' does not fit: its type is date"):
        read(session, [date(2026, 3, 1)], "date", read_number, "age", has_decimal_comma=False)
    with pytest.raises(FunnelError, match=r"event_time = 'theirs' does not fit: its type is array<int>"):
        read(session, [[1]], "array<int>", read_time, "event_time", earliest=EARLIEST, zone=None)


def test_one_mapping_does_not_read_the_column_of_another(session: SparkSession) -> None:
    """`user_id` is ours, not the source's, whatever else is mapped to it."""
    rows = session.createDataFrame([("a",)], "theirs string")
    with pytest.raises(FunnelError, match=r"source\.events\.columns\.event_id = 'user_id' .*no column `user_id`"):
        map_columns(rows, {"user_id": "theirs", "event_id": "user_id"}, "source.events.columns")


@pytest.mark.parametrize(
    ("expression", "values", "numbers", "lost"),
    [
        ("cast(theirs AS double)", ["1.5", "1.000,5", " ", None, "NaN"], [1.5, None, None, None, None], {1: "1.000,5"}),
        ("theirs::int", ["17", "17 years"], [17.0, None], {1: "17 years"}),
        ("double(replace(theirs, ',', '.'))", ["1,5", "x,5"], [1.5, None], {1: "x.5"}),
        ("cast(try_cast(theirs AS int) AS string)", ["17", "none yet"], [17.0, None], {1: "none yet"}),
        # What means null on purpose loses nothing.
        ("nullif(theirs, '0')", ["17", "0"], [17.0, None], {}),
        ("CASE WHEN theirs > 0 THEN cast(theirs AS int) END", ["17", "x"], [17.0, None], {}),
    ],
)
def test_what_an_expression_cannot_convert_is_lost(
    session: SparkSession, expression: str, values: list[Any], numbers: list[Any], lost: dict[int, str]
) -> None:
    expected = [(number, lost.get(place)) for place, number in enumerate(numbers)]
    options = {"name": "age", "expression": expression, "has_decimal_comma": False}
    assert read(session, values, "string", read_number, **options) == expected


def test_a_consent_that_an_expression_cannot_convert_is_withdrawn(session: SparkSession) -> None:
    values = ["true", "no", "opted_out", "", None]
    options: dict[str, Any] = {"name": "consent", "words": {}}
    assert read(session, values, "string", read_consent, expression="cast(theirs AS boolean)", **options) == [
        (True, None),
        (False, None),
        (False, "opted_out"),
        (None, None),
        (None, None),
    ]
    assert read(session, values, "string", read_consent, expression="NOT boolean(theirs)", **options) == [
        (False, None),
        (True, None),
        (False, "opted_out"),
        (None, None),
        (None, None),
    ]


def test_a_time_that_an_expression_cannot_read_is_shown(session: SparkSession) -> None:
    values = ["01/03/2026 09:00", "yesterday", None]
    options = {"name": "event_time", "expression": "to_timestamp(theirs, 'dd/MM/yyyy HH:mm')"}
    found = read(session, values, "string", read_time, earliest=EARLIEST, zone=None, **options)
    assert [(value is not None, lost) for value, lost, _ in found] == [
        (True, None),
        (False, "yesterday"),
        (False, None),
    ]


@pytest.mark.parametrize("expression", ["uuid()", "concat(theirs, rand())"])
def test_an_expression_that_is_random_is_refused(session: SparkSession, expression: str) -> None:
    with pytest.raises(FunnelError, match=r"source.users.columns.user_id = .* gives another value each time"):
        texts(session, ["1"], "string", expression)
