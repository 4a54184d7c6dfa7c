"""`funnel doctor` checks everything a night depends on."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest

from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.funnels import sms
from tests.support.nights import publish

DAY = date(2026, 3, 1)

pytestmark = pytest.mark.usefixtures("spark")


def line_of(ended: Ended, check: str) -> str:
    (line,) = [line for line in ended.out.splitlines() if line.split()[1] == check]
    return line


def test_a_company_that_is_ready(company: Company, funnel: Callable[..., Ended]) -> None:
    today = datetime.now(company.settings.zone).date()
    for day in (DAY, DAY + timedelta(days=2), today):
        company.land(day)
    ended = funnel("doctor", "-c", company.config)
    assert ended.code == 0, ended.out
    assert {line.split()[0] for line in ended.out.splitlines()} == {"ok"}
    assert line_of(ended, "source").endswith("source/events/{ds}: 2 days, 2026-03-01 to 2026-03-03"), (
        "today is not over"
    )
    assert line_of(ended, "champion").endswith("funnel train --as-of")


@pytest.mark.parametrize("path", ["source/events/{ds}", "events.parquet"])
def test_a_missing_source(make_company: Callable[..., Company], funnel: Callable[..., Ended], path: str) -> None:
    company = make_company(replace={"source/events/{ds}": path})
    ended = funnel("doctor", "-c", company.config)
    assert "of 7" in ended.complaint
    line = line_of(ended, "source")
    assert line.startswith("failed  source ")
    assert "source.events.path" in line and f"{company.folder}/{path}" in line


@pytest.mark.parametrize(
    ("known", "word"), [(range(6), "ok"), (range(5, 11), "odd"), (range(20, 26), "failed"), (range(0), "ok")]
)
def test_events_and_profiles_that_share_no_user(
    company: Company, funnel: Callable[..., Ended], known: range, word: str
) -> None:
    company.land(DAY)
    publish(company, "events", DAY, [{"event_id": str(n), "user_id": f"{n}", "event": "exposure"} for n in range(6)])
    publish(company, "users", DAY, [{"user_id": f"{n}"} for n in known])
    ended = funnel("doctor", "-c", company.config)
    line = line_of(ended, "user_ids")
    assert line.startswith(word)
    facts = {
        0: "6 of 6",
        5: "few: 1 of 6",
        20: "0 of 6 users with events have a profile, such as '0' in events and '20'",
    }
    assert (facts[known.start] if known else "nothing to compare") in line
    assert ended.code == (word == "failed")


def test_a_damaged_registry(company: Company, funnel: Callable[..., Ended]) -> None:
    company.land(DAY)
    (company.folder / "models").mkdir()
    (company.folder / "models" / "mlflow.db").write_text("no database", encoding="utf-8")
    ended = funnel("doctor", "-c", company.config)
    assert ended.code == 1
    line = line_of(ended, "champion")
    assert line.startswith("failed  champion ")
    assert f"{company.folder}/models" in line


def deliver(company: Company, *, offer: str = "cash", type: str = "sms_click") -> None:
    texts = [sms(f"{n}", "ann", f"{DAY}T10:00:00+08:00", offer=offer) for n in range(3)]
    others = [sms(kind, "ann", f"{DAY}T11:00:00+08:00", type=kind) for kind in ("register", "complete_application")]
    company.land(DAY, [*texts, *others, sms("c", "ann", f"{DAY}T11:00:00+08:00", type=type)])


def test_a_source_that_fits_its_mapping(make_company: Callable[..., Company], funnel: Callable[..., Ended]) -> None:
    company = make_company('[scoring]\ncontext = { offer = "cash", hour = "10" }\n')
    deliver(company)
    ended = funnel("doctor", "-c", company.config)
    assert ended.code == 0
    assert line_of(ended, "mapping") == f"ok      mapping        fits 6 events of {DAY}"


def test_a_planned_value_and_an_event_that_never_occur(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    company = make_company('[scoring]\ncontext = { offer = "csah" }\n')
    deliver(company, type="sms_clicked")
    ended = funnel("doctor", "-c", company.config)
    assert ended.code == 0
    line = line_of(ended, "mapping")
    assert line.startswith("odd     mapping ")
    assert f"event of stage click, 'sms_click' (is it 'sms_clicked'?) never occurs in 6 events of {DAY}" in line
    assert "scoring.context.offer = 'csah' (is it 'cash'?) never occurs in the messages" in line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            'user_id = "uid", event = "type"',
            'user_id = "account", event = "type"',
            "source.events.columns.user_id = 'account'",
        ),
        ('offer = "offer"', 'offer = "product"', "source.events.context.offer = 'product'"),
        ('consent = "sms_consent"', 'consent = "agreed"', "source.users.columns.consent = 'agreed'"),
        ('exposure = "sms_sent"', 'exposure = "sms_send"', "funnel.exposure = 'sms_send' (is it 'sms_sent'?) never"),
    ],
)
def test_a_mapping_that_does_not_fit(
    make_company: Callable[..., Company], funnel: Callable[..., Ended], old: str, new: str, line: str
) -> None:
    company = make_company(replace={old: new})
    deliver(company)
    ended = funnel("doctor", "-c", company.config)
    assert "1 of 7" in ended.complaint
    assert line_of(ended, "mapping").startswith(f"failed  mapping        {line}")
