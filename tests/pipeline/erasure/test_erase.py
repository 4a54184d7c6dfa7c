"""A user who is erased is nowhere: in no table, snapshot, manifest, staged file, text or report; others stay."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyiceberg.avro.file import AvroFile
from pyiceberg.typedef import Record

from pipeline.warehouse.local_catalog import LocalFiles
from tests.pipeline.erasure.conftest import ANN, BEN, CAT, D1, D2, D3, NOON, fill_a_little, train_by_hand
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish, put_file, record

Funnel = Callable[..., Ended]


def places_of(company: Company, user_id: str) -> list[str]:
    """Every file below the company's folder that has an id: found by reading all that a file holds, as text."""
    return sorted(str(path) for path in company.folder.rglob("*") if path.is_file() and user_id in text_of(path))


def text_of(path: Path) -> str:
    if path.suffix == ".parquet":
        return repr(pq.read_table(path).to_pylist()) + repr(pq.read_metadata(path).to_dict())
    if path.suffix == ".avro":
        with AvroFile[Record](LocalFiles().new_input(str(path))) as reader:
            return " ".join(values(list(reader)))
    return path.read_bytes().decode("utf-8", errors="replace")


def values(value: object) -> Iterator[str]:
    if isinstance(value, Record):
        value = [value[position] for position in range(len(value))]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from values(each)
    yield value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def users_in(company: Company, table: str) -> set[str]:
    return {row["user_id"] for row in company.rows(table)}


def test_an_erased_user_is_nowhere(full: Company, funnel: Funnel) -> None:
    warehouse = full.context().warehouse
    put_file(warehouse, "events", warehouse.arrow("events", first=D1, last=D1))
    reports = full.folder / "reports"
    reports.mkdir()
    (reports / "2026-03-01.html").write_text(f"<li>user &#x27;{ANN}&#x27; has 3 events</li>", encoding="utf-8")
    cut = ANN[:15]
    bounds = [path for path in places_of(full, cut) if path.endswith(".avro")]
    assert bounds, "the test is of no use unless manifests have bounds"
    assert len(places_of(full, ANN)) > 40

    ended = funnel("erase", "--user", ANN, "-c", full.config)
    assert ended.code == 0, ended.err
    assert places_of(full, ANN) == []
    assert re.search(r"proof +\d+ files read .*: 0 hits", ended.out)
    for table in ("events", "users", "activity", "known_users", "user_scores", "feature_samples", "targets"):
        assert users_in(full, table) == {BEN, CAT}, table
    assert len(full.rows("quarantine")) == 6 and full.rows("stopped_quarantine") == []
    assert {row["city_tier"] for row in full.rows("users")} == {BEN, CAT}
    warnings = {row["warnings"] for row in full.rows("runs")}
    assert f"user '(erased)' has 3 events\nuser {BEN!r} too" in warnings
    assert "'(erased)' has 3" in (reports / "2026-03-01.html").read_text(encoding="utf-8").replace("&#x27;", "'")
    assert funnel("doctor", "--deep", "-c", full.config).out.count("failed") == 1, "no source has been delivered"


def test_manifests_say_nothing_of_files_that_went(company: Company, funnel: Funnel) -> None:
    """Beyond 16 characters, a bound is cut: an erased user's would be no exact hit."""
    lonely = "x-0000000000000001"
    publish(company, "users", D1, [{"user_id": lonely}, {"user_id": "a"}])
    publish(company, "users", D2, [{"user_id": "b"}])
    assert places_of(company, lonely[:15])
    assert funnel("erase", "--user", lonely, "-c", company.config).code == 0
    assert places_of(company, lonely[:15]) == []
    assert users_in(company, "users") == {"a", "b"}


def test_tables_go_on_as_before(full: Company, funnel: Funnel) -> None:
    before = full.rows("events", without=())
    funnel("erase", "--user", ANN, "-c", full.config)
    assert full.rows("events") == [row for row in before if row["user_id"] != ANN]
    publish(full, "events", D2, [{"user_id": "new"}])
    assert users_in(full, "events") == {BEN, CAT, "new"}
    assert funnel("maintain", "-c", full.config).code == 0
    assert funnel("sql", "SELECT count(*) FROM events", "--format", "csv", "-c", full.config).out.split()[-1] == "5"


def test_a_file_of_ids(full: Company, funnel: Funnel) -> None:
    ids = full.folder / "ids.csv"
    ids.write_bytes(f'user_id\n"{ANN}"\n\n {BEN} \nnobody\n\xff\xfe\n'.encode("latin-1"))
    ended = funnel("erase", "--file", ids, "-c", full.config)
    ids.unlink()
    assert ended.code == 0, ended.err
    assert "1 lines are no ids, the first is line 6" in ended.out
    assert "not there: 'nobody'" in ended.out
    assert "erased    2 users" in ended.out
    assert users_in(full, "events") == {CAT}
    assert places_of(full, ANN) == places_of(full, BEN) == []


def test_models_are_named(company: Company, funnel: Funnel) -> None:
    fill_a_little(company)
    known, other, perhaps, before = (
        train_by_hand(company, day) for day in (D2, D3, date(2026, 4, 1), date(2026, 2, 1))
    )
    out = funnel("erase", "--user", ANN, "-c", company.config).out
    assert f"models trained on them: {known};" in out
    assert f"their examples being gone: {perhaps}" in out
    assert other not in out and before not in out
    assert {row["models"] for row in company.rows("erasures")} == {None, f"{known}, {perhaps}"}


def test_a_model_that_holds_an_id_stops_the_erasure_until_it_is_gone(company: Company, funnel: Funnel) -> None:
    fill_a_little(company)
    version = train_by_hand(company, D3, content=f'{{"vocabulary": ["{ANN}"]}}')
    complaint = funnel("erase", "--user", ANN, "-c", company.config).complaint
    assert "not finished: 1 files" in complaint and version in complaint
    assert "failed  erasures       the erasure of 1 user" in funnel("doctor", "-c", company.config).out
    next(company.folder.glob(f"models/artifacts/*/artifacts/bundle/{version}/weights")).unlink()
    ended = funnel("erase", "-c", company.config)
    assert (ended.code, "finishing the erasure of 1 user" in ended.out) == (0, True), ended.err
    assert places_of(company, ANN) == []


def test_exported_lists_are_named_and_left(full: Company, funnel: Funnel) -> None:
    elsewhere, plain = full.folder / "sent.csv", full.folder / "targets" / "other.csv"
    plain.parent.mkdir()
    for path in (elsewhere, plain):
        path.write_text(f"user_id\n{ANN if path == elsewhere else BEN}\n", encoding="utf-8")
    full.context().warehouse.append("exports", [{"ds": D1, "path": str(elsewhere)}])
    out = funnel("erase", "--user", ANN, "-c", full.config).out
    assert f"warning: {elsewhere} still lists them" in out
    assert str(plain) not in out
    assert ANN in elsewhere.read_text(encoding="utf-8")


@pytest.mark.parametrize("user_id", ["ann", "17"])
def test_an_id_that_may_be_a_word_counts_in_quotes_only(company: Company, funnel: Funnel, user_id: str) -> None:
    publish(company, "users", D1, [{"user_id": user_id, "city_tier": "17"}, {"user_id": "ben", "city_tier": "17"}])
    publish(company, "quarantine", D1, [{"raw": f'{{"uid":"{user_id}"}}'}, {"raw": '{"uid":"annabel","n":170}'}])
    record(company, D1, "ingest", NOON, message=f"user {user_id!r} has 17 events, ann is a word")
    ended = funnel("erase", "--user", user_id, "-c", company.config)
    assert ended.code == 0, ended.err
    assert f"1 ids, such as {user_id!r}, could as well be words or numbers" in ended.out
    assert [(row["user_id"], row["city_tier"]) for row in company.rows("users")] == [("ben", "17")]
    assert [row["raw"] for row in company.rows("quarantine")] == ['{"uid":"annabel","n":170}']
    assert [row["message"] for row in company.rows("runs")] == ["user '(erased)' has 17 events, ann is a word"]


def test_the_artifacts_of_an_mlflow_server_are_read(
    make_company: Callable[..., Company], funnel: Funnel, tmp_path: Path
) -> None:
    company = make_company(f'[models]\ntracking_uri = "sqlite:///{tmp_path}/server.db"\n')
    fill_a_little(company)
    version = train_by_hand(company, D3, content=f'{{"vocabulary": ["{ANN}"]}}')
    # What the server keeps elsewhere is no file below models.path.
    (company.folder / "models" / "artifacts").rename(tmp_path / "served")
    with closing(sqlite3.connect(tmp_path / "server.db")) as connection, connection:
        old, new = f"{company.folder}/models/artifacts", f"{tmp_path}/served"
        connection.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", (old, new))
    complaint = funnel("erase", "--user", ANN, "-c", company.config).complaint
    assert "not finished: 1 files" in complaint and "served/" in complaint and version in complaint
