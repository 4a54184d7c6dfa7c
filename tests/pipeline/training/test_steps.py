"""Training step by step, on examples of known odds: what each step leaves behind, also when repeated or killed."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import Bundle
from pipeline.config.settings import Settings, load
from pipeline.dates import DateRange
from pipeline.errors import ConfigError, FunnelError
from pipeline.models.registry import Registry
from pipeline.runs.context import Context
from pipeline.runs.record import StageRun
from pipeline.training.evaluation import cross_fitted, read_examples, user_folds
from pipeline.training.fitting import with_training
from pipeline.training.manually import promote_manually
from pipeline.training.records import read_verdict
from pipeline.training.steps import evaluate, fit_candidate, promote, register
from pipeline.warehouse.warehouse import Pinned
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.examples import A_DAY, DAYS, land_examples
from tests.support.funnels import WITHOUT_USERS
from tests.support.places import ROOT

AS_OF = date(2026, 3, 31)
FIRST = "promoted: the first champion, better than a constant on every stage"
SHORT = "[training]\nepochs = 4\nexpert_units = [8]\nexperts = 3\n"
UNTAUGHT = "[training]\nepochs = 1\nlearning_rate = 1e-9\nexpert_units = [8]\nexperts = 3\n"


def trained(context: Context, as_of: date = AS_OF) -> str:
    """All steps but the building of examples."""
    version = fit_candidate(context, as_of)
    evaluate(context, version)
    register(context, version)
    promote(context, version)
    return version


@pytest.fixture(scope="module")
def fresh_store(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    company = Company.make(tmp_path_factory.mktemp("store"))
    assert Registry(company.settings).tracking.client
    return company.folder / "models" / "mlflow.db"


def make_company(folder: Path, fresh_store: Path, extra: str = SHORT) -> Company:
    company = Company.make(folder, extra, replace=WITHOUT_USERS)
    (folder / "models").mkdir()
    shutil.copy(fresh_store, folder / "models")
    return company


@pytest.fixture
def bank(tmp_path: Path, fresh_store: Path) -> Company:
    """A company with no examples and no model."""
    return make_company(tmp_path, fresh_store)


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Company:
    """A company with examples and its first champion; its tests run in order and add to it."""
    company = make_company(tmp_path_factory.mktemp("lender"), fresh_store)
    land_examples(company, AS_OF)
    trained(company.context(run_id="first"))
    return company


def settings_of(company: Company, training: str) -> Settings:
    """The company's configuration with another `[training]`."""
    path = company.folder / "other.toml"
    path.write_text(company.config.read_text(encoding="utf-8").replace(SHORT, training), encoding="utf-8")
    return load(path)


def champion(company: Company, ds: date = AS_OF) -> str | None:
    return Registry(company.settings).champion(ds)


def figures(company: Company) -> list[tuple[str, str, float, str]]:
    return [(row["name"], row["stage"], row["value"], row["run_id"]) for row in company.rows("metrics")]


@pytest.mark.slow
class TestLender:
    def test_the_run_holds_a_model_s_provenance(self, lender: Company) -> None:
        registry = Registry(lender.settings)
        version = champion(lender)
        assert version is not None and version.startswith("20260331-")
        found = registry.run(version)
        client = registry.tracking.client
        assert client.get_model_version_by_alias("funnel", "champion").run_id == found.id
        run = client.get_run(found.id)
        assert run.info.run_name == version
        assert {key: run.data.params[key] for key in ("architecture", "epochs", "seed", "windows_days")} == {
            "architecture": "mmoe",
            "epochs": "4",
            "seed": "0",
            "windows_days": "(1, 7, 30)",
        }
        snapshot = lender.context().warehouse.pin("examples").snapshot_id
        assert found.tags["promoted"] == "true"
        assert (found.tags["run_id"], found.tags["snapshots"]) == ("first", f'{{"examples": {snapshot}}}')
        assert found.tags["code_version"].startswith("0.1.0")
        bundle = Bundle.load(registry.bundle_path(version))
        assert found.metrics["auc_click"] == bundle.metrics["click"].auc > 0.7
        assert found.metrics["judged_positives_complete"] == bundle.metrics["complete"].held_out_positives
        assert bundle.trained_on["snapshots"] == {"examples": snapshot}
        # Of 47 mature days of clicks a quarter is 11; the last mature one is three days before.
        assert bundle.trained_on["held_out_from"]["click"] == str(AS_OF - timedelta(days=3 + 11 - 1))
        assert {each.path for each in client.list_artifacts(found.id)} == {"bundle", "plots", "verdict.json"}
        plots = {Path(each.path).name: each.file_size for each in client.list_artifacts(found.id, "plots")}
        assert set(plots) == {"reliability.png", "expert_use.png"} and min(plots.values()) > 10_000

    def test_what_it_leaves_in_the_tables(self, lender: Company) -> None:
        runs = {row["stage"]: row for row in lender.rows("runs")}
        assert set(runs) == {"train", "evaluate", "promote"}
        assert {row["status"] for row in runs.values()} == {"ok"}
        assert {row["model_version"] for row in runs.values()} == {champion(lender)}
        assert runs["train"]["rows_in"] == DAYS * A_DAY
        assert ("held_out_auc", "click") in {row[:2] for row in figures(lender)}
        used = [row for row in lender.rows("metrics") if row["name"] == "expert_use"]
        assert {row["feature"] for row in used} == {f"expert {n}" for n in range(lender.settings.training.experts)}
        assert {row["model_version"] for row in used} == {champion(lender)}
        for stage in lender.settings.funnel.stage_names:
            shares = [row["value"] for row in used if row["stage"] == stage]
            assert sum(shares) == pytest.approx(1.0) and min(shares) > 0
        assert lender.lines[-1].endswith(FIRST)

    def test_repeating_a_run_trains_nothing(self, lender: Company) -> None:
        before, versions = figures(lender), Registry(lender.settings).versions()
        assert trained(lender.context(run_id="first")) == champion(lender)
        assert figures(lender) == before
        assert Registry(lender.settings).versions() == versions

    def test_an_equal_challenger_is_refused_and_the_run_says_why(self, lender: Company) -> None:
        first = champion(lender)
        equal = trained(lender.context(run_id="equal"))
        assert equal != first == champion(lender)
        verdict = read_verdict(Registry(lender.settings), equal)
        assert verdict is not None and verdict.champion == first
        for stage in verdict.stages:
            assert stage.difference is not None and stage.difference.mean == 0.0, "judged alike, though one is champion"
        (run,) = (row for row in lender.rows("runs") if (row["stage"], row["run_id"]) == ("promote", "equal"))
        assert run["warnings"].startswith(f"model {equal}: not promoted: not better on stage 'complete': log loss")
        assert sum("not promoted" in line for line in lender.lines) == 1

    def test_models_are_listed_promoted_and_rolled_back(self, lender: Company, funnel: Callable[..., Ended]) -> None:
        config = lender.config
        second, first = (each.version for each in Registry(lender.settings).versions())
        lines = funnel("models", "-c", config).out.splitlines()
        assert [lines[1].split()[position] for position in (0, 3, 5, 6)] == ["version", "status", "AUC", "click"]
        listed = {line.split()[0]: line for line in lines if line.strip().startswith("2026")}
        assert list(listed) == [second, first]
        assert listed[second].split()[2:4] == ["refused", "mmoe"] and "not better on stage 'complete'" in listed[second]
        assert listed[first].split()[2:4] == ["champion", "mmoe"] and FIRST in listed[first]
        said = funnel("promote", second, "--reason", "a test", "-c", config).out
        assert said.startswith(f"model {second} is champion (its verdict: not promoted: not better on stage 'complete'")
        assert champion(lender) == second
        table = funnel("models", "-c", config).out
        assert "manually: a test" in table and "promoted" in table
        # The configuration may stand before the subcommand or after it.
        said = funnel("models", "-c", config, "rollback").out
        assert said == f"model {second} is withdrawn from every date; {first} is champion again\n"
        (line,) = (line for line in funnel("models", "-c", config).out.splitlines() if second in line.split()[:1])
        assert line.split()[2] == "withdrawn"
        line = funnel("models", "rollback", "-c", config).complaint
        assert line.startswith(f"no promoted model comes before champion {first}")
        assert "no model 'x' in " in funnel("promote", "x", "-c", config).complaint

    def test_an_older_model_promoted_manually_serves_the_older_nights(
        self, lender: Company, funnel: Callable[..., Ended]
    ) -> None:
        first, early = champion(lender), AS_OF - timedelta(days=5)
        land_examples(lender, early, seed=5)
        old = trained(lender.context(), early)
        assert lender.lines[-1].endswith(FIRST), "no other was trained on data up to then"
        said = funnel("promote", old, "-c", lender.config).out
        assert said.startswith(f"model {old} is promoted for nights from {early} on; later ones keep {first}")
        assert [champion(lender, early), champion(lender)] == [old, first]

    def test_rebuilt_examples_evaluate_no_older_model(self, lender: Company) -> None:
        candidate = fit_candidate(lender.context(), AS_OF)
        land_examples(lender, AS_OF, seed=1)
        with pytest.raises(FunnelError, match=f"evaluate {AS_OF}: the examples that model {candidate} was trained on"):
            evaluate(lender.context(), candidate)
        register(lender.context(), candidate)
        with pytest.raises(FunnelError, match=f"promote {AS_OF}: model {candidate} was never evaluated: train again"):
            promote(lender.context(), candidate)


@pytest.mark.slow
def test_a_better_challenger_takes_over(bank: Company) -> None:
    land_examples(bank, AS_OF)
    weak = trained(Context(settings_of(bank, UNTAUGHT), notify=bank.lines.append))
    refused = (
        f"warning: promote {AS_OF}: model {weak}: not promoted: no better than a constant on stage 'click': log loss"
    )
    told = next(line for line in bank.lines if line.startswith(refused))
    assert told.endswith(
        "; no model is champion, so nights have no scores until a later one passes, or this one is promoted all the "
        f"same: funnel promote {weak}"
    )
    assert champion(bank) is None
    promote_manually(bank.context(), weak, reason="the only one")
    assert {row["warnings"] for row in bank.rows("runs") if row["stage"] == "promote"} == {
        told.removeprefix(f"warning: promote {AS_OF}: "),
        f"model {weak} was promoted by hand, against its verdict (see funnel models): the only one",
    }
    assert champion(bank) == weak
    challenger = trained(bank.context())
    assert champion(bank) == challenger
    told = f"model {challenger}: promoted: better than champion {weak} on 'complete', no worse on 'click', 'register'"
    assert bank.lines[-1].startswith(told)


@pytest.mark.slow
def test_a_model_that_lost_the_race_is_compared_with_the_one_that_won(bank: Company) -> None:
    land_examples(bank, AS_OF)
    versions = [fit_candidate(bank.context(run_id=run), AS_OF) for run in ("one", "two")]
    for version in versions:
        assert evaluate(bank.context(), version).champion is None
        register(bank.context(), version)
    first, second = versions
    assert promote(bank.context(), first).promoted
    verdict = promote(bank.context(), second)
    assert verdict.champion == first
    assert not verdict.promoted, "it is its equal"
    assert champion(bank) == first
    assert promote(bank.context(), first).champion is None, "repeated, it stays what it was"


def test_models_are_compared_on_days_that_trained_neither(bank: Company) -> None:
    land_examples(bank, AS_OF)
    context = Context(with_training(settings_of(bank, SHORT), holdout_days=3))
    short = trained(context)
    verdict = evaluate(bank.context(), fit_candidate(bank.context(), AS_OF))
    assert verdict.champion == short
    assert [stage.exposures for stage in verdict.stages] == [3 * A_DAY] * 3


@pytest.mark.slow
def test_a_champion_that_cannot_score_is_replaced(bank: Company) -> None:
    land_examples(bank, AS_OF)
    broken = trained(bank.context())
    (Registry(bank.settings).bundle_path(broken) / "weights.safetensors").write_bytes(b"")
    challenger = trained(bank.context())
    assert champion(bank) == challenger
    assert f"promoted: the champion cannot score these examples ({broken}: " in bank.lines[-1]
    assert "weights.safetensors is not the file that was saved" in bank.lines[-1]


@pytest.mark.slow
def test_a_stage_gone_quiet_is_no_first_champion(bank: Company, funnel: Callable[..., Ended]) -> None:
    land_examples(bank, AS_OF, quiet_days=6)
    version = trained(bank.context())
    assert champion(bank) is None
    last = AS_OF - timedelta(days=7 + 6)
    warning = next(line for line in bank.lines if line.startswith("warning: promote"))
    assert f"model {version}: not promoted: stage 'register' has gone quiet: no positive among 960 exposures" in warning
    assert f"exposures after {last}, where " in warning
    assert "refused" in funnel("models", "-c", bank.config).out


@pytest.mark.slow
def test_too_few_held_out_positives_promote_nobody(bank: Company) -> None:
    land_examples(bank, AS_OF)
    bank.config.write_text(bank.config.read_text() + "[promotion]\nmin_positives = 5000\n", encoding="utf-8")
    trained(bank.context())
    assert champion(bank) is None
    assert any("fewer than promotion.min_positives = 5000" in line for line in bank.lines)


@pytest.mark.slow
def test_a_killed_training_leaves_no_model_and_can_be_repeated(bank: Company, funnel: Callable[..., Ended]) -> None:
    land_examples(bank, AS_OF)
    # Spark takes a `python -c` for its own doctests, and ends it.
    script = bank.folder / "killed.py"
    script.write_text(
        "import sys; from datetime import date; from pathlib import Path\n"
        "from pipeline.config.settings import load; from pipeline.runs.context import Context\n"
        "from pipeline.training.steps import fit_candidate; from tests.support.kill_at import kill_at\n"
        "kill_at('pipeline.models.tracking:Tracking.finish', 1)\n"
        "fit_candidate(Context(load(Path(sys.argv[1])), run_id='night'), date(2026, 3, 31))\n",
        encoding="utf-8",
    )
    command, environment = [sys.executable, str(script), str(bank.config)], {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=900)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert Registry(bank.settings).tracking.finished() == []
    assert "no model in " in funnel("models", "-c", bank.config).complaint
    version = trained(bank.context(run_id="night"))
    assert champion(bank) == version
    names = [(row["name"], row["stage"], row["feature"]) for row in bank.rows("metrics")]
    assert len(names) == len(set(names)), "what the killed run had written is not there twice"


@pytest.mark.slow
def test_a_cross_fitted_score_does_not_depend_on_the_user_s_own_labels(bank: Company) -> None:
    land_examples(bank, AS_OF)
    context = bank.context()
    read = read_examples(StageRun(context, "train", DateRange(AS_OF, AS_OF)), AS_OF)
    bundle = Bundle.load(Registry(bank.settings).bundle_path(fit_candidate(context, AS_OF)))
    held = read.held_out_part
    folds = user_folds(held.table)
    assert set(folds) == {0, 1, 2, 3, 4}
    by_user: dict[str, set[int]] = {}
    for user, fold in zip(held.table["user_id"].to_pylist(), folds.tolist(), strict=True):
        by_user.setdefault(user, set()).add(fold)
    assert {len(found) for found in by_user.values()} == {1}
    scores = cross_fitted(bundle, held.table, held.labels, folds)
    inside = folds == 2
    flipped = np.where(inside[:, None], 1 - held.labels, held.labels)
    others = cross_fitted(bundle, held.table, flipped, folds)
    np.testing.assert_array_equal(others[inside], scores[inside])
    assert (others[~inside] != scores[~inside]).mean() > 0.9
    assert (np.diff(scores, axis=1) <= 0).all()


def test_what_is_read_is_the_snapshot_on_record(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    land_examples(company, AS_OF)
    context, another = company.context(), company.context().warehouse
    first, pin = another.pin("examples"), context.warehouse.pin

    def pin_and_lose_a_race(name: str, **days: Any) -> Pinned:
        pinned = pin(name, **days)
        if another.pin("examples") == first:
            land_examples(company, AS_OF, seed=1)
        return pinned

    monkeypatch.setattr(context.warehouse, "pin", pin_and_lose_a_race)
    run = StageRun(context, "train", DateRange(AS_OF, AS_OF))
    read = read_examples(run, AS_OF)
    assert another.pin("examples").snapshot_id != first.snapshot_id, "examples were published meanwhile"
    assert run.inputs == {"examples": first.snapshot_id}
    assert {exposure.partition("-")[0] for exposure in read.table["exposure_id"].to_pylist()} == {"0"}
    monkeypatch.undo()
    again = read_examples(run, AS_OF)
    assert run.inputs == {"examples": another.pin("examples").snapshot_id}
    assert again.snapshot != read.snapshot
    assert {exposure.partition("-")[0] for exposure in again.table["exposure_id"].to_pylist()} == {"1"}


def test_training_options_override_the_configuration(company: Company, funnel: Callable[..., Ended]) -> None:
    settings = company.settings
    changed = with_training(settings, architecture="ple", history_days=30, seed=None)
    assert (changed.training.architecture, changed.training.history_days, changed.training.seed) == ("ple", 30, 0)
    assert changed.funnel == settings.funnel and settings.training.architecture == "mmoe"
    for name, value, takes in (
        ("architecture", "mlp", "'shared_bottom', 'l2_constrained'"),
        ("history_days", 0, "a number greater than 0"),
        ("seed", -1, "a number greater than or equal to 0"),
    ):
        with pytest.raises(ConfigError, match=f"^training.{name}: got {value!r}, takes {takes}"):
            with_training(settings, **{name: value})
        option = f"--{name.replace('_', '-')}"
        line = funnel("train", "--as-of", AS_OF, option, value, "-c", company.config).complaint
        assert line.startswith(f"training.{name}: got {value!r}, takes {takes}")
