"""The simulator: its files, read independently, agree with its counts, and its truth with its events."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipeline.simulate.behaviour import STAGES, WINDOW_DAYS, Population
from pipeline.simulate.clock import LocalClock
from pipeline.simulate.files import EVENT_SCHEMA, TRUTH_SCHEMA, USER_SCHEMA
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation, Summary

EVENT_OF = dict(zip(STAGES, ("sms_click", "register", "complete_application"), strict=True))
ALL_EVENTS = ["sms_sent", *EVENT_OF.values()]
NOISY = Simulation(
    users=5000,
    days=100,
    late_share=0.05,
    duplicate_share=0.03,
    broken_share=0.02,
    opt_out_share=0.005,
    seed=3,
)


@dataclass
class Company:
    """A simulation read back by pandas: every row of every file, and the clean events among them."""

    simulation: Simulation
    summary: Summary
    out: Path
    events: pd.DataFrame
    users: pd.DataFrame
    truth: pd.DataFrame

    @classmethod
    def simulated(cls, simulation: Simulation, out: Path) -> "Company":
        summary = simulate(simulation, out)
        truth = pd.read_parquet(out / "truth" / "exposures.parquet")
        events = classified(landed(out / "events"), simulation.timezone)
        return cls(simulation, summary, out, events, landed(out / "users"), truth)

    @property
    def clean(self) -> pd.DataFrame:
        return self.events[self.events.fate == "clean"]


def landed(folder: Path) -> pd.DataFrame:
    frames = [
        pd.read_parquet(day / "part-0.parquet").assign(landed_on=date.fromisoformat(day.name))
        for day in sorted(folder.iterdir())
    ]
    return pd.concat(frames, ignore_index=True)


def classified(events: pd.DataFrame, timezone: str) -> pd.DataFrame:
    """Each row's time and fate by the contract alone: broken, or the first of its id, or a duplicate."""
    time = pd.to_datetime(events.ts, format="ISO8601", errors="coerce", utc=True)
    local_date = time.dt.tz_convert(timezone).dt.tz_localize(None).dt.normalize()
    landed_on = pd.to_datetime(events.landed_on)
    conditions = [
        events.uid.isna(),
        ~events.type.isin(ALL_EVENTS),
        time.isna(),
        local_date > landed_on,
        events.id.duplicated(),
    ]
    fates = ["null_user", "unknown_event", "bad_time", "future_time", "duplicate"]
    fate = np.select(conditions, fates, default="clean")
    return events.assign(time=time, lag=(landed_on - local_date).dt.days, fate=fate)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    return Company.simulated(NOISY, tmp_path_factory.mktemp("company") / "out")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """Every event keeps its campaign, so that labels can be recomputed exactly."""
    simulation = Simulation(users=2000, days=60, untracked_share=0.0, seed=11)
    return Company.simulated(simulation, tmp_path_factory.mktemp("tracked") / "out")


def tables(out: Path) -> Iterator[tuple[str, pa.Table]]:
    for file in sorted(out.rglob("*.parquet")):
        yield str(file.relative_to(out)), pq.read_table(file)


def assert_counts_match(found: Company) -> None:
    summary, fates = found.summary, found.events.fate.value_counts()
    assert summary.rows == len(found.events)
    assert summary.clean == len(found.clean)
    assert summary.late == int((found.clean.lag > 0).sum())
    assert summary.duplicates == fates.get("duplicate", 0)
    assert summary.broken == {reason: fates.get(reason, 0) for reason in summary.broken}
    assert summary.events == {name: int((found.clean.type == name).sum()) for name in ALL_EVENTS}
    assert summary.exposures == len(found.truth)
    assert summary.users == found.users.uid.nunique() == found.simulation.users
    assert summary.profiles == len(found.users)
    assert summary.opt_outs == found.users[~found.users.sms_consent].uid.nunique()
    assert summary.rows == summary.clean + summary.duplicates + sum(summary.broken.values())


def assert_near(count: int, trials: int, share: float) -> None:
    """A binomial count, within 4 standard errors."""
    assert abs(count - share * trials) <= 4 * math.sqrt(trials * share * (1 - share)), (count / trials, share)


# What is delivered


def test_the_summary_agrees_with_the_files(company: Company) -> None:
    assert_counts_match(company)
    assert min(company.summary.broken.values()) > 0
    assert company.events[company.events.fate != "duplicate"].id.is_unique


share = st.floats(0, 1)


@given(
    simulation=st.builds(
        Simulation,
        users=st.integers(1, 40),
        days=st.integers(1, 15),
        start=st.dates(date(1990, 1, 1), date(2036, 1, 1)),  # pandas knows no summer time after 2037
        timezone=st.sampled_from(["Asia/Shanghai", "America/New_York", "Australia/Lord_Howe", "UTC"]),
        sms_per_week=st.floats(0.01, 5),
        late_share=share,
        duplicate_share=share,
        broken_share=share,
        opt_out_share=share,
        untracked_share=share,
        seed=st.integers(0, 2**40),
    )
)
@settings(max_examples=12, deadline=None)
def test_counts_match_for_any_company(simulation: Simulation) -> None:
    with TemporaryDirectory() as folder:
        assert_counts_match(Company.simulated(simulation, Path(folder) / "out"))


def test_shares_are_as_requested(company: Company) -> None:
    summary, clean = company.summary, company.clean
    # Rows that would land past the end are missing: only rows that cannot be cut off give unbiased shares.
    last = NOISY.start + timedelta(days=NOISY.days - 1)
    whole = clean[clean.time < pd.Timestamp(last - timedelta(days=6), tz=NOISY.timezone)]
    copies = company.events[(company.events.fate == "duplicate") & company.events.id.isin(whole.id)]
    assert_near((whole.lag > 0).sum(), len(whole), NOISY.late_share)
    assert_near(len(copies), len(whole), NOISY.duplicate_share)
    assert_near(sum(summary.broken.values()), summary.clean, NOISY.broken_share)
    for count in summary.broken.values():
        assert_near(count, sum(summary.broken.values()), 1 / 4)
    assert_near(summary.opt_outs, summary.exposures, NOISY.opt_out_share)
    assert set(whole.lag) == {0, 1, 2, 3, 4, 5}


def test_stage_events_lose_their_campaign_but_exposures_do_not(company: Company) -> None:
    is_exposure = company.clean.type == "sms_sent"
    exposures, caused = company.clean[is_exposure], company.clean[~is_exposure]
    assert_near(caused.campaign.isna().sum(), len(caused), NOISY.untracked_share)
    assert exposures.campaign.notna().all() and exposures.offer.notna().all()
    assert caused.offer.isna().all()


def test_duplicates_repeat_the_row_on_the_same_day_or_up_to_five_later(company: Company) -> None:
    names = EVENT_SCHEMA.names
    copies = company.events[company.events.fate == "duplicate"]
    copies = copies.merge(company.clean, on="id", suffixes=("", "_first"))
    assert len(copies) == company.summary.duplicates
    for name in names[1:]:
        assert copies[name].fillna("").equals(copies[f"{name}_first"].fillna("")), name
    after = (pd.to_datetime(copies.landed_on) - pd.to_datetime(copies.landed_on_first)).dt.days
    assert set(after) == {0, 1, 2, 3, 4, 5}
    assert 0.4 < (after == 0).mean() < 0.6


def test_future_rows_are_30_to_400_days_ahead_of_their_folder(company: Company) -> None:
    ahead = -company.events[company.events.fate == "future_time"].lag
    assert ahead.between(30, 400).all() and ahead.nunique() > 10


def test_every_day_has_its_files_even_without_rows(tmp_path: Path) -> None:
    simulation = Simulation(users=1, days=12, sms_per_week=0.5, start=date(2024, 2, 25), late_share=0.0)
    seen: list[date] = []
    simulate(simulation, tmp_path / "out", on_day=seen.append)
    days = [date(2024, 2, 25) + timedelta(days=day) for day in range(12)]
    assert seen == days
    sizes = []
    for kind, schema in (("events", EVENT_SCHEMA), ("users", USER_SCHEMA)):
        assert sorted(path.name for path in (tmp_path / "out" / kind).iterdir()) == [str(day) for day in days]
        for day in days:
            table = pq.read_table(tmp_path / "out" / kind / str(day) / "part-0.parquet", partitioning=None)
            assert table.schema == schema
            sizes.append(len(table))
    assert 0 in sizes
    assert pq.read_schema(tmp_path / "out" / "truth" / "exposures.parquet") == TRUTH_SCHEMA


def test_times_are_local_with_their_offset_across_a_change_of_clocks(tmp_path: Path) -> None:
    simulation = Simulation(
        users=300, days=14, start=date(2026, 3, 2), timezone="America/New_York", broken_share=0, late_share=0
    )
    found = Company.simulated(simulation, tmp_path / "out")
    assert found.events.ts.str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}-0[45]:00").all()
    winter = found.events.ts.str[:10] < "2026-03-08"
    sent = found.events.type == "sms_sent"
    assert (found.events.ts.str[-6:][winter] == "-05:00").all()
    assert (found.events.ts.str[-6:][~winter & sent] == "-04:00").all()
    assert found.events.ts.str[11:13][sent].astype(int).between(9, 20).all()
    assert (found.clean.lag == 0).all()


ZONES = ["Asia/Shanghai", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe", "Europe/Berlin", "UTC"]


@given(
    zone=st.sampled_from(ZONES),
    seconds=st.lists(st.integers(0, 400 * 86_400_000 - 1), min_size=1, max_size=20),
)
@settings(max_examples=25, deadline=None)
def test_local_clock_agrees_with_zoneinfo(zone: str, seconds: list[int]) -> None:
    start = date(2025, 12, 1)
    clock = LocalClock(zone, start, 400)
    utc = int(datetime(2025, 12, 1, tzinfo=UTC).timestamp() * 1000) + np.array(seconds)
    expected = [datetime.fromtimestamp(ms // 1000, ZoneInfo(zone)) for ms in utc.tolist()]
    exact = [at.replace(microsecond=ms % 1000 * 1000) for at, ms in zip(expected, utc.tolist(), strict=True)]
    assert clock.to_text(utc).to_pylist() == [at.isoformat(timespec="milliseconds") for at in exact]
    assert clock.to_day(utc).tolist() == [(at.date() - start).days for at in exact]
    midnights = clock.midnight(0) + np.arange(400) * 86_400_000
    for hour in (9, 20):
        texts = clock.to_text(clock.to_utc(midnights + hour * 3_600_000)).to_pylist()
        assert {text[11:19] for text in texts} == {f"{hour:02d}:00:00"}


# Who gets texts


def test_no_exposure_after_opt_out_or_completion(company: Company) -> None:
    truth = company.truth
    opted_out = company.users[~company.users.sms_consent].groupby("uid").landed_on.min()
    after = truth[truth.user_id.isin(opted_out.index)]
    assert (after.sent_on <= after.user_id.map(opted_out)).all()
    completed = company.clean[company.clean.type == "complete_application"].groupby("uid").time.min()
    after = truth[truth.user_id.isin(completed.index)]
    assert (after.sent_at <= after.user_id.map(completed)).all()
    # Neither is empty, and others are still being texted afterwards.
    middle = NOISY.start + timedelta(days=NOISY.days // 2)
    assert (opted_out < middle).sum() > 50
    assert (completed < pd.Timestamp(middle, tz="UTC")).sum() > 50
    assert (truth.sent_on > middle).sum() > 10_000


def test_opting_out_is_permanent(company: Company) -> None:
    profiles = company.users.sort_values("landed_on", kind="stable")
    before = profiles.groupby("uid").sms_consent.shift(fill_value=True)
    assert not (profiles.sms_consent & ~before).any()


def test_one_exposure_per_user_and_day_and_per_user_and_campaign(company: Company) -> None:
    truth = company.truth
    assert not truth.duplicated(["user_id", "sent_on"]).any()
    assert not truth.duplicated(["user_id", "campaign_id"]).any()
    iso = pd.to_datetime(truth.sent_on).dt.isocalendar()
    week = iso.year.astype(str) + "-w" + iso.week.astype(str).str.zfill(2)
    assert (truth.campaign_id == week + "-" + truth.offer).all()
    assert (truth.sent_on == truth.sent_at.dt.tz_convert(NOISY.timezone).dt.date).all()


def test_campaigns_of_more_weeks_than_fit_eight_bits(tmp_path: Path) -> None:
    truth = Company.simulated(Simulation(users=100, days=200), tmp_path / "out").truth
    iso = pd.to_datetime(truth.sent_on).dt.isocalendar()
    week = iso.year.astype(str) + "-w" + iso.week.astype(str).str.zfill(2)
    assert (truth.campaign_id == week + "-" + truth.offer).all() and iso.week.max() > 26


@pytest.mark.parametrize("per_week", [0.5, 4.0])
def test_texts_per_week(tmp_path: Path, per_week: float) -> None:
    monday = date(2026, 2, 2)
    simulation = Simulation(users=1500, days=28, start=monday, sms_per_week=per_week, opt_out_share=0)
    found = Company.simulated(simulation, tmp_path / "out")
    first_day = found.users[found.users.landed_on == simulation.start].uid
    unfinished = first_day[~first_day.isin(found.truth[found.truth.y_complete == 1].user_id)]
    texts = found.truth.user_id.isin(unfinished).sum()
    assert texts / len(unfinished) / 4 == pytest.approx(per_week, rel=0.05)


def test_profiles_land_before_the_texts_and_change(company: Company) -> None:
    users, truth = company.users, company.truth
    assert not users.duplicated(["uid", "landed_on"]).any()
    first = users.groupby("uid").landed_on.min()
    assert (truth.sent_on >= truth.user_id.map(first)).all()
    assert (first == NOISY.start).mean() == pytest.approx(0.8, abs=0.03)
    assert (first > NOISY.start + timedelta(days=NOISY.days * 2 // 3)).sum() > 100
    consenting = users[users.sms_consent]
    assert consenting.uid.duplicated().sum() > 100
    assert 0.05 < users.credit_limit.isna().mean() < 0.3
    limits = users.groupby("city_tier").credit_limit.median()
    assert limits.is_monotonic_decreasing and limits.index.is_monotonic_increasing


def test_fewer_texts_and_clicks_at_weekends(company: Company) -> None:
    truth = company.truth
    weekend = pd.to_datetime(truth.sent_on).dt.dayofweek >= 5
    assert weekend.sum() / 2 < 0.75 * (~weekend).sum() / 5
    assert truth.p_click[weekend].mean() < 0.9 * truth.p_click[~weekend].mean()
    assert truth.y_click[weekend].mean() < truth.y_click[~weekend].mean()


# What users do


def test_outcomes_happen_as_often_as_the_truth_says(company: Company) -> None:
    truth = company.truth
    for stage in STAGES:
        _assert_calibrated(truth[f"y_{stage}"], truth[f"p_{stage}"])
    decile = pd.qcut(truth.p_click, 10, labels=False)
    for _, rows in truth.groupby(decile):
        _assert_calibrated(rows.y_click, rows.p_click)


def test_later_stages_are_calibrated_among_those_who_reached_the_stage_before(company: Company) -> None:
    for before, stage in pairwise(STAGES):
        there = company.truth[company.truth[f"y_{before}"] == 1]
        _assert_calibrated(there[f"y_{stage}"], there[f"p_{stage}"] / there[f"p_{before}"])


def _assert_calibrated(outcome: pd.Series, probability: pd.Series) -> None:
    error = math.sqrt((probability * (1 - probability)).sum())
    assert abs(outcome.sum() - probability.sum()) <= 4 * error


def test_base_rates_and_ceiling(company: Company) -> None:
    truth = company.truth
    assert 0.08 < truth.y_click.mean() < 0.105
    assert 0.23 < truth.y_register.sum() / truth.y_click.sum() < 0.32
    assert 0.34 < truth.y_complete.sum() / truth.y_register.sum() < 0.46
    click, register, complete = (roc_auc_score(truth[f"y_{stage}"], truth[f"p_{stage}"]) for stage in STAGES)
    assert 0.73 < click < 0.8 < register < 0.86
    assert register < complete < 0.92


def test_outcomes_and_probabilities_are_nested(company: Company) -> None:
    truth = company.truth
    for before, stage in pairwise(STAGES):
        assert (truth[f"y_{stage}"] <= truth[f"y_{before}"]).all()
        assert (truth[f"p_{stage}"] < truth[f"p_{before}"]).all()
    assert truth.p_complete.gt(0).all() and truth.p_click.lt(1).all()


def test_events_follow_their_exposure_in_order_and_within_the_window(company: Company) -> None:
    truth = company.truth.set_index(["user_id", "campaign_id"])
    caused = company.clean[(company.clean.type != "sms_sent") & company.clean.campaign.notna()]
    assert not caused.duplicated(["uid", "campaign", "type"]).any()
    times = caused.pivot(index=["uid", "campaign"], columns="type", values="time")
    sent = truth.sent_at.reindex(times.index)
    assert sent.notna().all()
    for stage, window in zip(STAGES, WINDOW_DAYS, strict=True):
        delay = (times[EVENT_OF[stage]] - sent).dropna()
        assert len(delay) > 50
        assert delay.gt(pd.Timedelta(0)).all() and delay.le(pd.Timedelta(days=window)).all()
        assert truth[f"y_{stage}"].reindex(delay.index).eq(1).all()
    for before, stage in pairwise(STAGES):
        assert (times[EVENT_OF[stage]] - times[EVENT_OF[before]]).dropna().gt(pd.Timedelta(0)).all()


def test_labels_recomputed_from_delivered_events_agree_with_the_truth(tracked: Company) -> None:
    clean, days = tracked.clean, tracked.simulation.days
    settled = tracked.simulation.start + timedelta(days=days - max(WINDOW_DAYS) - 6)
    truth = tracked.truth[tracked.truth.sent_on <= settled].set_index(["user_id", "campaign_id"])
    sent = clean[clean.type == "sms_sent"].set_index(["uid", "campaign"])
    assert sent.id.reindex(truth.index).equals(truth.event_id)
    for stage, window in zip(STAGES, WINDOW_DAYS, strict=True):
        at = clean[clean.type == EVENT_OF[stage]].set_index(["uid", "campaign"]).time.reindex(truth.index)
        delay = at - sent.time.reindex(truth.index)
        label = delay.gt(pd.Timedelta(0)) & delay.le(pd.Timedelta(days=window))
        assert label.astype("int8").equals(truth[f"y_{stage}"]), stage
        assert label.sum() > 20


def test_outcomes_past_the_last_day_are_true_but_not_delivered(company: Company) -> None:
    truth = company.truth
    delivered = company.clean[company.clean.type == "complete_application"].groupby("uid").size()
    last_week = truth[truth.sent_on > NOISY.start + timedelta(days=NOISY.days - 8)]
    promised = truth[truth.y_complete == 1].groupby("user_id").size()
    assert last_week.y_complete.mean() > 0.5 * truth.y_complete.mean()
    assert (delivered <= promised.reindex(delivered.index)).all()
    assert promised.sum() > delivered.sum()


def test_past_behaviour_is_predictive(company: Company) -> None:
    truth = company.truth
    half = NOISY.start + timedelta(days=NOISY.days // 2)
    past, future = truth[truth.sent_on < half], truth[truth.sent_on >= half]
    for stage in ("click", "register"):
        did = past.groupby("user_id")[f"y_{stage}"].max()
        rate = future.groupby(future.user_id.map(did))[f"y_{stage}"].mean()
        assert rate[1] > 1.5 * rate[0], stage


def test_the_market_drifts(company: Company) -> None:
    """The same users, so that joining, completing and leaving play no part."""
    truth = company.truth
    day = (pd.to_datetime(truth.sent_on) - pd.Timestamp(NOISY.start)).dt.days
    logit = np.log(truth.p_click / (1 - truth.p_click))
    periods = (day < 14, day.between(65, 85))
    early, late = (logit[period].groupby(truth.user_id[period]).mean() for period in periods)
    shift = (late - early).dropna()
    assert shift.mean() == pytest.approx(0.25 * (1 - math.sin(2 * math.pi * 7 / 300)), abs=0.05)


def test_clicks_raise_and_texts_lower_the_next_click() -> None:
    population = Population(50, 30, 1.0, np.random.default_rng(0))
    users = np.arange(50)

    def probability() -> np.ndarray:
        return population.compute_probabilities(users, np.zeros(50, dtype=int), np.full(50, 12), 2, 5)

    population.start_day(5)
    before = probability()
    nobody = np.empty(0, dtype=int)
    clicked = users[:25]
    population.remember(
        texted=nobody, clicked=clicked, clicked_on=np.full(25, 5), completed=nobody, completed_at=nobody
    )
    assert np.array_equal(probability(), before), "a click that has yet to happen is not known"
    population.start_day(6)
    rested = probability()
    assert (rested[0, :25] / before[0, :25]).min() > (rested[0, 25:] / before[0, 25:]).max()
    population.remember(texted=users[25:], clicked=nobody, clicked_on=nobody, completed=nobody, completed_at=nobody)
    tired = probability()
    assert (tired[0, 25:] < rested[0, 25:]).all()
    assert np.array_equal(tired[0, :25], rested[0, :25])


# Reproducibility


SMALL = Simulation(users=200, days=25, late_share=0.1, duplicate_share=0.1, broken_share=0.1)


def test_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    first, again = simulate(SMALL, tmp_path / "first"), simulate(SMALL, tmp_path / "again")
    other = simulate(dataclasses.replace(SMALL, seed=8), tmp_path / "other")
    assert first == again != other
    one, two, three = (dict(tables(tmp_path / name)) for name in ("first", "again", "other"))
    assert one == two
    assert one.keys() == three.keys()
    assert one["truth/exposures.parquet"] != three["truth/exposures.parquet"]
    ids = [set(each["truth/exposures.parquet"]["event_id"].to_pylist()) for each in (one, three)]
    assert len(ids[0]) == first.exposures and not ids[0] & ids[1]


def test_an_untidy_delivery_does_not_change_the_truth(tmp_path: Path) -> None:
    tidy = dataclasses.replace(SMALL, late_share=0, duplicate_share=0, broken_share=0, untracked_share=0)
    simulate(SMALL, tmp_path / "untidy")
    summary = simulate(tidy, tmp_path / "tidy")
    # Ids number all rows, broken ones included, and so depend on them.
    truths = [pd.read_parquet(tmp_path / name / "truth") for name in ("untidy", "tidy")]
    truths = [truth.drop(columns="event_id") for truth in truths]
    assert truths[0].equals(truths[1])
    assert summary.late == summary.duplicates == sum(summary.broken.values()) == 0
    assert summary.events["sms_sent"] == summary.exposures


def test_truth_is_written_day_by_day(company: Company) -> None:
    file = pq.ParquetFile(company.out / "truth" / "exposures.parquet")
    assert file.metadata.num_row_groups == company.truth.sent_on.nunique() == NOISY.days


# Mistakes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("users", 0),
        ("users", 2.5),
        ("days", -1),
        ("days", 10**9),
        ("start", "2026-01-01"),
        ("start", datetime(2026, 1, 1, 9)),
        ("start", date(1900, 1, 1)),
        ("timezone", "Asia/Shangri-La"),
        ("timezone", ""),
        ("sms_per_week", 0.0),
        ("sms_per_week", 8.0),
        ("sms_per_week", math.nan),
        ("late_share", 1.1),
        ("duplicate_share", -0.1),
        ("broken_share", math.nan),
        ("opt_out_share", "much"),
        ("untracked_share", 2),
        ("seed", -1),
    ],
)
def test_a_bad_argument_is_named_with_its_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got ") as raised:
        Simulation(**{name: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)


def test_an_occupied_folder_or_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    occupied, file, empty = tmp_path / "occupied", tmp_path / "file", tmp_path / "empty"
    occupied.mkdir()
    (occupied / "mine.txt").write_text("mine")
    file.write_text("mine")
    empty.mkdir()
    for out in (occupied, file):
        with pytest.raises(ValueError, match=str(out)):
            simulate(SMALL, out)
    assert [path.name for path in occupied.iterdir()] == ["mine.txt"] and file.read_text() == "mine"
    assert simulate(dataclasses.replace(SMALL, days=1), empty).users == SMALL.users
