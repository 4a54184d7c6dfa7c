"""A real lender's contact funnel, from one raw file to scores; pandas recounts everything from that file."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.dates import DateRange
from pipeline.features.examples import cached_exposures
from pipeline.nights import backfill
from pipeline.runs.context import Context
from pipeline.runs.record import StageRun
from pipeline.scoring.scoring import score
from pipeline.training.steps import train
from tests.support.company import Company
from tests.support.places import ROOT

pytestmark = pytest.mark.slow

CONFIG = ROOT / "tests" / "configs" / "bpi2012.toml"
ZONE = "Europe/Amsterdam"
# The log ends on 14 March; the day after it is an empty day that a night would run.
DAYS = DateRange(date(2011, 10, 1), date(2012, 3, 15))
AS_OF = date(2012, 3, 14)
END = pd.Timestamp("2012-03-15", tz=ZONE)
EXPOSURE = "W_Completeren aanvraag/START"
STAGES = {
    "accepted": ("A_ACCEPTED/COMPLETE", 7),
    "sent_back": ("O_SENT_BACK/COMPLETE", 14),
    "approved": ("A_APPROVED/COMPLETE", 30),
}


@pytest.fixture(scope="module")
def raw(bpi2012: Path) -> pd.DataFrame:
    """The funnel's events of the raw file: user, event, time (UTC), local date."""
    log = pd.read_parquet(bpi2012 / "events.parquet")
    log["event"] = log["activity"] + "/" + log["lifecycle"]
    log = log[log["event"].isin([EXPOSURE, *(event for event, _ in STAGES.values())])].copy()
    log["time"] = pd.to_datetime(log["time"], utc=True)
    log["day"] = log["time"].dt.tz_convert(ZONE).dt.date
    return log


@pytest.fixture(scope="module")
def lender(spark: None, bpi2012: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """All days loaded, a model trained, the last day of the log scored."""
    text = CONFIG.read_text(encoding="utf-8").replace('path = "bpi2012/', f'path = "{bpi2012}/')
    company = Company(tmp_path_factory.mktemp("bpi2012"), text)
    backfill(company.context(), DAYS)
    train(company.context(), AS_OF)
    score(company.context(), AS_OF)
    yield company


def _table(company: Company, name: str) -> pd.DataFrame:
    return company.context().warehouse.arrow(name, first=DAYS.first, last=DAYS.last).to_pandas()


def test_every_event_lands_on_its_local_date_and_none_is_lost(lender: Company, raw: pd.DataFrame) -> None:
    landed = _table(lender, "events")
    names = {EXPOSURE: "exposure"} | {event: stage for stage, (event, _) in STAGES.items()}
    expected = raw.assign(event=raw["event"].map(names)).groupby(["day", "event"]).size()
    actual = landed.groupby(["landed_on", "event"]).size()
    assert actual.to_dict() == expected.to_dict()

    runs = _table(lender, "runs").query("stage == 'ingest'")
    cases = pd.read_parquet(lender.settings.resolve(lender.settings.source.users.path or ""))
    assert len(runs) == len(DAYS) == 167
    assert runs["rows_in"].sum() == runs["rows_out"].sum() == len(raw) + len(cases)
    assert runs["quarantined"].sum() == runs["duplicates"].sum() == 0


def test_tiles_hold_every_event_once(lender: Company, raw: pd.DataFrame) -> None:
    tiles = _table(lender, "activity")
    assert tiles["n"].sum() == len(raw)
    assert len(tiles) == raw.groupby(["case_id", "event", "day"]).ngroups


def test_mature_labels_equal_the_published_counts(lender: Company) -> None:
    examples = _table(lender, "examples")
    assert (len(examples), examples["user_id"].nunique()) == (23_512, 7_366)
    counted = {stage: (examples[f"mature_{stage}"].sum(), examples[f"observed_{stage}"].sum()) for stage in STAGES}
    assert counted == {"accepted": (23_330, 11_853), "sent_back": (22_909, 5_016), "approved": (19_622, 3_815)}


def test_labels_and_implied_labels_equal_a_plain_count(lender: Company, raw: pd.DataFrame) -> None:
    examples = _table(lender, "examples").set_index("exposure_id").sort_index()
    observed = _any_in_window(raw)
    for position, stage in enumerate(STAGES):
        pd.testing.assert_series_equal(
            examples[f"observed_{stage}"].astype(float), observed[stage], check_names=False, check_index_type=False
        )
        # A later stage that is mature implies this one, where this one is mature itself.
        later = observed[list(STAGES)[position:]].max(axis=1).where(observed[stage].notna())
        assert np.array_equal(examples[f"label_{stage}"].astype(float), later, equal_nan=True)
        metrics = _table(lender, "metrics").query(f"name == 'implied_labels' and stage == '{stage}'")
        assert metrics["value"].item() == later.sum() - observed[stage].sum()


def test_last_touch_credits_the_latest_call_only(lender: Company, raw: pd.DataFrame) -> None:
    settings = lender.settings
    funnel = settings.funnel.model_copy(update={"attribution": "last_touch"})
    context = Context(settings.model_copy(update={"funnel": funnel}), notify=lender.lines.append)
    with cached_exposures(StageRun(context, "examples", DateRange(AS_OF, AS_OF)), AS_OF) as exposed:
        labelled = exposed.select("exposure_id", *(f"observed_{stage}" for stage in STAGES)).toPandas()
    actual = labelled.set_index("exposure_id").sort_index()
    calls = _calls(raw)
    for stage, (event, days) in STAGES.items():
        events = raw[raw["event"] == event].sort_values("time")
        credited = pd.merge_asof(
            events[["case_id", "time"]],
            calls[["case_id", "time", "exposure_id"]].assign(called=calls["time"]).sort_values(["time", "exposure_id"]),
            on="time",
            by="case_id",
            allow_exact_matches=False,
        )
        in_window = credited[credited["time"] - credited["called"] <= pd.Timedelta(days=days)]
        expected = calls.set_index("exposure_id")["time"].sort_index()
        mature = expected + pd.Timedelta(days=days) <= END
        counts = pd.Series(expected.index.isin(in_window["exposure_id"]), expected.index).astype(float).where(mature)
        assert np.array_equal(actual[f"observed_{stage}"].astype(float), counts, equal_nan=True)


def test_everyone_registered_and_not_yet_approved_is_scored(lender: Company, raw: pd.DataFrame) -> None:
    scores = _table(lender, "user_scores")
    cases = pd.read_parquet(lender.settings.resolve(lender.settings.source.users.path or ""))
    approved = set(raw[raw["event"] == STAGES["approved"][0]]["case_id"])
    assert set(scores["user_id"]) == set(cases["case_id"]) - approved
    assert scores["user_id"].is_unique
    assert set(scores["ds"]) == {AS_OF}
    p = scores[[f"p_{stage}" for stage in STAGES]].to_numpy()
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p, axis=1) <= 0).all()


def test_the_model_ranks_held_out_calls_better_than_chance(lender: Company) -> None:
    auc = _table(lender, "metrics").query("name == 'held_out_auc'").set_index("stage")["value"]
    assert (auc[list(STAGES)] > 0.6).all()


def _calls(raw: pd.DataFrame) -> pd.DataFrame:
    calls = raw[raw["event"] == EXPOSURE].copy()
    calls["exposure_id"] = calls["case_id"] + "-" + calls["seq"].astype(str)
    return calls


def _any_in_window(raw: pd.DataFrame) -> pd.DataFrame:
    """Per call and stage: 1.0 if any event of the stage follows within its window, NaN while immature."""
    calls = _calls(raw)
    labels = pd.DataFrame(index=pd.Index(calls["exposure_id"]).sort_values())
    for stage, (event, days) in STAGES.items():
        window = pd.Timedelta(days=days)
        pairs = calls.merge(raw[raw["event"] == event], on="case_id", suffixes=("", "_stage"))
        delay = pairs["time_stage"] - pairs["time"]
        reached = pairs[(delay > pd.Timedelta(0)) & (delay <= window)]["exposure_id"]
        mature = calls[calls["time"] + window <= END]["exposure_id"]
        values = pd.Series(labels.index.isin(reached), labels.index).astype(float)
        labels[stage] = values.where(labels.index.isin(mature))
    return labels
