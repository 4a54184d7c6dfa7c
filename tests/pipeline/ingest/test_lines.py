"""Lines of CSV and JSON files that hold more than their file's columns, or less, or nothing that can be read."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.ingest import ingest
from tests.support.company import Company

DAY = date(2026, 3, 1)
AT = "2026-03-01 10:00:00"
HEADER = "id,uid,type,ts,campaign,offer"

pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture
def land(make_company: Callable[..., Company]) -> Callable[..., Company]:
    def land(kind: str, lines: list[str], *, more: str = "", encoding: str = "utf-8") -> Company:
        company = make_company(
            "[audit]\nmax_quarantine_share = 1.0\n",
            replace={f'path = "source/{kind}/{{ds}}"': f'path = "source/{kind}/{{ds}}"\nraw_content = "all"\n{more}'},
        )
        company.land(DAY)
        folder = company.folder / "source" / kind / DAY.isoformat()
        next(folder.iterdir()).unlink()
        Path(folder / "part-0.txt").write_text("\n".join(lines) + "\n", encoding=encoding)
        ingest(company.context(), DateRange(DAY, DAY))
        return company

    return land


def rejected(company: Company) -> list[tuple[str, str]]:
    return [(row["reason"], json.loads(row["raw"]).get("line")) for row in company.rows("quarantine")]


def test_a_csv_line_is_a_row_as_long_as_nothing_of_it_is_lost(land: Callable[..., Company]) -> None:
    company = land(
        "events",
        [
            HEADER,
            f"1,ann,sms_sent,{AT},c,o",
            f"2,bob,sms_sent,{AT},c,o,",
            f"3,cho,sms_sent,{AT}",
            f"4,dan,sms_sent,{AT},spring, green,o",
            f'5,eve,sms_sent,{AT},c,"two',
            'lines"',
            f'6,fay,sms_sent,{AT},"c ""1"", or 2",o',
        ],
        more='format = "csv"',
    )
    events = {row["event_id"]: (row["campaign_id"], dict(row["context"])) for row in company.rows("events")}
    assert events == {
        "1": ("c", {"offer": "o"}),
        "2": ("c", {"offer": "o"}),
        "3": (None, {}),
        "5": ("c", {"offer": "two"}),
        "6": ('c "1", or 2', {"offer": "o"}),
    }
    assert rejected(company) == [
        ("more fields than columns", f"4,dan,sms_sent,{AT},spring, green,o"),
        ('quote not closed (multiLine = "true" reads on)', 'lines"'),
    ]
    told = f"(row): 1 of 7 values are not complete, such as '3,cho,sms_sent,{AT}'"
    assert [line for line in company.lines if told in line], company.lines


def test_separators_of_other_kinds(land: Callable[..., Company]) -> None:
    lines = [HEADER, f"1,ann,sms_sent,{AT},a, b,o", f"2,bob,sms_sent,{AT}"]
    company = land(
        "events",
        [line.replace(",", "\t").replace("\t ", ", ") for line in lines] + [f"3\tcho\tsms_sent\t{AT}\tc\to\tmore"],
        more='format = "csv"\noptions = { sep = "\\\\t" }',
    )
    assert [row["campaign_id"] for row in company.rows("events")] == ["a, b", None]
    assert [reason for reason, _ in rejected(company)] == ["more fields than columns"]


def test_texts_of_several_lines_are_read_by_an_option(land: Callable[..., Company]) -> None:
    lines = [HEADER, f'1,ann,sms_sent,{AT},"a', 'b",o', f"2,bob,sms_sent,{AT},c,o,x"]
    company = land("events", lines, more='format = "csv"\noptions = { multiLine = "true" }')
    assert [row["campaign_id"] for row in company.rows("events")] == ["a\nb"]
    assert [reason for reason, _ in rejected(company)] == ["more fields than columns"]


def test_utf_16_and_blanks_in_a_header(land: Callable[..., Company]) -> None:
    lines = ["uid, sms_consent , city_tier, age", "ann, true, Zürich, 30", "bob, no, 1, 20"]
    company = land("users", lines, more='format = "csv"\noptions = { encoding = "UTF-16" }', encoding="utf-16")
    users = {row["user_id"]: (row["consent"], row["city_tier"], row["age"]) for row in company.rows("users")}
    assert users == {"ann": (True, "Zürich", 30.0), "bob": (False, "1", 20.0)}
    assert not [line for line in company.lines if "no column" in line or "(row)" in line]
    with pytest.raises(FunnelError, match=r'options = \{ encoding = "UTF-16" \}'):
        land("users", lines, more='format = "csv"', encoding="utf-16")


def test_a_withdrawal_lands_even_if_the_rest_of_its_row_cannot(land: Callable[..., Company]) -> None:
    lines = [
        "uid,sms_consent,city_tier,age",
        "ann,false,1,30,more",
        "bob,true,1,30,more",
        "cho,perhaps,1,30,more",
        ",false,1,30,more",
        "dan,true,1,30",
    ]
    company = land("users", lines, more='format = "csv"')
    users = {row["user_id"]: (row["consent"], row["city_tier"], row["age"]) for row in company.rows("users")}
    assert users == {"ann": (False, None, None), "dan": (True, "1", 30.0)}
    assert [reason for reason, _ in rejected(company)] == ["users: more fields than columns"] * 3
    assert [line for line in company.lines if "(row): 1 of 5 values are not complete, such as 'ann,false" in line]


def test_a_withdrawal_lands_without_its_landing_day(make_company: Callable[..., Company]) -> None:
    company = make_company(
        "[audit]\nmax_quarantine_share = 1.0\n",
        replace={
            'path = "source/users/{ds}"': 'format = "json"\npath = "source/people"',
            'user_id = "uid", consent =': 'landed_on = "day", user_id = "uid", consent =',
        },
    )
    company.land(DAY)
    people = company.folder / "source" / "people"
    people.mkdir()
    told = [("ann", False, "soon"), ("bob", True, "soon"), ("cho", True, str(DAY))]
    rows = [{"uid": uid, "sms_consent": consent, "day": day} for uid, consent, day in told]
    (people / "a.json").write_text("\n".join(json.dumps(row | {"city_tier": "1", "age": 30}) for row in rows))
    ingest(company.context(), DateRange(DAY, DAY))
    assert [(row["user_id"], row["consent"]) for row in company.rows("users")] == [("ann", False), ("cho", True)]
    assert [row["reason"] for row in company.rows("quarantine")] == ["users: unparsable landing day"]


def test_a_json_line_that_cannot_be_read_is_shown_as_it_is(land: Callable[..., Company]) -> None:
    company = land(
        "users",
        [
            '{"uid": "ann", "sms_consent": true, "city_tier": "1", "age": 30}',
            '{"uid": "bob", "sms_consent": false, "city_tier": "1", "age": "thirty"}',
            '{"uid": "cho", "sms_consent": true, "ci',
            "{}",
        ],
        more='format = "json"\nschema = "age DOUBLE"',
    )
    users = {row["user_id"]: (row["consent"], row["age"]) for row in company.rows("users")}
    assert users == {"ann": (True, 30.0), "bob": (False, None)}
    assert rejected(company) == [
        ("users: malformed JSON", '{"uid": "cho", "sms_consent": true, "ci'),
        ("users: null user", None),
    ]
    # A value of another type is none of the line's faults: the file's own types are read.
    assert [line for line in company.lines if "age: 1 of 2 values are no number, such as 'thirty'" in line]
    assert not [line for line in company.lines if "(row)" in line]


def test_a_quote_that_swallows_the_rest_of_its_line_is_told(land: Callable[..., Company]) -> None:
    lines = [HEADER, f"1,ann,sms_sent,{AT},c,o", f'2,bob,sms_sent,{AT},"c,o']
    company = land("events", lines, more='format = "csv"\noptions = { escape = "\\\\" }')
    assert [row["event_id"] for row in company.rows("events")] == ["1", "2"]
    assert [line for line in company.lines if "(row): 1 of 2 values are not complete, such as '2,bob" in line]


def test_what_the_options_say_of_such_lines_holds(land: Callable[..., Company]) -> None:
    lines = [HEADER, f"1,ann,sms_sent,{AT},c,o", f"2,bob,sms_sent,{AT}"]
    company = land("events", lines, more='format = "csv"\noptions = { mode = "DROPMALFORMED" }')
    assert [row["event_id"] for row in company.rows("events")] == ["1"]
