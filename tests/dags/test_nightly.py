"""The DAGs as Airflow sees them: they load, cheaply; each run is one night; what cannot pass is not retried."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from tests.conftest import Company
from tests.dags.conftest import DAGS, clean_environment

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

LoadDags = Callable[[Path], "DagBag"]
ImportNightly = Callable[[Path], ModuleType]

HEAVY = ("torch", "pyspark", "great_expectations", "pyiceberg", "duckdb", "mlflow", "sklearn", "model")
LOAD = f"""
import json, sys, time
from airflow.sdk import dag, task, CronDataIntervalTimetable
import airflow.sdk.exceptions
with_airflow, start = set(sys.modules), time.perf_counter()
import runpy
runpy.run_path({str(DAGS / "nightly.py")!r})
seconds = time.perf_counter() - start
names = lambda modules: sorted({{module.partition(".")[0] for module in modules}})
print(json.dumps({{"seconds": seconds, "all": names(sys.modules), "ours": names(set(sys.modules) - with_airflow)}}))
"""


def test_every_dag_loads_and_tells_what_it_is(load_dags: LoadDags, company: Company) -> None:
    bag = load_dags(company.config)
    assert bag.import_errors == {}
    assert set(bag.dags) == {"funnel_nightly"}
    for dag in bag.dags.values():
        assert dag.description
        assert len(dag.doc_md or "") > 200
        assert "funnelcast" in dag.tags
        assert not dag.catchup
        for task in dag.tasks:
            assert task.owner == "funnelcast"
            assert task.doc_md


def test_a_night_is_ingest_activity_score(load_dags: LoadDags, company: Company) -> None:
    dag = load_dags(company.config).dags["funnel_nightly"]
    assert [(task.task_id, task.downstream_task_ids) for task in dag.topological_sort()] == [
        ("ingest", {"activity"}),
        ("activity", {"score"}),
        ("score", set()),
    ]
    assert dag.max_active_runs == 1


def test_retries_wait_longer_each_time_and_no_stage_runs_twice_at_once(load_dags: LoadDags, company: Company) -> None:
    for task in load_dags(company.config).dags["funnel_nightly"].tasks:
        assert task.retries == 2
        assert task.retry_delay == timedelta(minutes=5)
        assert task.retry_exponential_backoff == 2
        assert task.max_active_tis_per_dag == 1


@pytest.mark.parametrize(
    ("zone", "data_interval_start", "night"),
    [
        ("UTC", "2026-03-01T00:00:00+00:00", "2026-03-01"),
        ("Asia/Shanghai", "2026-02-28T16:00:00+00:00", "2026-03-01"),
        ("Pacific/Kiritimati", "2026-02-28T10:00:00+00:00", "2026-03-01"),
        ("America/New_York", "2026-03-01T05:00:00+00:00", "2026-03-01"),
        # Clocks go forward on 8 March and back on 1 November: the midnights after these days are another hour in UTC.
        ("America/New_York", "2026-03-08T05:00:00+00:00", "2026-03-08"),
        ("America/New_York", "2026-03-09T04:00:00+00:00", "2026-03-09"),
        ("America/New_York", "2026-11-01T04:00:00+00:00", "2026-11-01"),
        ("America/New_York", "2026-11-02T05:00:00+00:00", "2026-11-02"),
        # In Cairo this day begins at one in the morning.
        ("Africa/Cairo", "2026-04-23T22:00:00+00:00", "2026-04-24"),
    ],
)
def test_the_night_is_the_local_date_of_the_interval_start(
    import_nightly: ImportNightly, company: Company, zone: str, data_interval_start: str, night: str
) -> None:
    night_of = import_nightly(company.config).night_of
    start = datetime.fromisoformat(data_interval_start)
    assert night_of(start, ZoneInfo(zone)) == night
    assert night_of(start.astimezone(ZoneInfo("Asia/Tokyo")), ZoneInfo(zone)) == night


@pytest.mark.parametrize(
    ("zone", "first", "last"),
    [
        ("Asia/Shanghai", date(2026, 2, 1), date(2026, 2, 3)),
        ("Pacific/Kiritimati", date(2026, 2, 27), date(2026, 3, 1)),
        ("America/New_York", date(2026, 3, 6), date(2026, 3, 10)),
        ("America/New_York", date(2025, 10, 31), date(2025, 11, 4)),
        ("Europe/Berlin", date(2026, 3, 28), date(2026, 3, 30)),
        # Midnight does not exist on 24 April 2026 in Cairo; in Havana it comes twice on 1 November 2026.
        ("Africa/Cairo", date(2026, 4, 22), date(2026, 4, 26)),
        ("America/Havana", date(2026, 10, 30), date(2026, 11, 3)),
        ("America/Santiago", date(2026, 7, 1), date(2026, 11, 1)),
        ("UTC", date(2026, 5, 5), date(2026, 5, 5)),
    ],
)
def test_a_backfill_runs_each_date_once_and_the_last_one_too(
    load_dags: LoadDags,
    import_nightly: ImportNightly,
    make_company: Callable[..., Company],
    zone: str,
    first: date,
    last: date,
) -> None:
    config = make_company(timezone=zone).config
    night_of = import_nightly(config).night_of
    local = ZoneInfo(zone)
    runs = list(
        as_scheduled(load_dags(config)).iter_dagrun_infos_between(
            datetime.combine(first, datetime.min.time(), local), datetime.combine(last, datetime.min.time(), local)
        )
    )
    assert [night_of(run.data_interval.start, local) for run in runs] == [d.isoformat() for d in DateRange(first, last)]
    for run, following in pairwise(runs):
        assert run.data_interval.end == following.data_interval.start
    for run in runs:
        assert run.run_after == run.data_interval.end


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "UTC", "America/New_York"])
def test_the_first_scheduled_run_is_last_night_not_all_nights_before(
    load_dags: LoadDags, import_nightly: ImportNightly, make_company: Callable[..., Company], zone: str
) -> None:
    config = make_company(timezone=zone).config
    run = as_scheduled(load_dags(config)).next_dagrun_info(last_automated_run_info=None)
    yesterday = datetime.now(ZoneInfo(zone)).date() - timedelta(days=1)
    assert import_nightly(config).night_of(run.data_interval.start, ZoneInfo(zone)) == yesterday.isoformat()


def test_a_run_by_hand_is_for_the_last_day_that_ended(
    load_dags: LoadDags, import_nightly: ImportNightly, company: Company
) -> None:
    import pendulum

    timetable = as_scheduled(load_dags(company.config)).timetable
    at_noon = pendulum.datetime(2026, 3, 2, 12, tz="Asia/Shanghai")
    interval = timetable.infer_manual_data_interval(run_after=at_noon)
    assert import_nightly(company.config).night_of(interval.start, company.settings.zone) == "2026-03-01"


def test_a_run_without_a_date_fails_in_one_line(import_nightly: ImportNightly, company: Company) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match="no data interval, so no date: trigger it with a logical date"):
        import_nightly(company.config).night_of(None, company.settings.zone)


def test_only_what_cannot_pass_fails_without_a_retry(import_nightly: ImportNightly, company: Company) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    stage_of = import_nightly(company.config).stage_of
    with pytest.raises(AirflowFailException, match=r"^no such column$") as failure, stage_of("2026-03-01", "run"):
        raise FunnelError("no such column")
    assert failure.value.__suppress_context__
    with pytest.raises(ConnectionError), stage_of("2026-03-01", "run"):
        raise ConnectionError("the object store is busy")


def test_a_night_that_is_not_over_fails_without_a_retry(import_nightly: ImportNightly, company: Company) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    today = datetime.now(UTC).astimezone(company.settings.zone).date().isoformat()
    with pytest.raises(AirflowFailException, match=f"{today} is not over yet in Asia/Shanghai"):
        import_nightly(company.config).ingest.function(today, "run")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "no configuration at {config}: name one with --config or FUNNEL_CONFIG"),
        ("[funnel", "{config} is not valid TOML: "),
        (
            '[funnel]\ntimezone = "Mars/Olympus"',
            "{config}: funnel.timezone: got 'Mars/Olympus', takes an IANA time zone",
        ),
    ],
)
def test_a_wrong_configuration_is_the_import_error_in_one_line(
    load_dags: LoadDags, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, line: str
) -> None:
    config = tmp_path / "wrong.toml"
    if text:
        config.write_text(text, encoding="utf-8")
    expected = line.format(config=config)

    bag = load_dags(config)
    assert not bag.dags
    (error,) = bag.import_errors.values()
    assert error.splitlines()[-1].startswith(f"pipeline.errors.ConfigError: {expected}")
    assert error.count("Traceback") == 1
    assert len(error.splitlines()) < 10

    monkeypatch.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS", "False")
    (error,) = load_dags(config).import_errors.values()
    assert error.startswith(expected)
    assert "\n" not in error


def test_loading_the_dag_imports_nothing_heavy(tmp_path: Path, company: Company) -> None:
    environment = clean_environment(tmp_path, FUNNEL_CONFIG=str(company.config))
    ran = subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    loaded = json.loads(ran.stdout.splitlines()[-1])
    print(f"dags/nightly.py loads in {loaded['seconds']:.2f} s once Airflow is imported")
    assert "pipeline" in loaded["ours"]
    assert not set(HEAVY) & set(loaded["all"])
    assert not {"pandas", "numpy", "pyarrow"} & set(loaded["ours"])


def as_scheduled(bag: "DagBag") -> Any:
    """The nightly DAG as the scheduler has it, read back from its serialized form."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.deserialize_dag(DagSerialization.serialize_dag(bag.dags["funnel_nightly"]))
