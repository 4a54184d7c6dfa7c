"""Models on an MLflow server with Postgres: hosts that fetch them, nights without the server, promotions that race."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model import Bundle
from pipeline.dates import DateRange
from pipeline.errors import TransientError
from pipeline.models.registry import Registry
from pipeline.runs.record import recorded
from pipeline.scoring.choice import choose_model
from tests.pipeline.training.test_steps import AS_OF, SHORT, land_examples
from tests.pipeline.training.test_steps import trained as trained_on
from tests.support.company import Company
from tests.support.mlflow_server import MlflowServer


@pytest.fixture
def server(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    """The server, which the test before may have stopped."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow_server.start()
    return mlflow_server


@pytest.fixture
def make_host(make_company: Callable[..., Company], server: MlflowServer) -> Callable[[], Company]:
    """Make a host of one company; each has a disk of its own, and all use one model on the server."""
    models = f'[models]\ntracking_uri = "{server.uri}"\nname = "m{uuid.uuid4().hex[:12]}"\n'
    return lambda: make_company(SHORT + models)


def choose(host: Company) -> tuple[Path, Bundle, list[str]]:
    """The bundle that would score a night on this host, and the warnings."""
    with recorded(host.context(), "score", DateRange(AS_OF, AS_OF)) as run:
        path, bundle = choose_model(run, AS_OF, None)
    assert run.model_version == path.name
    return path, bundle, [each.line for each in run.warnings]


def test_promotions_at_once_leave_one_champion_and_the_alias_at_it(make_host: Callable[[], Company]) -> None:
    host = make_host()
    tracking = Registry(host.settings).tracking
    versions = []
    for _ in range(4):
        run = tracking.begin(AS_OF, tags={}, parameters={})
        tracking.finish(run)
        versions.append(run.version)
        Registry(host.settings).register(run.version)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda version: Registry(host.settings).promote(version), versions))
    registry = Registry(host.settings)
    champion = registry.champion(AS_OF)
    assert all(each.is_promoted for each in registry.versions())
    assert registry.tracking.client.get_model_version_by_alias(registry.name, "champion").tags["version"] == champion


def test_a_host_fetches_the_champion_and_scores_by_it_while_the_server_is_away(
    make_host: Callable[[], Company], server: MlflowServer
) -> None:
    trainer, scorer, newcomer = make_host(), make_host(), make_host()
    land_examples(trainer)
    version = trained_on(trainer.context())
    path, bundle, warnings = choose(scorer)
    assert path == scorer.folder / "models" / "downloaded" / version
    assert not warnings
    examples = trainer.context().warehouse.arrow("examples", first=AS_OF, last=AS_OF)
    assert len(bundle.predict(examples).calibrated) == examples.num_rows

    server.stop()
    kept, _, (warning,) = choose(scorer)
    assert kept == path
    assert version in warning and server.uri in warning and "champion when it last answered" in warning
    with pytest.raises(TransientError, match="cannot be used"):
        choose(newcomer)

    weights = next(path.glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(TransientError, match=f"nor can the copy of its champion {version}") as raised:
        choose(scorer)
    assert "\n" not in str(raised.value)
