"""A night's report: one file that says how the night went, whatever went wrong and whatever its data hold."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.errors import FunnelError
from pipeline.monitoring.monitor import monitor
from pipeline.nights import nightly
from pipeline.report.report import report
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish, publish_activity, publish_scores, record

D1 = date(2026, 3, 1)
D2 = D1 + timedelta(days=1)
MIDNIGHT = datetime(2026, 3, 2, 16, tzinfo=UTC)
SCORES = {f"user-{n:02}": 0.01 * (n + 1) for n in range(20)}
HOSTILE = "<script>alert('a')</script><img src=x onerror=alert(1)>&amp;"


class Page(HTMLParser):
    """What a reader sees: the text, and the elements it stands in."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.html = Path(path).read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id" and value]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture
def nights(company: Company) -> Company:
    """Two nights, with their scores, records and figures."""
    for day, share in ((D1, 1.0), (D2, 0.9)):
        publish_activity(company, day, (100, 10, 4, 1))
        publish_scores(company, day, {user: p * share for user, p in SCORES.items()}, model="model-7")
        record(company, day, "ingest", MIDNIGHT, rows_in=200, rows_out=188, duplicates=10, quarantined=2)
        record(company, day, "score", MIDNIGHT + timedelta(hours=1), rows_in=20, rows_out=20, seconds=61.25)
        monitor(company.context(), day)
    return company


def test_a_good_night(nights: Company) -> None:
    path = report(nights.context(), D2)
    assert path == str(nights.folder / "reports" / "2026-03-02.html")
    page = Page(path)
    text = page.text
    assert (
        "Funnel night 2026-03-02 ✓ Scores are out , without warnings. What to do Nothing: the scores may be used."
        in text
    )
    assert "Users scored 20 Expected from one message each 0.5 complete Model model-7 Scored at (Asia/Shanghai)" in text
    assert "2026-03-02 09:30 Compared with 2026-03-01" in text
    explained = "share of users expected to reach the stage after one exposure each"
    assert f"Mean score {explained} click 9.45% 10.5% −1.05 points" in text
    assert "Rows landed events and users that arrived and were kept 188 188 ±0" in text
    assert "ingest ✓ ok 200 188 10 2 0 1.0 2026-03-03 00:00" in text
    assert "score ✓ ok 20 20 0 0 0 61.2" in text
    assert "Band 10 averages 17.6%, all users 9.45% (dashed)." in text
    assert "10 per 100 messages over these days, 10 on the last day." in text
    assert "WHERE ds = '2026-03-02' ORDER BY p_complete DESC" in text
    assert page.tags.count("svg") == 9


def test_scores_that_monitoring_has_not_seen_are_not_to_be_used(nights: Company) -> None:
    publish_scores(nights, D2, SCORES, model="model-7", scored_at=datetime.now(UTC) + timedelta(minutes=1))
    text = Page(report(nights.context(), D2)).text
    assert "Make no list from these scores before they are monitored: funnel monitor --ds 2026-03-02." in text
    assert "may be used" not in text


def test_many_events_of_few_exposures_that_are_no_messages(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'exposure = "sms_sent"': 'exposure = "visited"\nexposure_word = "visit"'})
    publish_activity(company, D1, (100, 372, 10, 0))
    publish_activity(company, D2, (3, 9, 30_000, 0))
    for day, score in ((D1, 0.0000004), (D2, 0.9)):
        publish_scores(company, day, dict.fromkeys(SCORES, score))
        publish(company, "feature_samples", day, [{"user_id": f"u{n}", "age": n + 1e6 * score} for n in range(3)])
        record(company, day, "score", MIDNIGHT)
        monitor(company.context(), day)
    text = Page(report(company.context(), D2)).text
    assert re.findall(r"\S*\d[eE][+-]?\d\S*", text) == [], "no figure and no axis has an exponent"
    shares = [float(share.replace(",", "")) for share in re.findall(r"([\d.,]+)%", text)]
    assert shares and max(shares) <= 100
    assert "370 per 100 visits over these days, 300 on the last day." in text
    assert "29,100 per 100 visits over these days, 1,000,000 on the last day." in text
    assert "age 900,000 " in text
    assert re.findall(r"(?i)\b(?:text(?:ed|s|ing)|messages?|sms)\b", text.partition("Where to look next Run")[0]) == []


def test_it_is_self_contained(nights: Company) -> None:
    page = Page(report(nights.context(), D2))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert set(re.findall(r"https?://[^\s\"']*", page.html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in page.html
    assert re.findall(r"url\((?!#)", page.html) == []
    assert len(page.ids) == len(set(page.ids))
    drawn = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page.html))
    assert drawn and drawn <= set(page.ids)


def test_a_warning_is_new_by_its_topic_not_by_its_words(nights: Company) -> None:
    earlier = {"warnings": "drift of age: PSI 0.41", "warning_topics": "feature_psi age"}
    tonight = {"warnings": "age has moved\nso has drift of age", "warning_topics": "feature_psi age\nfeature_psi drift"}
    for day, of_night in ((D1, earlier), (D2, tonight)):
        record(nights, day, "monitor", MIDNIGHT + timedelta(days=365), **of_night)
    text = Page(report(nights.context(), D2)).text
    assert "▲ monitor age has moved ▲ monitor new so has drift of age" in text


@pytest.mark.slow
def test_the_same_night_is_the_same_file(nights: Company) -> None:
    path = Path(report(nights.context(), D2))
    first = path.read_bytes()
    assert Path(report(nights.context(), D2)).read_bytes() == first
    assert [each.name for each in path.parent.iterdir()] == ["2026-03-02.html"]


@pytest.mark.parametrize("stage", ["ingest", "activity", "score", "publish", "monitor", "a stage of tomorrow"])
def test_a_failed_stage_comes_first(company: Company, stage: str) -> None:
    publish_scores(company, D1, SCORES)
    record(company, D2, "ingest", MIDNIGHT, rows_in=200, rows_out=200)
    record(company, D2, stage, MIDNIGHT + timedelta(hours=1), status="failed", message="the disk is full")
    text = Page(report(company.context(), D2)).text
    assert (
        f"Funnel night 2026-03-02 ✗ {stage} failed for 2026-03-02: the disk is full ✗ No scores for this night." in text
    )
    assert "The newest earlier ones are of 2026-03-01." in text
    assert f"{stage} ✗ failed 0 0" in text


@pytest.mark.slow
def test_a_failed_rerun_keeps_the_night_s_scores(nights: Company) -> None:
    record(nights, D2, "score", MIDNIGHT + timedelta(hours=5), status="failed", message="no model")
    text = Page(report(nights.context(), D2)).text
    assert "score failed for 2026-03-02: no model ▲ Scores exist , from 2026-03-02 09:30" in text
    assert "Users scored 20" in text


@pytest.mark.slow
def test_a_failure_that_was_fixed_is_not_reported(nights: Company) -> None:
    record(nights, D2, "score", MIDNIGHT + timedelta(minutes=30), status="failed", message="no model")
    assert "no model" not in Page(report(nights.context(), D2)).text


def test_a_night_that_monitoring_stopped_says_so(company: Company) -> None:
    publish_scores(company, D1, SCORES)
    record(company, D1, "score", MIDNIGHT)
    record(company, D1, "monitor", MIDNIGHT, status="failed", message="drift of age: PSI 0.6 > 0.5")
    text = Page(report(company.context(), D1)).text
    assert "✗ monitor failed for 2026-03-01: drift of age: PSI 0.6 > 0.5 ▲ Scores exist" in text
    assert "What to do Make no list from these scores until monitoring passes" in text


def test_a_first_night(company: Company) -> None:
    publish_scores(company, D1, SCORES)
    record(company, D1, "score", MIDNIGHT)
    monitor(company.context(), D1)
    text = Page(report(company.context(), D1)).text
    assert "Compared with no earlier night" in text
    assert "Scores are out" in text


def test_a_first_night_that_failed_at_once(company: Company) -> None:
    record(company, D1, "ingest", MIDNIGHT, status="failed", message="nothing at source/events")
    text = Page(report(company.context(), D1)).text
    assert (
        "ingest failed for 2026-03-01: nothing at source/events ✗ No scores for this night. No earlier night has any."
        in text
    )


@pytest.mark.slow
def test_a_night_of_one_user_with_equal_scores(company: Company) -> None:
    publish_scores(company, D1, {"ann": 0.0})
    record(company, D1, "score", MIDNIGHT)
    assert "Band 1 averages 0%, all users 0% (dashed)." in Page(report(company.context(), D1)).text


def test_data_are_shown_as_text_not_as_html(company: Company) -> None:
    publish_scores(company, D1, {HOSTILE: 0.2}, model=HOSTILE)
    record(company, D1, HOSTILE, MIDNIGHT, warnings=f"{HOSTILE}\nsecond")
    record(company, D1, "score", MIDNIGHT + timedelta(hours=1), status="failed", message=HOSTILE)
    page = Page(report(company.context(), D1))
    assert not {"script", "img"} & set(page.tags)
    assert f"score failed for 2026-03-01: {HOSTILE}" in page.text
    assert f"Model {HOSTILE}" in page.text
    assert f"▲ {HOSTILE} {HOSTILE} ▲ {HOSTILE} second" in page.text


def test_nothing_ran(nights: Company, funnel: Callable[..., Ended]) -> None:
    assert funnel("report", "--ds", "2026-02-01", "-c", nights.config).complaint == (
        "nothing ran for 2026-02-01, the newest night that ran is 2026-03-02: "
        "run `funnel nightly --ds 2026-02-01` first"
    )
    assert not (nights.folder / "reports").exists()


def test_nothing_ever_ran(company: Company, funnel: Callable[..., Ended]) -> None:
    ended = funnel("report", "--ds", "2026-02-01", "-c", company.config)
    assert ended.complaint.startswith("nothing ran for 2026-02-01, no night has run yet")
    assert not (company.folder / "warehouse").exists()


@pytest.mark.parametrize("path", ["funnel.toml", "/proc/no", "nowhere://bucket/reports"])
def test_a_report_that_cannot_be_written(nights: Company, funnel: Callable[..., Ended], path: str) -> None:
    nights.config.write_text(nights.config.read_text() + f'[reports]\npath = "{path}"\n', encoding="utf-8")
    complaint = funnel("report", "--ds", D2, "-c", nights.config).complaint
    assert re.match(r"the report \S+/2026-03-02\.html cannot be written: .+; see \[reports\] path$", complaint)


@pytest.mark.slow
def test_a_report_that_cannot_be_written_leaves_the_old_one(nights: Company) -> None:
    path = Path(report(nights.context(), D2))
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(FunnelError, match="cannot be written"):
        report(nights.context(), D2)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.slow
def test_the_folder_may_be_a_uri(nights: Company) -> None:
    folder = f"file://{nights.folder}/by-uri"
    nights.config.write_text(nights.config.read_text() + f'[reports]\npath = "{folder}"\n', encoding="utf-8")
    assert report(nights.context(), D2) == f"{folder}/2026-03-02.html"
    assert (nights.folder / "by-uri" / "2026-03-02.html").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("spark")
class TestNightly:
    """With Spark, which looks for the source."""

    def test_a_night_that_fails_is_reported_and_still_fails(self, company: Company) -> None:
        with pytest.raises(FunnelError, match=r"^ingest 2026-03-02: .* nothing at .*/source/events/2026-03-02"):
            nightly(company.context(), D2)
        text = Page(str(company.folder / "reports" / "2026-03-02.html")).text
        assert "ingest failed for 2026-03-02: source.events.path: nothing at" in text

    def test_the_stage_s_failure_is_raised_even_if_the_report_fails(self, make_company: Callable[..., Company]) -> None:
        company = make_company('[reports]\npath = "funnel.toml"\n')
        with pytest.raises(FunnelError, match=r"^ingest 2026-03-02: "):
            nightly(company.context(), D2)
        assert company.lines[-1].startswith("no report of 2026-03-02: the report ")
