"""The registry on a real MLflow: which model is champion on which date, what is kept where, and what is refused."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.settings import Settings
from pipeline.errors import ConfigError, FunnelError, TransientError
from pipeline.models.last_known import FILE
from pipeline.models.registry import Registry
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.places import ROOT

OPEN_AND_BEGIN = """
import sys
from datetime import date
from pathlib import Path
from pipeline.config.settings import load
from pipeline.models.registry import Registry
sys.stdin.read()
tracking = Registry(load(Path(sys.argv[1]))).tracking
run = tracking.begin(date(2026, 3, 1), tags={}, parameters={})
tracking.finish(run)
print(run.version)
"""


@pytest.fixture(scope="module")
def fresh_store(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds nothing yet: making MLflow's tables takes seconds, copying them none."""
    company = Company.make(tmp_path_factory.mktemp("store"))
    assert Registry(company.settings).tracking.client
    return company.folder / "models" / "mlflow.db"


@pytest.fixture
def registry(company: Company, fresh_store: Path) -> Registry:
    (company.folder / "models").mkdir()
    shutil.copy(fresh_store, company.folder / "models")
    return Registry(company.settings)


def trained(registry: Registry, as_of: date, content: str = "weights") -> str:
    """A finished training of which only the bundle's folder is real; returns its version."""
    run = registry.tracking.begin(as_of, tags={}, parameters={"seed": 0})
    folder = registry.tracking.folder / "made" / run.bundle
    folder.mkdir(parents=True)
    (folder / "weights").write_text(content)
    registry.tracking.log_folder(run, registry.tracking.folder / "made")
    shutil.rmtree(registry.tracking.folder / "made")
    registry.tracking.finish(run)
    return run.version


def promoted(registry: Registry, day: int) -> str:
    version = trained(registry, march(day))
    registry.register(version)
    registry.promote(version)
    return version


def march(day: int) -> date:
    return date(2026, 3, day)


def alias(registry: Registry) -> str:
    """The version that other tools find under the alias."""
    return registry.tracking.client.get_model_version_by_alias("funnel", "champion").tags["version"]


def test_reading_an_empty_registry_creates_nothing(company: Company) -> None:
    registry = Registry(company.settings)
    assert registry.champion(march(1)) is None
    assert registry.versions() == []
    with pytest.raises(FunnelError, match=r"no model 'x' in .*/models; the newest are: none$"):
        registry.bundle_path("x")
    with pytest.raises(FunnelError, match="is champion: there is nothing to roll back"):
        registry.rollback()
    assert not (company.folder / "models").exists()


def test_the_champion_of_a_night_is_the_last_promoted_of_the_newest_data_it_may_know(registry: Registry) -> None:
    b, c, a, b2 = (promoted(registry, day) for day in (10, 20, 5, 10))
    champions = [registry.champion(march(day)) for day in (4, 5, 9, 10, 19, 20, 31)]
    assert champions == [None, a, a, b2, b2, c, c]
    assert registry.champion(march(31), excluding=c) == b2
    assert registry.champion(march(10), excluding=b2) == b
    assert alias(registry) == c


def test_of_two_as_of_one_date_the_one_promoted_last_counts_not_the_one_registered_last(registry: Registry) -> None:
    first, second = (trained(registry, march(1)) for _ in range(2))
    for version in (first, second):
        registry.register(version)
    for version in (second, first):
        registry.promote(version)
    assert registry.champion(march(1)) == alias(registry) == first


def test_of_two_promotions_at_once_the_alias_ends_at_the_champion(
    registry: Registry, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (trained(registry, march(1)) for _ in range(2))
    other = Registry(company.settings)
    for version in (first, second):
        registry.register(version)
    point = registry.tracking.client.set_registered_model_alias

    def lose_the_race(*given: Any) -> None:
        monkeypatch.setattr(registry.tracking.client, "set_registered_model_alias", point)
        other.promote(second)
        point(*given)

    monkeypatch.setattr(registry.tracking.client, "set_registered_model_alias", lose_the_race)
    registry.promote(first)
    assert registry.champion(march(1)) == alias(registry) == second


def test_a_model_that_is_only_trained_or_only_registered_scores_no_night(registry: Registry) -> None:
    champion, registered, trained_only = promoted(registry, 1), trained(registry, march(2)), trained(registry, march(3))
    registry.register(registered)
    assert registry.champion(march(9)) == champion
    assert [each.version for each in registry.versions()] == [registered, champion]
    assert registry.bundle_path(trained_only).name == trained_only, "it can be judged, and named for a night by hand"


def test_an_unfinished_training_is_not_a_model(registry: Registry) -> None:
    run = registry.tracking.begin(march(1), tags={}, parameters={})
    failed = registry.tracking.begin(march(1), tags={}, parameters={})
    registry.tracking.fail(failed)
    for version in (run.version, failed.version):
        with pytest.raises(FunnelError, match=f"no model '{version}'"):
            registry.register(version)


def test_a_withdrawn_model_is_champion_of_no_date_any_more(registry: Registry) -> None:
    first, second, third = (promoted(registry, day) for day in (1, 10, 20))
    assert registry.rollback() == (third, second)
    assert alias(registry) == second
    assert [registry.champion(march(day)) for day in (1, 10, 20, 31)] == [first, second, second, second]
    assert registry.rollback() == (second, first)
    assert [registry.champion(march(day)) for day in (1, 10, 20, 31)] == [first] * 4
    with pytest.raises(FunnelError, match=f"no promoted model comes before champion {first}: nights would have none"):
        registry.rollback()
    assert registry.champion(march(31)) == alias(registry) == first
    registry.promote(third)
    assert registry.champion(march(31)) == alias(registry) == third
    assert registry.champion(march(19)) == first


def test_each_step_repeated_changes_nothing(registry: Registry) -> None:
    version = promoted(registry, 1)
    before = registry.versions()
    later = promoted(registry, 1)
    registry.register(version)
    registry.promote(version)
    assert [each for each in registry.versions() if each.version == version] == before
    assert registry.champion(march(1)) == later, "a promotion repeated is no newer than the one after it"


def test_a_bundle_is_read_where_it_lies(registry: Registry) -> None:
    version = promoted(registry, 1)
    path = registry.bundle_path(version)
    assert path.name == version
    assert path.is_relative_to(registry.tracking.folder / "artifacts")
    assert (path / "weights").read_text() == "weights"
    shutil.rmtree(path)
    with pytest.raises(FunnelError, match=f"the bundle of model {version} is not at .*: restore it, or train again"):
        registry.bundle_path(version)


def test_a_folder_of_any_name(company: Company, fresh_store: Path) -> None:
    models = company.folder / "our models, März #1"
    models.mkdir()
    shutil.copy(fresh_store, models)
    company.config.write_text(company.config.read_text() + f'[models]\npath = "{models.name}"\n', encoding="utf-8")
    registry = Registry(company.settings)
    assert registry.bundle_path(trained(registry, march(1))).is_relative_to(models)


def test_a_clock_that_was_ahead_keeps_nothing_from_being_promoted_or_withdrawn(registry: Registry) -> None:
    first, second = promoted(registry, 1), promoted(registry, 2)
    ahead = {"promoted_at": "2999-01-01T00:00:00.000000+00:00"}
    number = next(each.number for each in registry.versions() if each.version == second)
    registry.tracking.client.set_model_version_tag(registry.name, number, *next(iter(ahead.items())))
    assert registry.rollback() == (second, first)
    assert registry.champion(march(31)) == first
    registry.promote(second)
    assert registry.champion(march(31)) == second


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_folder_that_mlflow_would_take_for_another_is_refused(company: Company, name: str) -> None:
    folder = company.folder / name
    folder.mkdir()
    made = Company(folder, company.config.read_text(encoding="utf-8"))
    with pytest.raises(FunnelError, match="rename the folder"):
        trained(Registry(made.settings), march(1))
    assert not (folder / "models").exists() and not (company.folder / "a").exists()


def test_an_unknown_version_names_the_newest(registry: Registry) -> None:
    versions = [promoted(registry, day) for day in range(1, 8)]
    with pytest.raises(FunnelError) as raised:
        registry.bundle_path("it's")
    newest = ", ".join(reversed(versions[-5:]))
    assert str(raised.value) == f'no model "it\'s" in {registry.tracking.place}; the newest are: {newest}'


def test_a_version_registered_by_another_tool_is_ignored(registry: Registry) -> None:
    version = promoted(registry, 1)
    registry.tracking.client.create_model_version("funnel", "somewhere")
    assert [each.version for each in registry.versions()] == [version]
    assert registry.champion(march(1)) == version


def test_a_damaged_store_is_one_line(company: Company, funnel: Callable[..., Ended]) -> None:
    (company.folder / "models").mkdir()
    (company.folder / "models" / "mlflow.db").write_text("a text, and longer than a header of SQLite's " * 9)
    line = funnel("models", "-c", company.config).complaint
    assert line.startswith(f"the model registry at {company.folder}/models cannot be used: file is not a database")


def test_a_store_that_nobody_may_write_is_one_line(company: Company) -> None:
    (company.folder / "models").write_text("a file where the folder should be")
    with pytest.raises(FunnelError, match=r"the model registry at .*/models cannot be used: .*File exists"):
        Registry(company.settings).tracking.begin(march(1), tags={}, parameters={})


def test_a_server_that_is_away_is_one_line_and_worth_another_try(
    company: Company, funnel: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("FUNNEL_MODELS__TRACKING_URI", f"http://ann:secret@127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match="try again when it answers"):
        Registry(company.settings).champion(march(1))
    line = funnel("models", "-c", company.config).complaint
    assert "the model registry at http://***@127.0.0.1:" in line and "Connection refused" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("code", "kind"), [(401, FunnelError), (403, FunnelError), (429, TransientError), (503, TransientError)]
)
def test_a_server_that_refuses_is_not_tried_again(company: Company, code: int, kind: type[FunnelError]) -> None:
    from mlflow.exceptions import MlflowException

    said = f"API request to endpoint /api/2.0/mlflow/runs/search failed with error code {code} != 200."
    with pytest.raises(FunnelError, match=str(code)) as raised, Registry(company.settings).tracking.as_one_line_error():
        raise MlflowException(said)
    assert type(raised.value) is kind


def test_an_address_that_is_none_is_refused_by_name(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNNEL_MODELS__TRACKING_URI", "mlflow:5000")
    with pytest.raises(
        ConfigError, match=r"models.tracking_uri: got a value that is not shown.* takes an MLflow server's"
    ):
        assert company.settings
    monkeypatch.delenv("FUNNEL_MODELS__TRACKING_URI")
    monkeypatch.setenv("FUNNEL_MODELS__PATH", "s3://bucket/models")
    with pytest.raises(ConfigError, match=r"models.path: got 's3://bucket/models', takes a local folder"):
        assert company.settings


@pytest.mark.slow
def test_processes_that_open_a_fresh_store_at_once_all_find_it(company: Company) -> None:
    command = [sys.executable, "-c", OPEN_AND_BEGIN, str(company.config)]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    time.sleep(4)
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    ended = [(process.wait(400), process.stdout.read(), process.stderr.read()) for process in started]  # type: ignore[union-attr]
    assert [(code, told) for code, _, told in ended] == [(0, b"")] * 3, "and none has anything to complain of"
    versions = {said.decode().strip() for _, said, _ in ended}
    assert {run.version for run in Registry(company.settings).tracking.finished()} == versions
    assert len(versions) == 3


@pytest.mark.slow
def test_a_process_killed_while_it_makes_the_store_is_in_nobody_s_way(company: Company) -> None:
    killed = "from tests.support.kill_at import kill_at; kill_at('pathlib:Path.rename', 1)\n" + OPEN_AND_BEGIN
    command = [sys.executable, "-c", killed, str(company.config)]
    ended = subprocess.run(command, cwd=ROOT, input=b"", capture_output=True, check=False, timeout=400)
    assert ended.returncode == -signal.SIGKILL
    registry = Registry(company.settings)
    assert registry.tracking.is_empty
    version = promoted(registry, 1)
    assert registry.champion(march(1)) == version


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return each.getsockname()[1]


@pytest.fixture
def server(tmp_path: Path, fresh_store: Path) -> Iterator[str]:
    """A real MLflow server that keeps the artifacts itself."""
    shutil.copy(fresh_store, tmp_path / "server.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while True:
            with socket.socket() as each:
                if each.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_keeps_all_and_a_bundle_is_downloaded_once(
    company: Company, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNNEL_MODELS__TRACKING_URI", server)
    settings: Settings = company.settings
    registry = Registry(settings)
    first, second = promoted(registry, 1), promoted(registry, 2)
    assert (registry.champion(march(1)), registry.champion(march(9)), alias(registry)) == (first, second, second)
    path = registry.bundle_path(second)
    assert path == company.folder / "models" / "downloaded" / second
    assert {each.name for each in path.parent.iterdir()} == {second, FILE}, "no draft is left"
    assert (path / "weights").read_text() == "weights"
    shutil.rmtree(tmp_path / "kept")
    assert Registry(settings).bundle_path(second) == path
    with pytest.raises(FunnelError, match=f"the model registry at {server} cannot be used: "):
        registry.bundle_path(first)
    assert not (company.folder / "models" / "mlflow.db").exists()
    registry.tracking.log_json(registry.run(second), "told.json", {"a": 1})
    assert registry.tracking.read_json(registry.run(second), "told.json") == {"a": 1}
    assert registry.tracking.read_json(registry.run(second), "untold.json") is None
