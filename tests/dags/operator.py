"""What an operator does in Airflow's pages, in a real browser. Screenshots go to `build/airflow`."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.dates import DateRange
from tests.dags.server import Api
from tests.support.places import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

ZONE = ZoneInfo("Asia/Shanghai")
SHOTS = ROOT / "build" / "airflow"
NIGHT_ID = "funnel_nightly"


@contextmanager
def browse(airflow: Api) -> "Iterator[Page]":
    """A browser in the funnel's time zone, logged in as an operator; skips the test where there is none."""
    from playwright.sync_api import sync_playwright

    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("no Chromium on the PATH: `make browser` installs it")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000}, timezone_id=ZONE.key)
        page.set_default_timeout(240_000)
        page.goto(airflow.address)
        page.fill('input[name="username"]', "admin")
        page.fill('input[name="password"]', airflow.password)
        page.click("button[type=submit]")
        page.get_by_role("link", name="Dags", exact=True).first.wait_for()
        yield page
        browser.close()


def fill_backfill_form(page: "Page", dates: DateRange, *, at_once: int = 1) -> None:
    page.get_by_role("button", name="Trigger Dag").click()
    page.get_by_text("Run this Dag for a range of dates").click()
    for position, day in enumerate((dates.first, dates.last)):
        page.get_by_test_id("datetime-input").nth(position).click()
        popover = page.locator("[data-scope=popover][data-part=content][data-state=open]")
        popover.get_by_placeholder("YYYY/MM/DD").fill(f"{day:%Y/%m/%d}")
        popover.get_by_placeholder("HH:mm").fill("00:00")
        page.get_by_text("Date Range", exact=True).click()
        popover.wait_for(state="hidden")
    page.get_by_role("spinbutton").fill(str(at_once))
    number = "1 run" if len(dates) == 1 else f"{len(dates)} runs"
    page.get_by_text(f"{number} will be triggered").wait_for()


def start_backfill(page: "Page") -> None:
    """Submit the form; retry if Airflow refuses because another process is writing to its SQLite."""
    from playwright.sync_api import TimeoutError

    button = page.get_by_role("button", name="Run Backfill")
    for _ in range(4):
        button.click()
        try:
            return button.wait_for(state="hidden", timeout=60_000)
        except TimeoutError:
            continue
    raise AssertionError("Airflow refused the backfill four times")


def shot(page: "Page", name: str, *, wait: float = 1) -> None:
    page.wait_for_timeout(wait * 1000)
    page.screenshot(path=SHOTS / f"{name}.png")


def runs_of_nights(airflow: Api, dates: DateRange) -> list[dict[str, Any]]:
    """The nightly runs of a range of dates, in order."""
    found = [run for run in airflow.runs() if run["data_interval_start"] and night_of(run) in set(dates)]
    return sorted(found, key=night_of)


def night_of(run: dict[str, Any]) -> date:
    return datetime.fromisoformat(re.sub("Z$", "+00:00", run["data_interval_start"])).astimezone(ZONE).date()
