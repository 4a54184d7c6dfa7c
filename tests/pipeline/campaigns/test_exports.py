"""Exports: the ids of a list's targets who may still be texted, in a file that changes only if they do."""

import csv
import hashlib
import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest

from pipeline.analyst.connection import connect
from pipeline.campaigns import exports
from pipeline.campaigns.exports import export
from pipeline.campaigns.targets import make_list
from pipeline.errors import FunnelError
from pipeline.warehouse.warehouse import Warehouse
from tests.support.campaigns import D, campaign, make_night
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish

D2 = D + timedelta(days=1)
ONE_DAY = timedelta(days=1)
SCORES = {"007": 0.9, "0123": 0.5, "a,b": 0.4, "1e5": 0.3, "last": 0.2, "worthless": 0.001}
BEST_FIRST = ["007", "0123", "a,b", "1e5"]


@pytest.fixture
def listed(make_company: Callable[..., Company]) -> Company:
    """A company with a list of four, and one user whose message is not worth it."""
    company = make_night(make_company, SCORES, campaign(more="size = 4"))
    make_list(company.context(), D, "spring")
    return company


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_csv_of_the_targets_ids_and_nothing_else(listed: Company, funnel: Callable[..., Ended]) -> None:
    ended = funnel("export", "--ds", D, "--campaign", "spring", "-c", listed.config)
    path = listed.folder / "targets" / "spring-2026-03-01-v1.csv"
    assert f"4 users of spring version 1 in {path}" in ended.out
    assert path.read_text(encoding="utf-8") == 'user_id\n007\n0123\n"a,b"\n1e5\n'
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["user_id"] for row in csv.DictReader(file)] == BEST_FIRST
    (noted,) = listed.rows("exports")
    assert (noted["campaign_id"], noted["version"], noted["ds"], noted["users"]) == ("spring", 1, D, 4)
    assert (noted["path"], noted["sha256"]) == (str(path), digest(path))
    assert sorted(path.parent.iterdir()) == [path], "no draft is left"


def test_parquet_keeps_ids_as_text(listed: Company, funnel: Callable[..., Ended], tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "list.parquet"
    assert funnel("export", "--ds", D, "--campaign", "spring", "-c", listed.config, "--out", out).code == 0
    assert pq.read_table(out).to_pydict() == {"user_id": BEST_FIRST}
    (noted,) = listed.rows("exports")
    assert (noted["path"], noted["sha256"]) == (str(out), digest(out))


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_only_the_owner_may_read_an_export(listed: Company, format: Literal["csv", "parquet"]) -> None:
    before = os.umask(0)
    try:
        exported = Path(export(listed.context(), D, "spring", format=format).path)
    finally:
        os.umask(before)
    assert stat.filemode(exported.stat().st_mode) == "-rw-------"


def test_exporting_again_leaves_the_file_and_says_so(listed: Company) -> None:
    first = export(listed.context(), D, "spring")
    written = Path(first.path).stat().st_mtime_ns
    again = export(listed.context(), D, "spring")
    assert (first.is_new, again.is_new, again.sha256) == (True, False, first.sha256)
    assert Path(first.path).stat().st_mtime_ns == written
    assert listed.lines[-1].endswith("already there, unchanged")
    Path(first.path).unlink()
    restored = export(listed.context(), D, "spring")
    assert restored.is_new and digest(Path(restored.path)) == first.sha256
    assert len(listed.rows("exports")) == 1


def test_an_exported_version_stays_when_another_is_made(listed: Company) -> None:
    first = export(listed.context(), D, "spring")
    make_list(listed.context(), D, "spring", size=2)
    second = export(listed.context(), D, "spring")
    assert second.path.endswith("-v2.csv") and second.users == 2
    assert digest(Path(first.path)) == first.sha256
    older = export(listed.context(), D, "spring", version=1, out=str(listed.folder / "again.csv"))
    assert older.sha256 == first.sha256
    assert [row["version"] for row in sorted(listed.rows("exports"), key=lambda row: row["exported_at"])] == [1, 2, 1]


def test_a_file_with_other_content_is_left_alone(listed: Company, funnel: Callable[..., Ended], tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    out.write_text("user_id\n007\n", encoding="utf-8")
    options = ("export", "--ds", D, "--campaign", "spring", "-c", listed.config, "--out", out)
    assert funnel(*options).complaint == f"{out} holds something other than version 1 of 'spring': choose another --out"
    assert out.read_text(encoding="utf-8") == "user_id\n007\n"
    assert not listed.rows("exports")


def test_a_recorded_file_belongs_to_the_list_whatever_its_bytes(
    listed: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = export(listed.context(), D, "spring", format="parquet")
    monkeypatch.setattr(exports, "_encode_parquet", lambda ids: b"as a later release writes it")
    assert not export(listed.context(), D, "spring", format="parquet").is_new
    assert digest(Path(first.path)) == first.sha256


def test_an_export_that_dies_before_it_is_recorded_is_recorded_by_the_next(
    listed: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "append", die)
        with pytest.raises(KeyboardInterrupt):
            export(listed.context(), D, "spring")
    assert not listed.rows("exports")
    assert not export(listed.context(), D, "spring").is_new
    assert len(listed.rows("exports")) == 1


def test_who_may_no_longer_be_texted_is_left_out_and_counted(listed: Company, funnel: Callable[..., Ended]) -> None:
    first = export(listed.context(), D, "spring")
    before = listed.rows("targets")
    publish(listed, "users", D2, [{"user_id": "0123", "consent": False}, {"user_id": "last", "consent": False}])
    # No activity has been built of the day yet.
    publish(listed, "events", D2, [{"event_id": "1", "user_id": "1e5", "event": "complete"}])
    publish(listed, "events", D2 + ONE_DAY, [{"event_id": "2", "user_id": "007", "event": "click"}])
    ended = funnel("export", "--ds", D, "--campaign", "spring", "-c", listed.config)
    assert (
        "warning: export 2026-03-01: 2 of 4 targets of spring version 1 are left out: 1 have withdrawn consent and "
        "1 have completed since 2026-03-01, by what landed until 2026-03-03" in ended.out
    )
    assert "the list is of 2026-03-01, and data has landed until 2026-03-03" in ended.out
    assert f"2 users of spring version 1 in {first.path}; it replaces an earlier export" in ended.out
    assert Path(first.path).read_text(encoding="utf-8") == 'user_id\n007\n"a,b"\n'
    assert listed.rows("targets") == before, "a version of a list never changes"
    columns = ("users", "withdrawn", "completed", "landed_until", "sha256")
    noted = sorted(listed.rows("exports"), key=lambda row: row["exported_at"])
    assert [tuple(row[name] for name in columns) for row in noted] == [
        (4, 0, 0, D, first.sha256),
        (2, 1, 1, D2 + ONE_DAY, digest(Path(first.path))),
    ]
    again = export(listed.context(), D, "spring")
    assert (again.is_new, again.withdrawn, again.completed, len(listed.rows("exports"))) == (False, 1, 1, 2)
    with connect(listed.settings, "list_history") as connection:
        (row,) = connection.execute("SELECT targets, left_out, exports FROM list_history").fetchall()
    assert row == (4, 2, 2)


def test_who_consents_again_is_texted_and_the_file_is_recorded_once_more(listed: Company) -> None:
    publish(listed, "users", D2, [{"user_id": "007", "consent": False}])
    shas = [export(listed.context(), D, "spring", format="parquet").sha256]
    publish(listed, "users", D2 + ONE_DAY, [{"user_id": "007", "consent": True}])
    shas.append(export(listed.context(), D, "spring", format="parquet").sha256)
    publish(listed, "users", D2 + ONE_DAY, [{"user_id": "007", "consent": False}])
    shas.append(export(listed.context(), D, "spring", format="parquet").sha256)
    assert shas[0] == shas[2] != shas[1]
    noted = sorted(listed.rows("exports"), key=lambda row: row["exported_at"])
    assert [(row["users"], row["withdrawn"]) for row in noted] == [(3, 1), (4, 0), (3, 1)], "the newest row is the file"


def test_a_file_is_emptied_rather_than_left_when_nobody_may_be_texted(listed: Company) -> None:
    path = export(listed.context(), D, "spring").path
    publish(
        listed, "activity", D2, [{"user_id": user, "event": "complete", "event_date": D, "n": 1} for user in SCORES]
    )
    assert export(listed.context(), D, "spring").completed == 4
    assert Path(path).read_text(encoding="utf-8") == "user_id\n"


def test_a_folder_that_cannot_be_written(listed: Company) -> None:
    (listed.folder / "targets").write_text("a file", encoding="utf-8")
    with pytest.raises(FunnelError, match=r"targets/spring-2026-03-01-v1\.csv cannot be .*; see \[targeting\] path or"):
        export(listed.context(), D, "spring")
    assert not listed.rows("exports")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--campaign", "sprin"), "no campaign 'sprin'; did you mean 'spring'? the configuration has spring"),
        (
            ("--campaign", "spring", "--version", "7"),
            "no version 7 of campaign 'spring' for 2026-03-01; its versions are 1",
        ),
    ],
)
def test_a_list_that_does_not_exist(
    listed: Company, funnel: Callable[..., Ended], arguments: tuple[str, ...], line: str
) -> None:
    assert funnel("export", "--ds", D, *arguments, "-c", listed.config).complaint == line


def test_no_list_yet(make_company: Callable[..., Company], funnel: Callable[..., Ended]) -> None:
    company = make_company(campaign())
    assert funnel("export", "--ds", D, "--campaign", "spring", "-c", company.config).complaint == (
        "no list of campaign 'spring' for 2026-03-01 yet: run `funnel targets --ds 2026-03-01 --campaign spring` first"
    )


def test_a_list_made_and_exported_at_once(make_company: Callable[..., Company], funnel: Callable[..., Ended]) -> None:
    company = make_night(make_company, SCORES, campaign(more="size = 4"))
    ended = funnel("targets", "--ds", D, "--campaign", "spring", "--export", "parquet", "-c", company.config)
    assert ended.code == 0
    path = company.folder / "targets" / "spring-2026-03-01-v1.parquet"
    assert pq.read_table(path)["user_id"].to_pylist() == BEST_FIRST
