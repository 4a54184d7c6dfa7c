"""A company whose tables, source, reports and lists lie on an object store: the same as one on a local disk."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem, copy_files

from pipeline.analyst.connection import connect
from pipeline.dates import DateRange
from pipeline.engines import spark
from pipeline.errors import FunnelError, TransientError
from pipeline.files import write_atomically
from pipeline.ingest.arrivals import find_missing
from pipeline.maintenance import maintain
from pipeline.nights import load_history, nightly
from pipeline.report.kept import list_reports, read_report, report_path
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from pipeline.training.steps import train
from pipeline.warehouse.warehouse import Warehouse
from tests.support.commands import Ended
from tests.support.company import SMALL_SPARK, Company
from tests.support.funnels import sms
from tests.support.object_store import ObjectStore, make_object_store

pytestmark = pytest.mark.usefixtures("spark")

DAY = date(2026, 3, 1)
START = date(2026, 1, 1)
NIGHT = START + timedelta(days=29)
TRAINED = NIGHT - timedelta(days=7)
TABLES = ("users", "quarantine", "events", "activity", "known_users", "examples", "user_scores")
OF_A_RUN = ("run_id", "scored_at", "model_version", "made_from")
DEMO = files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8")
SMALL = "\n[training]\nepochs = 1\nmin_positives = 1\n"


def on_store(store: ObjectStore, bucket: str, folder: Path, key: str = "night-key") -> str:
    """Sections that put a company's tables on a store, and their catalog into a folder."""
    catalog = f'type = "sql", uri = "sqlite:///{folder}/catalog.db", warehouse = "{bucket}/tables"'
    return f"{store.settings(key)}[warehouse]\ncatalog = {{ {catalog} }}\n"


@dataclass(frozen=True)
class Companies:
    """One company twice, after the same nights: on a disk, and on an object store."""

    near: Company
    far: Company
    store: ObjectStore
    bucket: str


@pytest.fixture(scope="module")
def companies(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Companies:
    folders = [tmp_path_factory.mktemp(name) for name in ("near", "far")]
    simulate(Simulation(users=250, days=30, start=START), folders[0] / "source")
    bucket = object_store.make_bucket("whole-company")
    copy_files(
        str(folders[0] / "source"),
        "whole-company/source",
        source_filesystem=LocalFileSystem(),
        destination_filesystem=object_store.files(),
    )
    text = DEMO.replace('"source/', f'"{bucket}/source/')
    text = (
        text.replace("[targeting]", f'[targeting]\npath = "{bucket}/lists"') + f'[reports]\npath = "{bucket}/reports"\n'
    )
    made = Companies(
        Company(folders[0], DEMO + SMALL_SPARK + SMALL),
        Company(folders[1], text + SMALL_SPARK + SMALL + on_store(object_store, bucket, folders[1])),
        object_store,
        bucket,
    )
    for company in (made.near, made.far):
        load_history(company.context(), DateRange(START, NIGHT - timedelta(days=1)))
        model = train(company.context(), TRAINED)
        nightly(company.context(), NIGHT, model=model)
    return made


@pytest.mark.slow
class TestWholeCompany:
    @pytest.mark.parametrize("table", TABLES)
    def test_each_table_has_the_rows_that_it_has_on_a_disk(self, companies: Companies, table: str) -> None:
        near, far = (each.rows(table, without=OF_A_RUN) for each in (companies.near, companies.far))
        assert far == near and (near or table == "quarantine")

    def test_nothing_of_it_stays_on_this_machine(self, companies: Companies) -> None:
        left = {path.name for path in companies.far.folder.iterdir()}
        assert left == {"funnel.toml", "catalog.db", "models"}
        assert f"whole-company/reports/{NIGHT}.html" in companies.store.list("whole-company/reports")

    def test_queries_read_it_with_the_credentials_of_the_configuration(
        self, companies: Companies, funnel: Callable[..., Ended]
    ) -> None:
        query = f"SELECT count(*) AS n, round(sum(p_click), 6) AS p FROM user_scores WHERE ds = '{NIGHT}'"
        near, far = (funnel("sql", query, "-c", each.config) for each in (companies.near, companies.far))
        assert far.code == 0 and far.out == near.out, far.err
        with connect(companies.far.settings) as connection:
            assert connection.sql("FROM funnel_by_day").limit(1).fetchall()

    def test_a_query_reaches_no_other_file_of_the_store(
        self, companies: Companies, funnel: Callable[..., Ended]
    ) -> None:
        other = next(each for each in companies.store.list("whole-company/source") if each.endswith(".parquet"))
        for address in (f"s3://{other}", f"funnelcast://s3://{other}"):
            ended = funnel("sql", f"FROM read_parquet('{address}')", "-c", companies.far.config)
            assert ended.code == 1 and "Traceback" not in ended.err

    def test_the_sensor_looks_into_the_store(self, companies: Companies, funnel: Callable[..., Ended]) -> None:
        assert find_missing(companies.far.settings, NIGHT) is None
        missing = find_missing(companies.far.settings, NIGHT + timedelta(days=1))
        assert missing == f"source.events.path: nothing at {companies.bucket}/source/events/{NIGHT + timedelta(days=1)}"

    def test_doctor_looks_at_the_store(self, companies: Companies, funnel: Callable[..., Ended]) -> None:
        ended = funnel("doctor", "-c", companies.far.config)
        lines = {line.split()[1]: line for line in ended.out.splitlines()}
        assert lines["warehouse"].startswith("ok") and f"{companies.bucket}/tables: " in lines["warehouse"]
        assert lines["source"].startswith("ok") and "30 days, 2026-01-01 to 2026-01-30" in lines["source"]


@dataclass
class Small:
    """A company of one user on an object store, of which the first day has landed."""

    company: Company
    store: ObjectStore
    bucket: str

    def use(self, key: str, *, secret: str | None = None, bucket: str | None = None) -> None:
        """Write the configuration anew."""
        folder = self.company.folder
        text = on_store(self.store, bucket or self.bucket, folder, key)
        if secret:
            text = text.replace(f'"{key}-secret"', f'"{secret}"')
        Company.make(folder, text)

    def night(self, day: date) -> None:
        self.company.land(day, [sms(f"e-{day}", "ann", f"{day}T10:00:00+08:00")], [{"uid": "ann", "sms_consent": True}])
        load_history(self.company.context(), DateRange(day, day))

    @property
    def days(self) -> list[date]:
        return [row["landed_on"] for row in self.company.rows("events")]


NEXT = DAY + timedelta(days=1)


@pytest.fixture
def small(object_store: ObjectStore, tmp_path: Path, request: pytest.FixtureRequest) -> Small:
    bucket = object_store.make_bucket("small-" + "".join(filter(str.isalpha, request.node.name.lower()))[5:45])
    made = Small(Company.make(tmp_path, on_store(object_store, bucket, tmp_path)), object_store, bucket)
    made.night(DAY)
    return made


@pytest.mark.parametrize(
    ("key", "secret", "said"),
    [
        ("reader-key", None, "the object store refuses this access .*CreateMultipartUpload|PutObject.*may not do this"),
        ("night-key", "mistyped", r"the object store refuses this access .*access_key and secret_key"),
        ("nobody-key", None, r"the object store refuses this access .*access_key and secret_key"),
    ],
)
def test_credentials_that_do_not_suffice(small: Small, key: str, secret: str | None, said: str) -> None:
    small.use(key, secret=secret)
    with pytest.raises(FunnelError, match=said) as raised:
        small.night(NEXT)
    assert "\n" not in str(raised.value) and "mistyped" not in str(raised.value)
    small.use("night-key")
    assert small.days == [DAY]
    small.night(NEXT)
    assert small.days == [DAY, NEXT]


def test_maintenance_compacts_expires_and_removes_there(small: Small) -> None:
    small.night(DAY)
    folder = small.bucket.removeprefix("s3://")
    orphan = f"{folder}/tables/funnel/events/data/0123/orphan.parquet"
    with small.store.files().open_output_stream(orphan) as stream:
        stream.write(b"left by a killed run")
    before = small.company.rows("runs")
    text = (
        on_store(small.store, small.bucket, small.company.folder)
        + "[maintenance]\ncompact_files = 2\nkeep_publishes = 2\n"
    )
    company = Company.make(small.company.folder, text)
    maintain(company.context(), now=datetime.now(UTC) + timedelta(days=30))
    lines = "\n".join(company.lines)
    assert "files compacted into 1" in lines and "snapshots expired" in lines and "orphans removed" in lines
    assert orphan not in small.store.list(folder)
    assert company.rows("runs") == before and small.days == [DAY]


def test_files_for_people_are_written_and_read_there(object_store: ObjectStore, tmp_path: Path) -> None:
    bucket = object_store.make_bucket("for-people")
    text = f'{object_store.settings()}[reports]\npath = "{bucket}/reports"\n'
    settings = Company.make(tmp_path, text).settings
    assert list_reports(settings) == [] and read_report(settings, DAY) is None
    for day in (DAY, NEXT):
        content = f"<p>{day}</p>".encode()
        path, storage = report_path(settings, day), settings.storage.iceberg
        write_atomically(path, content, what="the report", see="[reports] path", storage=storage)
    assert list_reports(settings) == [str(NEXT), str(DAY)]
    assert read_report(settings, DAY) == f"<p>{DAY}</p>"
    reader = Company.make(tmp_path, text.replace("night-key", "reader-key")).settings.storage.iceberg
    with pytest.raises(FunnelError, match=r"the report cannot be written: the object store refuses .*\[reports\] path"):
        write_atomically(path, b"", what="the report", see="[reports] path", storage=reader)


def test_a_bucket_that_is_not_there(object_store: ObjectStore, tmp_path: Path, funnel: Callable[..., Ended]) -> None:
    company = Company.make(tmp_path, on_store(object_store, "s3://never-made", tmp_path))
    company.land(DAY, [sms("e", "ann", f"{DAY}T10:00:00+08:00")], [{"uid": "ann"}])
    ended = funnel("backfill", "--start", DAY, "--end", DAY, "-c", company.config)
    assert "the object store has no such bucket" in ended.complaint and "never-made" in ended.complaint


def test_a_bucket_that_was_removed(small: Small, funnel: Callable[..., Ended]) -> None:
    small.store.files().delete_dir(small.bucket.removeprefix("s3://"))
    ended = funnel("sql", "SELECT count(*) FROM events", "-c", small.company.config)
    assert "its metadata is not where it says" in ended.complaint and "small-bucketthatwasremoved" in ended.complaint


def test_a_store_that_is_away(tmp_path: Path, funnel: Callable[..., Ended]) -> None:
    store = make_object_store(tmp_path / "store")
    (tmp_path / "company").mkdir()
    with store.running():
        bucket = store.make_bucket("comes-and-goes")
        small = Small(Company.make(tmp_path / "company", on_store(store, bucket, tmp_path / "company")), store, bucket)
        small.night(DAY)
    with pytest.raises(TransientError, match="the object store does not answer"):
        small.night(NEXT)
    for arguments in (("sql", "FROM events"), ("maintain",), ("tables",)):
        ended = funnel(*arguments, "-c", small.company.config)
        assert "the object store does not answer" in ended.complaint
    with store.running():
        assert small.days == [DAY]
        small.night(NEXT)
        assert small.days == [DAY, NEXT]


@pytest.mark.parametrize("at", ["send_staged", "publish"])
def test_a_store_that_goes_away_amid_a_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    store = make_object_store(tmp_path / "store")
    (tmp_path / "company").mkdir()
    with ExitStack() as serving:
        serving.enter_context(store.running())
        bucket = store.make_bucket("goes-away")
        small = Small(Company.make(tmp_path / "company", on_store(store, bucket, tmp_path / "company")), store, bucket)
        small.night(DAY)
        where, name = (Warehouse, at) if at == "publish" else (spark, at)
        real = getattr(where, name)

        def stop_first(*arguments: Any, **options: Any) -> Any:
            serving.close()
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(where, name, stop_first)
            with pytest.raises(TransientError, match=r"^ingest .*the object store does not answer"):
                small.night(NEXT)
    with store.running():
        assert small.days == [DAY]
        small.night(NEXT)
        assert small.days == [DAY, NEXT]
