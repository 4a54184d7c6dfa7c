"""A night waits for the day's partition of the source to be complete."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.errors import FunnelError
from pipeline.ingest.arrivals import days_delivered, find_missing
from tests.support.company import Company

DAY = date(2026, 3, 1)


def test_a_day_has_arrived_once_its_events_and_users_have(company: Company) -> None:
    events, users = (company.folder / "source" / kind / DAY.isoformat() for kind in ("events", "users"))
    assert find_missing(company.settings, DAY) == f"source.events.path: nothing at {events}"
    company.land(DAY)
    assert find_missing(company.settings, DAY) is None
    (users / "part-0.parquet").unlink()
    assert find_missing(company.settings, DAY) == f"source.users.path: nothing at {users}"
    assert "2026-03-02" in (find_missing(company.settings, DAY + timedelta(days=1)) or "")


def test_a_folder_still_being_written_has_not_arrived(company: Company) -> None:
    company.land(DAY)
    folder = company.folder / "source" / "events" / DAY.isoformat()
    (folder / "_temporary").mkdir()
    assert find_missing(company.settings, DAY) == f"source.events.path: nothing at {folder}"
    (folder / "_temporary").rmdir()
    assert find_missing(company.settings, DAY) is None
    (folder / "part-0.parquet").rename(folder / ".part-0.parquet.crc")
    (folder / "_SUCCESS").touch()
    assert find_missing(company.settings, DAY) == f"source.events.path: nothing at {folder}"


def test_a_configured_marker_is_waited_for(make_company: Callable[..., Company]) -> None:
    marked = 'path = "source/events/{ds}"\nready = "source/events/{ds}/_SUCCESS"'
    company = make_company(replace={'path = "source/events/{ds}"': marked})
    company.land(DAY)
    marker = company.folder / "source" / "events" / DAY.isoformat() / "_SUCCESS"
    assert find_missing(company.settings, DAY) == f"source.events.ready: nothing at {marker}"
    marker.touch()
    assert find_missing(company.settings, DAY) is None


def test_a_pattern_has_arrived_once_a_file_matches(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'path = "source/events/{ds}"': 'path = "source/events/{ds}/*.csv"'})
    company.land(DAY)
    folder = company.folder / "source" / "events" / DAY.isoformat()
    assert find_missing(company.settings, DAY) == f"source.events.path: nothing at {folder}/*.csv"
    (folder / "a.csv").touch()
    assert find_missing(company.settings, DAY) is None


def test_wildcards_in_the_folder_s_own_name_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "sms [1]*"
    folder.mkdir()
    company = Company.make(folder)
    company.land(DAY)
    assert find_missing(company.settings, DAY) is None


def test_a_missing_day_that_is_an_empty_one_is_not_waited_for(make_company: Callable[..., Company]) -> None:
    path = 'path = "source/events/{ds}"'
    company = make_company(replace={path: f'{path}\nmissing_day = "empty"', "users/{ds}": "users.parquet"})
    assert find_missing(company.settings, DAY) is None
    marked = make_company(replace={path: f'{path}\nready = "done/{{ds}}"\nmissing_day = "empty"'})
    assert "source.events.ready: nothing at" in (find_missing(marked.settings, DAY) or "")


def test_a_source_without_days_is_not_waited_for(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={"events/{ds}": "events.parquet", "users/{ds}": "users.parquet"})
    assert find_missing(company.settings, DAY) is None
    assert days_delivered(company.settings) == []


def test_a_uri_is_looked_up_in_its_file_system(tmp_path: Path, make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'"source/events/{ds}"': f'"file://{tmp_path}/far/{{ds}}"'})
    assert find_missing(company.settings, DAY) == f"source.events.path: nothing at file://{tmp_path}/far/{DAY}"
    folder = tmp_path / "far" / DAY.isoformat()
    folder.mkdir(parents=True)
    assert "source.events.path: nothing at" in (find_missing(company.settings, DAY) or "")
    (folder / "part-0.parquet").touch()
    company.land(DAY)
    assert find_missing(company.settings, DAY) is None


def test_a_uri_that_cannot_be_looked_up_is_one_line(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'"source/events/{ds}"': '"ftp://host/{ds}"'})
    with pytest.raises(FunnelError, match=rf"source.events.path: ftp://host/{DAY} cannot be looked at: .*ftp"):
        find_missing(company.settings, DAY)


@pytest.mark.parametrize("path", ["source/events/{ds}", "source/events/day={ds}/*.parquet", "source/{ds}.csv"])
def test_delivered_days_are_read_from_folder_names(make_company: Callable[..., Company], path: str) -> None:
    company = make_company(replace={'path = "source/events/{ds}"': f'path = "{path}"'})
    assert days_delivered(company.settings) == []
    days = [DAY, DAY + timedelta(days=2)]
    for day in reversed(days):
        there = Path(company.settings.resolve(path.replace("/*.parquet", ""), day))
        there.parent.mkdir(parents=True, exist_ok=True)
        there.touch()
    (company.folder / "source" / "README.md").touch()
    Path(str(there).replace(days[0].isoformat(), "2026-02-30")).touch()
    assert days_delivered(company.settings) == days
