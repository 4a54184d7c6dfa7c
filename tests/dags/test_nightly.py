"""The DAGs as Airflow sees them: they load cheaply, each run is one night, permanent errors are not retried."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError, TransientError
from tests.support.airflow import DAGS, clean_environment
from tests.support.company import Company
from tests.support.nights import publish

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

LoadDags = Callable[[Path], "DagBag"]
ImportDag = Callable[..., ModuleType]

HEAVY = ("torch", "pyspark", "great_expectations", "pyiceberg", "duckdb", "mlflow", "sklearn", "model")
FILES = ("nightly", "training", "maintenance")
IDS = {f"funnel_{name}" for name in FILES}
LOAD = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from airflow.sdk import dag, task, CronDataIntervalTimetable
import airflow.sdk.exceptions
with_airflow, seconds = set(sys.modules), {}
import runpy
for name in sys.argv[2:]:
    start = time.perf_counter()
    runpy.run_path(f"{sys.argv[1]}/{name}.py")
    seconds[name] = time.perf_counter() - start
names = lambda modules: sorted({module.partition(".")[0] for module in modules})
print(json.dumps({"seconds": seconds, "all": names(sys.modules), "ours": names(set(sys.modules) - with_airflow)}))
"""


def test_every_dag_loads_and_documents_itself(load_dags: LoadDags, company: Company) -> None:
    bag = load_dags(company.config)
    assert bag.import_errors == {}
    assert set(bag.dags) == IDS
    for dag in bag.dags.values():
        assert dag.description
        assert len(dag.doc_md or "") > 200
        assert "funnelcast" in dag.tags
        assert not dag.catchup
        assert dag.max_active_runs == 1
        for name, parameter in dag.params.items():
            assert parameter is None or dag.params.get_param(name).description, name
        for task in dag.tasks:
            assert task.owner == "funnelcast"
            assert task.doc_md


def test_the_tasks_of_a_night_follow_each_other(load_dags: LoadDags, company: Company) -> None:
    dag = load_dags(company.config).dags["funnel_nightly"]
    stages = ["wait", "ingest", "activity", "score", "publish", "monitor", "announce", "report"]
    assert [task.task_id for task in dag.topological_sort()] == stages
    for stage, following in pairwise(stages):
        assert following in dag.get_task(stage).downstream_task_ids
    assert [task.task_id for task in dag.tasks if task.is_teardown] == ["report"]


def test_the_tasks_of_a_training_follow_each_other(load_dags: LoadDags, company: Company) -> None:
    dag = load_dags(company.config).dags["funnel_training"]
    steps = ["examples", "train", "evaluate", "register", "promote"]
    assert [task.task_id for task in dag.topological_sort()] == steps
    for step, following in pairwise(steps):
        assert following in dag.get_task(step).downstream_task_ids


def test_what_is_heavy_runs_in_a_pool_and_everything_has_a_time_limit(
    load_dags: LoadDags, import_dag: ImportDag, company: Company
) -> None:
    tasks = {task.task_id: task for dag in load_dags(company.config).dags.values() for task in dag.tasks}
    assert {name: task.pool for name, task in tasks.items() if task.pool != "default_pool"} == {
        "ingest": "funnel_spark",
        "activity": "funnel_spark",
        "score": "funnel_spark",
        "examples": "funnel_spark",
        "train": "funnel_gpu",
        "publish": "funnel_publish",
        "maintain": "funnel_publish",
    }
    pools = {task.pool for task in tasks.values()} - {"default_pool"}
    assert pools == set(import_dag(company.config, "standalone").POOLS), "`make airflow` makes these"
    # A sensor has a limit of its own, and `announce` does nothing.
    assert {name for name, task in tasks.items() if task.execution_timeout is None} == {"wait", "announce"}
    assert tasks["wait"].mode == "reschedule"


def test_retries_wait_longer_each_time(load_dags: LoadDags, make_company: Callable[..., Company]) -> None:
    config = make_company("[operations]\nretry_minutes = 0.5\n").config
    for dag in load_dags(config).dags.values():
        for task in dag.tasks:
            assert task.retries == 2
            assert task.retry_delay == timedelta(seconds=30)
            assert task.retry_exponential_backoff == 2


def test_training_and_maintenance_cannot_be_backfilled(load_dags: LoadDags, company: Company) -> None:
    dags = load_dags(company.config).dags
    assert dags["funnel_nightly"].allowed_run_types is None
    for name in ("funnel_training", "funnel_maintenance"):
        assert {kind.value for kind in dags[name].allowed_run_types} == {"scheduled", "manual"}


@pytest.mark.parametrize(
    ("dag_id", "parameters"),
    [
        ("funnel_nightly", {"model": "best"}),
        ("funnel_nightly", {"model": 3}),
        ("funnel_training", {"seed": "many"}),
        ("funnel_training", {"history_days": 0}),
        ("funnel_training", {"architecture": "transformer"}),
        ("funnel_training", {"as_of": "last week"}),
    ],
)
def test_a_parameter_of_the_wrong_kind_is_refused_before_a_run_is_made(
    load_dags: LoadDags, company: Company, dag_id: str, parameters: dict[str, Any]
) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    params = as_scheduled(load_dags(company.config), dag_id).params
    params.validate()
    with pytest.raises(ParamValidationError, match="Invalid input for param " + next(iter(parameters))):
        params.deep_merge(parameters).validate()


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
    import_dag: ImportDag, company: Company, zone: str, data_interval_start: str, night: str
) -> None:
    night_of = import_dag(company.config).night_of
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
    import_dag: ImportDag,
    make_company: Callable[..., Company],
    zone: str,
    first: date,
    last: date,
) -> None:
    config = make_company(timezone=zone).config
    night_of = import_dag(config).night_of
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
    load_dags: LoadDags, import_dag: ImportDag, make_company: Callable[..., Company], zone: str
) -> None:
    config = make_company(timezone=zone).config
    run = as_scheduled(load_dags(config)).next_dagrun_info(last_automated_run_info=None)
    yesterday = datetime.now(ZoneInfo(zone)).date() - timedelta(days=1)
    assert import_dag(config).night_of(run.data_interval.start, ZoneInfo(zone)) == yesterday.isoformat()


@pytest.mark.parametrize(
    ("dag_id", "argument", "params", "value"),
    [
        ("funnel_nightly", "night", {}, "2026-03-01"),
        ("funnel_nightly", "model", {"model": None}, ""),
        ("funnel_nightly", "model", {"model": "20260415-1a2b3c4d"}, "20260415-1a2b3c4d"),
        ("funnel_training", "as_of", {"as_of": None}, "2026-03-02"),
        ("funnel_training", "as_of", {"as_of": "2026-02-10"}, "2026-02-10"),
        ("funnel_maintenance", "run", {}, "run-1"),
    ],
)
def test_tasks_get_their_arguments_from_the_run(
    load_dags: LoadDags, company: Company, dag_id: str, argument: str, params: dict[str, Any], value: str
) -> None:
    dag = load_dags(company.config).dags[dag_id]
    # In Shanghai: the first instant of 1 March, and four in the morning of 3 March.
    start, after = datetime(2026, 2, 28, 16, tzinfo=UTC), datetime(2026, 3, 2, 20, tzinfo=UTC)
    run = SimpleNamespace(run_id="run-1", data_interval_start=start, logical_date=None, run_after=after)
    templates = [task.op_kwargs[argument] for task in dag.tasks if argument in task.op_kwargs]
    environment = dag.get_template_env()
    rendered = [environment.from_string(template).render(dag_run=run, params=params) for template in templates]
    assert rendered
    assert set(rendered) == {value}


def test_a_manual_run_is_for_the_last_day_that_ended(
    load_dags: LoadDags, import_dag: ImportDag, company: Company
) -> None:
    import pendulum

    timetable = as_scheduled(load_dags(company.config)).timetable
    at_noon = pendulum.datetime(2026, 3, 2, 12, tz="Asia/Shanghai")
    interval = timetable.infer_manual_data_interval(run_after=at_noon)
    assert import_dag(company.config).night_of(interval.start, company.settings.zone) == "2026-03-01"


def test_a_run_without_a_date_fails_in_one_line(import_dag: ImportDag, company: Company) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException, match=r"no data interval.*logical date"):
        import_dag(company.config).night_of(None, company.settings.zone)


def test_only_transient_errors_are_retried(import_dag: ImportDag, company: Company) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    fail_in_one_line = import_dag(company.config).fail_in_one_line
    line = r"^score 2026-03-01: no such column$"
    with pytest.raises(AirflowFailException, match=line) as failure, fail_in_one_line("score", "2026-03-01"):
        raise FunnelError("no such column")
    assert failure.value.__suppress_context__
    with pytest.raises(AirflowFailException, match=line), fail_in_one_line("score", "2026-03-01"):
        raise FunnelError("score 2026-03-01: no such column", stage="score")
    with pytest.raises(AirflowException, match="lost the race") as lost, fail_in_one_line("publish", "2026-03-01"):
        raise TransientError("lost the race")
    assert not isinstance(lost.value, AirflowFailException)
    with pytest.raises(ConnectionError), fail_in_one_line("score", "2026-03-01"):
        raise ConnectionError("the object store is busy")


def test_a_night_that_is_not_over_fails_without_a_retry(import_dag: ImportDag, company: Company) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    today = datetime.now(UTC).astimezone(company.settings.zone).date().isoformat()
    with pytest.raises(AirflowFailException, match=rf"{today} .*Asia/Shanghai"):
        import_dag(company.config).ingest.function(today, "run")


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
    assert len(bag.import_errors) == len(FILES)
    for error in bag.import_errors.values():
        assert error.splitlines()[-1].startswith(f"pipeline.errors.ConfigError: {expected}")
        assert error.count("Traceback") == 1
        assert len(error.splitlines()) < 12

    monkeypatch.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS", "False")
    for error in load_dags(config).import_errors.values():
        assert error.startswith(expected)
        assert "\n" not in error


def test_loading_the_dags_imports_nothing_heavy(tmp_path: Path, company: Company) -> None:
    environment = clean_environment(tmp_path, FUNNEL_CONFIG=str(company.config))
    command = [sys.executable, "-c", LOAD, str(DAGS), *FILES]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert ran.returncode == 0, ran.stderr
    loaded = json.loads(ran.stdout.splitlines()[-1])
    for name, seconds in loaded["seconds"].items():
        print(f"dags/{name}.py loads in {seconds:.2f} s once Airflow is imported")
    assert "pipeline" in loaded["ours"]
    assert not set(HEAVY) & set(loaded["all"])
    assert not {"pandas", "numpy", "pyarrow"} & set(loaded["ours"])


def as_scheduled(bag: "DagBag", dag_id: str = "funnel_nightly") -> Any:
    """A DAG as the scheduler sees it: deserialized from its serialized form."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.deserialize_dag(DagSerialization.serialize_dag(bag.dags[dag_id]))


def test_a_night_that_cannot_start_records_its_cause_for_the_report(
    import_dag: ImportDag, make_company: Callable[..., Company], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    company = make_company('[operations]\nwebhook_connection = "nobody"\n')
    nightly = import_dag(company.config)
    monkeypatch.setattr(nightly, "get_current_context", dict)
    with pytest.raises(AirflowFailException, match="connection 'nobody'"):
        nightly.wait.function("2026-03-01", "run")
    (record,) = company.rows("runs")
    assert (record["stage"], record["status"], record["ds"]) == ("wait", "failed", date(2026, 3, 1))
    assert "connection 'nobody'" in record["message"]


class Runs:
    """Fake of a night's running task, which answers questions about the other runs."""

    def __init__(self, states: dict[str, dict[str, str | None]], running: set[str]) -> None:
        self.states, self.running = states, running
        self.asked: list[datetime] = []

    def get_task_states(
        self, *, dag_id: str, task_ids: list[str], logical_dates: list[datetime]
    ) -> dict[str, dict[str, str | None]]:
        assert (dag_id, task_ids) == ("funnel_nightly", ["ingest", "activity"])
        self.asked = logical_dates
        return self.states

    def get_dr_count(self, *, dag_id: str, run_ids: list[str], states: list[str]) -> int:
        assert states == ["running"]
        return len(self.running & set(run_ids))


@pytest.mark.parametrize(
    ("ingest", "activity", "running", "waits"),
    [
        (None, None, True, True),
        ("running", None, True, True),
        ("success", "up_for_retry", True, True),
        ("success", "success", True, False),
        ("failed", "upstream_failed", True, False),
        # Queued: in a backwards backfill its turn comes after this one's.
        (None, None, False, False),
    ],
)
def test_a_night_waits_for_earlier_ones_that_are_landing_their_days(
    import_dag: ImportDag, company: Company, ingest: str | None, activity: str | None, running: bool, waits: bool
) -> None:
    runs = Runs({"earlier": {"ingest": ingest, "activity": activity}}, {"earlier"} if running else set())
    context = {"dag_run": SimpleNamespace(run_type="backfill", dag_id="funnel_nightly"), "ti": runs}
    still_landing = import_dag(company.config)._still_landing
    assert still_landing(context, date(2026, 3, 1)) == (["earlier"] if waits else [])


@pytest.mark.parametrize(("kind", "days"), [("backfill", 30), ("manual", 30), ("scheduled", 7)])
def test_tonight_waits_for_the_last_days_alone_and_a_backfill_for_its_whole_window(
    import_dag: ImportDag, make_company: Callable[..., Company], kind: str, days: int
) -> None:
    runs = Runs({}, set())
    context = {"dag_run": SimpleNamespace(run_type=kind, dag_id="funnel_nightly"), "ti": runs}
    import_dag(make_company(timezone="America/New_York").config)._still_landing(context, date(2026, 3, 12))
    # Midnights of New York, whose clocks went forward on 8 March.
    assert len(runs.asked) == days
    assert runs.asked[0].astimezone(UTC) == datetime(2026, 3, 11, 4, tzinfo=UTC)
    assert runs.asked[4].astimezone(UTC) == datetime(2026, 3, 7, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ingest", "activity", "landed", "fails"),
    [
        ("failed", "upstream_failed", "nothing", True),
        ("success", "failed", "events", True),
        ("failed", "upstream_failed", "everything", False),
        ("success", "success", "nothing", False),
    ],
)
def test_a_night_fails_after_one_that_failed_to_land_its_day(
    import_dag: ImportDag,
    company: Company,
    monkeypatch: pytest.MonkeyPatch,
    ingest: str,
    activity: str,
    landed: str,
    fails: bool,
) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    first, failed, day = (date(2026, 3, number) for number in (1, 2, 3))
    company.land(failed)
    company.land(day)
    tables = {"nothing": [], "events": ["events"], "everything": ["events", "activity"]}
    for each, table in [(first, "events"), (first, "activity"), *((failed, name) for name in tables[landed])]:
        publish(company, table, each, [{"user_id": "ann", "event": "exposure"}])
    nightly = import_dag(company.config)
    runs = RunsByNight({failed: {"ingest": ingest, "activity": activity}}, company)
    context = {"dag_run": SimpleNamespace(run_type="backfill", dag_id="funnel_nightly"), "ti": runs}
    monkeypatch.setattr(nightly, "get_current_context", lambda: context)
    if not fails:
        assert nightly.wait.function(f"{day}", "run") is True
        return
    with pytest.raises(AirflowFailException, match=f"{failed} never landed, since its run failed.*--start {failed}"):
        nightly.wait.function(f"{day}", "run")
    (record,) = company.rows("runs")
    assert (record["stage"], record["status"], record["ds"]) == ("wait", "failed", day)


class RunsByNight(Runs):
    """Runs of the DAG by their night, none of them running."""

    def __init__(self, by_night: dict[date, dict[str, str | None]], company: Company) -> None:
        super().__init__({}, set())
        self.by_night, self.zone = by_night, company.settings.zone

    def get_task_states(
        self, *, dag_id: str, task_ids: list[str], logical_dates: list[datetime]
    ) -> dict[str, dict[str, str | None]]:
        nights = {moment.astimezone(self.zone).date() for moment in logical_dates}
        return {f"run of {night}": states for night, states in self.by_night.items() if night in nights}
