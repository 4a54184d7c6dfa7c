"""The report's sections for a hand-made company: checked by pandas and scikit-learn, and in a browser."""

import pkgutil
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.monitoring.monitor import monitor
from pipeline.report import sections
from pipeline.report.report import SECTIONS, report
from tests.pipeline.report.test_report import Page
from tests.support.company import Company
from tests.support.nights import STAGES, publish, publish_activity, publish_scores, record

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SCORED = date(2026, 3, 1)
"""The night whose outcomes are known by tonight, to the last stage."""
SENT = SCORED + timedelta(days=1)
BEFORE, TONIGHT = SCORED + timedelta(days=19), SCORED + timedelta(days=20)
USERS = [f"user-{n:03}" for n in range(200)]
SCORES = np.random.default_rng(0).beta(2, 6, len(USERS)).round(4)
CLICKED = np.random.default_rng(1).random(len(USERS)) < SCORES
WARNING = "drift of age: PSI 0.41 > 0.25 (against model-1 as of 2026-02-20)"


def night_of(ds: date) -> datetime:
    return datetime(ds.year, ds.month, ds.day, 20, tzinfo=UTC)


def metric(name: str, value: float, **of: Any) -> dict[str, Any]:
    return {"ds": TONIGHT, "name": name, "value": value, "run_id": "night", "model_version": "model-1", **of}


def fill(company: Company) -> None:
    """Three scored nights; messages of the first with their clicks; drift, experts, audits and lists of tonight."""
    context = company.context()
    for ds, factor in ((SCORED, 1.0), (BEFORE, 1.0), (TONIGHT, 0.9)):
        users = USERS if ds != TONIGHT else [*USERS[3:], "new-1", "new-2"]
        publish_scores(company, ds, dict(zip(users, SCORES * factor, strict=False)))
        publish_activity(company, ds, (100, 10, 4, 1))
        record(company, ds, "ingest", night_of(ds), rows_in=200, rows_out=188, duplicates=10, quarantined=2)
        record(company, ds, "score", night_of(ds) + timedelta(hours=1), rows_in=200, rows_out=200)
    sent, clicked = (pd.Timestamp(SENT, tz="Asia/Shanghai") + pd.Timedelta(hours=hours) for hours in (10, 12))
    texts = [
        {"event_id": f"m{n}", "user_id": user, "event": "exposure", "event_time": sent} for n, user in enumerate(USERS)
    ]
    clicks = [
        {"event_id": f"c{n}", "user_id": user, "event": "click", "event_time": clicked}
        for n, user in enumerate(USERS)
        if CLICKED[n]
    ]
    publish(company, "events", SENT, [*texts, *clicks])
    for ds, mean in ((BEFORE, 40.0), (TONIGHT, 45.0)):
        ages = [mean - 10, mean, mean + 10]
        publish(company, "feature_samples", ds, [{"user_id": f"u{age}", "age": age, "click_n_7d": 1} for age in ages])
    monitor(context, TONIGHT)
    record(company, TONIGHT, "monitor", datetime.now(UTC) + timedelta(minutes=1), warnings=WARNING)
    context.warehouse.append(
        "metrics",
        [
            metric("feature_psi", 0.41, feature="age", past="warn"),
            metric("feature_missing_share", 0.125, feature="age"),
            metric("feature_missing_change", 0.0225, feature="age"),
            metric("feature_missing_untaught", -0.2, feature="age", past="warn"),
            *(metric("feature_psi", 0.01 + n / 1000, feature=f"click_n_{n}d") for n in range(14)),
            metric("feature_unseen_share", 0.031, feature="city_tier", past="stop"),
            *(
                metric(f"held_out_{name}", value, stage="click")
                for name, value in {
                    "rows": 2_400,
                    "positives": 60,
                    "auc": 0.71234,
                    "log_loss": 0.1163,
                    "ece": 0.0021,
                }.items()
            ),
            *(
                metric("expert_use", share, stage=stage, feature=f"expert {expert}")
                for stage, shares in zip(STAGES, ((0.7, 0.2, 0.1), (0.1, 0.6, 0.3), (0.3, 0.3, 0.4)), strict=True)
                for expert, share in zip((0, 2, 10), shares, strict=True)
            ),
        ],
    )
    check = {"ds": TONIGHT, "audited": "user_scores", "severity": "critical", "run_id": "night", "status": "ok"}
    warned = check | {"columns": "p_click", "severity": "warning", "status": "warning", "observed": "observed 9 of 200"}
    context.warehouse.append(
        "audits",
        [
            each | {"checked_at": night_of(TONIGHT) + timedelta(hours=hours), "expectation": expectation}
            for each, hours, expectation in (
                (check | {"status": "failed", "columns": "p_click"}, 1, "an earlier run's"),
                (check | {"columns": "user_id"}, 2, "expect_column_values_to_be_unique()"),
                (warned, 2, "expect_column_values_to_be_between(max_value=0.5)"),
            )
        ],
    )
    arms = [("target", "selected")] * 60 + [("control", "control")] * 10 + [("suppressed", "frequency_cap")] * 30
    publish(
        company,
        "targets",
        TONIGHT,
        [
            {"campaign_id": "spring", "version": version, "user_id": user, "arm": arm, "reason": reason, "p_goal": 0.5}
            | {"goal": "complete", "send_on": TONIGHT + timedelta(days=1), "sms_cost": 0.1}
            for version, size in ((1, 5), (2, 100))
            for user, (arm, reason) in list(zip(USERS, arms, strict=False))[:size]
        ],
    )


@pytest.fixture(scope="module")
def path(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    company = Company.make(tmp_path_factory.mktemp("reported"))
    fill(company)
    return report(company.context(), TONIGHT)


@pytest.fixture(scope="module")
def page(path: str) -> Page:
    return Page(path)


def test_warnings_come_first_and_new_ones_are_marked(page: Page) -> None:
    assert "✓ Scores are out , with warnings: see below. What to do Read the warnings below before you" in page.text
    assert f"▲ monitor new {WARNING}" in page.text


def test_what_changed(page: Page) -> None:
    both = pd.DataFrame({"before": SCORES[3:], "now": SCORES[:-3] * 0.9})
    mean, before = both["now"].mean(), both["before"].mean()
    assert "The same as the night before, model-1." in page.text
    assert "197 were scored on both nights, 2 are new, 3 are no longer scored." in page.text
    assert "Warnings 1 tonight, 1 of a kind that last night did not have." in page.text
    assert f"click {100 * mean:.3g}% −{100 * (before - mean):.2f} points" in page.text
    assert "age 45 40 0.50 sd" in page.text, "by 5 years, of a standard deviation of 10"


def test_matured_messages_are_compared_with_their_scores(page: Page) -> None:
    expected, auc = SCORES.sum(), roc_auc_score(CLICKED, SCORES)
    assert f"model-1 200 {CLICKED.sum()} {expected:,.0f} {auc:.3f}" in page.text
    assert f"Expected {expected:,.0f}, observed {CLICKED.sum()}." in page.text


def test_gains_and_lift(page: Page) -> None:
    ordered = pd.DataFrame({"score": SCORES, "outcome": CLICKED}).sort_values("score", ascending=False)
    best = ordered["outcome"].head(40).sum() / CLICKED.sum()
    assert f"The best 20% of 200 messages brought {100 * best:.3g}% of the outcomes." in page.text
    top, overall = ordered["outcome"].head(20).mean(), CLICKED.mean()
    compared = f"{100 * top:.3g}% reached the stage, compared with {100 * overall:.3g}% of all"
    assert f"Band 10: {compared}: {top / overall:.1f} times" in page.text


def test_drift_is_sorted_and_marked(page: Page) -> None:
    assert "▲ 2 of 16 features past a threshold." in page.text
    assert "age ▲ 0.41 past its threshold 12.5% +2.25 points ▲ −20.00 points past its threshold –" in page.text
    assert "click_n_13d 0.023 – – – – click_n_12d 0.022" in page.text
    assert "The other 4" in page.text
    assert "city_tier – – – – ▲ 3.1% past its threshold" in page.text, "by the table, whatever the warnings say"


def test_held_out_figures_of_the_model_in_use(page: Page) -> None:
    assert f"Model model-1 was trained as of {TONIGHT}" in page.text
    assert "click 2,400 60 2.5% 0.7123 – 0.1163 0.0021" in page.text


def test_experts_in_the_order_of_their_numbers(page: Page) -> None:
    assert "expert 0 70% 10% 30% expert 2 20% 60% 30% expert 10 10% 30% 40%" in page.text
    assert "Click leans most on expert 0 (70%), register leans most on expert 2 (60%)" in page.text


def test_the_newest_list_by_arm_and_reason(page: Page) -> None:
    assert (
        "spring, version 2, goal complete target selected 60 30 control control 10 5.0 suppressed frequency_cap 30 15"
        in page.text
    )
    assert "version 1" not in page.text
    assert "No earlier list is old enough yet" in page.text


def test_the_latest_audit_counts(page: Page) -> None:
    assert "user_scores 2 ✓ 1 ▲ 1 0" in page.text
    assert (
        "user_scores: p_click ▲ warned observed 9 of 200 expect_column_values_to_be_between(max_value=0.5)" in page.text
    )
    assert "an earlier run's" not in page.text


def test_every_section_is_in_the_contents_and_explains_itself(page: Page) -> None:
    sections = re.findall(
        r'<section id="(\w+)">\s*<h2>([^<]+)</h2>\s*(<p class="soft">[^<]{30,}</p>|<details>)', page.html
    )
    anchors = [anchor for anchor, _, _ in sections]
    assert anchors == re.findall(r'<section id="(\w+)"', page.html), "each says what it shows"
    assert anchors == re.findall(r'href="#(\w+)">[^<]+</a></li>', page.html), "each is in the contents"
    assert len(page.ids) == len(set(page.ids))
    figures = re.findall(r'<figure role="img" aria-label="([^"]+)">', page.html)
    assert len(figures) == page.tags.count("figure") == page.tags.count("svg")
    assert len(page.html.encode()) < 600_000


def test_every_file_of_a_section_is_in_the_list() -> None:
    files = {module.name for module in pkgutil.iter_modules(sections.__path__)}
    assert {build.__module__.rpartition(".")[2] for build in SECTIONS} == files
    assert len(SECTIONS) == len(files)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("no Chromium on the PATH: `make browser` installs it")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 800, "light"), (390, 844, "dark")])
def test_it_fits_the_screen_without_a_network(
    path: str, browser: "Browser", width: int, height: int, scheme: Any
) -> None:
    opened = browser.new_context(viewport={"width": width, "height": height}, offline=True, color_scheme=scheme)
    shown = opened.new_page()
    complaints: list[str] = []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("requestfailed", lambda request: complaints.append(request.url))
    shown.goto(Path(path).as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") == width, "nothing to scroll to at the side"
    right_ends = "[...document.querySelectorAll('figure, p, h2, dd, pre')].map(e => e.getBoundingClientRect().right)"
    assert shown.evaluate(f"Math.max(...{right_ends})") <= width
    for summary in shown.locator("summary").all():
        summary.click()
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    shown.get_by_role("link", name="Did earlier scores come true?").click()
    assert shown.get_by_role("heading", name="Did earlier scores come true?").is_visible()
    assert complaints == []
    opened.close()
