"""What the configuration does not map stays in the source: a phone number is in no table, message, log or report."""

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.ingest import ingest
from pipeline.nights import nightly
from tests.pipeline.erasure.test_erase import text_of
from tests.support.company import Company

DAY = date(2026, 3, 1)
AT = "2026-03-01 10:00:00"
PHONE = "447700900123"
CSV_EVENTS = [
    "id,phone,uid,type,ts,campaign,offer",
    f"1,{PHONE},ann,sms_sent,{AT},c,o",
    f"2,{PHONE},,sms_sent,{AT},c,o",
    f"3,{PHONE},bob,left,{AT},c,o",
    f"4,{PHONE},cho,sms_sent,at some time,c,o",
    f"5,+44,{PHONE},dan,sms_sent,{AT},c,o",
    f"6,{PHONE},eve,sms_sent,{AT}",
]
JSON_EVENTS = [
    json.dumps({"id": "1", "uid": "ann", "type": "sms_sent", "ts": AT, "phone": PHONE, "more": {"phone": PHONE}}),
    json.dumps({"id": "2", "uid": None, "type": "sms_sent", "ts": AT, "phone": PHONE, "more": {"campaign": "x"}}),
    '{"id": "3", "phone": "' + PHONE,
]
CSV_USERS = [
    "uid,sms_consent,city_tier,age,phone",
    f"ann,true,1,30,{PHONE}",
    f",true,1,30,{PHONE}",
    f"bob,perhaps,1,old,{PHONE}",
    f"cho,false,1,20,30,{PHONE}",
    f"dan,true,1,20,30,{PHONE}",
]
Plant = Callable[..., Company]

pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture
def plant(make_company: Callable[..., Company]) -> Plant:
    """A company whose every input has a phone number, in columns and lines that nothing maps."""

    def plant(kind: str, *, share: float = 1.0, more: str = "") -> Company:
        mapped = 'campaign_id = "campaign"' if kind == "csv" else 'campaign_id = "more.campaign"'
        company = make_company(
            f"[audit]\nmax_quarantine_share = {share}\nmax_unreadable_share = 1.0\n",
            replace={
                'path = "source/events/{ds}"': f'format = "{kind}"\npath = "source/events/{{ds}}"\n{more}',
                'path = "source/users/{ds}"': f'format = "csv"\npath = "source/users/{{ds}}"\n{more}',
                'campaign_id = "campaign"': mapped,
                'offer = "offer"': 'offer = "offer"' if kind == "csv" else 'offer = "more.campaign"',
            },
        )
        for name, lines in (("events", CSV_EVENTS if kind == "csv" else JSON_EVENTS), ("users", CSV_USERS)):
            folder = company.folder / "source" / name / DAY.isoformat()
            folder.mkdir(parents=True)
            Path(folder / "part-0.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return company

    return plant


def outputs(company: Company) -> dict[str, str]:
    """All that a company has but its source, as text: tables, metadata, reports; and what it printed."""
    files = [path for path in company.folder.rglob("*") if path.is_file() and "source" not in path.parts]
    return {str(path): text_of(path) for path in files} | {"printed": "\n".join(company.lines)}


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_phone_number_is_in_no_output(plant: Plant, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    company = plant(kind)
    with pytest.raises(FunnelError) as ended:
        nightly(company.context(), DAY)
    assert "no model" in str(ended.value) or "champion" in str(ended.value), "the night itself went on to its end"
    printed = capfd.readouterr()
    found = outputs(company) | {"stdout": printed.out, "stderr": printed.err}
    assert any(name.endswith(".html") for name in found)
    assert [name for name, text in found.items() if PHONE in re.sub("[ ,]", "", text)] == []
    rows = [json.loads(row["raw"]) for row in company.rows("quarantine")]
    if kind == "csv":
        assert {"id": "3", "uid": "bob", "type": "left", "ts": AT, "campaign": "c", "offer": "o"} in rows
        assert {"line": f"{len(CSV_EVENTS[5])} characters, not kept"} in rows
    else:
        assert {"id": "2", "uid": None, "type": "sms_sent", "ts": AT, "more.campaign": "x"} in rows
        assert {"line": f"{len(JSON_EVENTS[2])} characters, not kept"} in rows


def test_nor_in_what_a_stopped_night_tells(plant: Plant) -> None:
    company = plant("csv", share=0.01)
    with pytest.raises(FunnelError):
        ingest(company.context(), DateRange(DAY, DAY))
    assert company.rows("stopped_quarantine")
    assert any("rejected on" in line for line in company.lines)
    assert [name for name, text in outputs(company).items() if PHONE in text] == []


def test_more_is_kept_if_asked(plant: Plant) -> None:
    company = plant("csv", more='raw_content = "all"')
    ingest(company.context(), DateRange(DAY, DAY))
    rows = [json.loads(row["raw"]) for row in company.rows("quarantine")]
    assert sum(row.get("phone") == PHONE for row in rows) == 4
    assert {"line": CSV_EVENTS[5]} in rows
