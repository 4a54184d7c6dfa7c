"""Who the simulator texts and what they do: its events against its truth."""

import math
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.simulate.behaviour import STAGES, WINDOW_DAYS, Population
from pipeline.simulate.simulation import Simulation
from tests.support.simulated import EVENT_OF, NOISY, Company


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


@pytest.mark.slow
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
