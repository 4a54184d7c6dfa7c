"""What is kept of a registry's answers: used for that server and model alone, and only if it can be read."""

from datetime import date
from pathlib import Path

import pytest

from pipeline.models.last_known import FILE, Registered, champion_of, recall, remember

SERVER = "http://ann:secret@mlflow:5000"
VERSIONS = [
    Registered("new", date(2026, 3, 10), "3", promoted_at="2026-03-10T06:00:00", reason="better"),
    Registered("withdrawn", date(2026, 3, 5), "2", "2026-03-05T06:00:00", "2026-03-06T06:00:00"),
    Registered("old", date(2026, 3, 1), "1", promoted_at="2026-03-01T06:00:00"),
]


def test_what_a_server_told_is_kept_without_its_password(tmp_path: Path) -> None:
    remember(tmp_path / "downloaded", SERVER, "funnel", VERSIONS)
    known = recall(tmp_path / "downloaded", SERVER, "funnel")
    assert known is not None and known.versions == VERSIONS
    assert [champion_of(known.versions, date(2026, 3, day)) for day in (1, 7, 10)] == ["old", "old", "new"]
    assert champion_of(known.versions, date(2026, 2, 28)) is None
    assert "secret" not in (tmp_path / "downloaded" / FILE).read_text(encoding="utf-8")


@pytest.mark.parametrize(("server", "name"), [("http://ann:secret@other:5000", "funnel"), (SERVER, "another")])
def test_what_another_server_told_or_of_another_model_is_not_used(tmp_path: Path, server: str, name: str) -> None:
    remember(tmp_path, SERVER, "funnel", VERSIONS)
    assert recall(tmp_path, server, name) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"of": "mlflow:5000 funnel"}'])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: str) -> None:
    assert recall(tmp_path, SERVER, "funnel") is None
    (tmp_path / FILE).write_text(content, encoding="utf-8")
    assert recall(tmp_path, SERVER, "funnel") is None


def test_of_two_promotions_in_one_microsecond_the_later_version_counts() -> None:
    first, second = (Registered(name, date(2026, 3, 1), str(n), "2026-03-01T06") for n, name in ((9, "a"), (10, "b")))
    assert champion_of([first, second], date(2026, 3, 1)) == champion_of([second, first], date(2026, 3, 1)) == "b"
