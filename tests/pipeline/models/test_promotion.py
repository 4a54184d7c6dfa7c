"""The promotion rule: figures calculated by hand, properties of random ones, and each refusal with its reason."""

import json
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.config.sections import Promotion
from pipeline.models.promotion import (
    Difference,
    Verdict,
    decide_promotion,
    find_silence,
    is_calibrated,
    log_losses,
    paired_difference,
)

STAGES = ("click", "complete")
DAY0 = np.datetime64("2026-03-01")
ROWS = 4_000


class Held:
    """Held-out exposures of 1,000 users over 10 days, with true probabilities that differ from row to row."""

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.users = np.arange(ROWS) % 1_000
        self.days = DAY0 + (np.arange(ROWS) * 10 // ROWS).astype("timedelta64[D]")
        click = 1 / (1 + np.exp(-draw.normal(-1.5, 1.0, ROWS)))
        self.true = np.column_stack([click, 0.4 * click])
        clicks = draw.random(ROWS) < click
        self.labels = np.column_stack([clicks, clicks & (draw.random(ROWS) < 0.4)]).astype(float)
        self.flat = np.broadcast_to(self.labels.mean(0), self.true.shape)
        """The scores of a model that gives everyone the base rate."""

    def judge(self, mine: np.ndarray, theirs: np.ndarray | None, *, version: str = "old", **options: object) -> Verdict:
        return decide_promotion(
            self.labels,
            mine,
            theirs,
            users=self.users,
            days=self.days,
            stages=STAGES,
            options=Promotion(**options),  # type: ignore[arg-type]
            champion_version=None if theirs is None else version,
        )


@pytest.fixture
def held() -> Held:
    return Held()


class TestStandardError:
    def test_by_hand(self) -> None:
        # Users 1 (0.2 and 0.4) and 2 (0.6): mean 0.4, sums of deviations -0.2 and 0.2,
        # sqrt(2 / 1 * (0.04 + 0.04)) / 3 = 0.4 / 3.
        found = paired_difference(np.array([0.7, 0.4, 0.6]), np.array([0.5, 0.0, 0.0]), np.array([1, 1, 2]))
        assert found.mean == pytest.approx(0.4)
        assert found.standard_error == pytest.approx(0.4 / 3)

    @given(arrays(float, st.integers(2, 40), elements=st.floats(-5, 5)))
    def test_with_a_user_an_exposure_it_is_that_of_a_mean(self, differences: np.ndarray) -> None:
        found = paired_difference(differences, np.zeros_like(differences), np.arange(len(differences)))
        expected = differences.std(ddof=1) / len(differences) ** 0.5
        assert found.standard_error == pytest.approx(expected, abs=1e-9)

    def test_repeated_exposures_of_a_user_add_no_information(self) -> None:
        draw = np.random.default_rng(0)
        users, differences = np.arange(500), draw.normal(size=500)
        once = paired_difference(differences, np.zeros(500), users)
        often = paired_difference(np.tile(differences, 9), np.zeros(4_500), np.tile(users, 9))
        assert often.standard_error == pytest.approx(once.standard_error)
        assert often.mean == pytest.approx(once.mean)

    def test_it_is_the_spread_of_means(self) -> None:
        draw, means, errors = np.random.default_rng(1), [], []
        users = np.repeat(np.arange(200), 5)
        for _ in range(400):
            differences = draw.normal(size=200)[users] + draw.normal(size=1_000)
            found = paired_difference(differences, np.zeros(1_000), users)
            means.append(found.mean)
            errors.append(found.standard_error)
        assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)

    def test_it_is_infinite_for_one_user(self) -> None:
        found = paired_difference(np.array([0.9, 0.8]), np.array([0.1, 0.1]), np.array([7, 7]))
        assert found.mean > 0 and not found.is_worse

    def test_worse_is_beyond_one_sided_95_percent(self) -> None:
        assert not Difference(1.64, 1.0).is_worse
        assert Difference(1.65, 1.0).is_worse
        assert Difference(0.1, 0.0).is_worse
        assert not Difference(0.0, 0.0).is_worse


class TestVerdict:
    def test_better_is_promoted(self, held: Held) -> None:
        verdict = held.judge(held.true, held.flat)
        assert verdict.promoted and verdict.refusals == ()
        named = verdict.stages[1]
        assert named.log_loss == pytest.approx(log_losses(held.labels[:, 1], held.true[:, 1]).mean())
        assert named.difference is not None and named.log_loss is not None and named.champion_log_loss is not None
        assert named.difference.mean == pytest.approx(named.log_loss - named.champion_log_loss)
        assert verdict.line.startswith(
            "promoted: better than champion old on 'complete', no worse on 'click': log loss"
        )
        assert f"{named.log_loss:.5f} against {named.champion_log_loss:.5f}" in verdict.line

    def test_worse_on_a_stage_is_refused_though_better_on_the_named_one(self, held: Held) -> None:
        mixed = np.column_stack([held.flat[:, 0], held.true[:, 1]])
        other = np.column_stack([held.true[:, 0], held.flat[:, 1]])
        verdict = held.judge(mixed, other)
        assert not verdict.promoted
        assert verdict.line.startswith("not promoted: worse on stage 'click': log loss differs by +0.")
        assert verdict.line.endswith("(compared with champion old)")
        assert len(verdict.refusals) == 1

    def test_a_little_worse_by_chance_is_not_worse(self, held: Held) -> None:
        """Of two equally good models, one always has the lower loss; that alone is no reason to refuse."""
        promoted = 0
        for seed in range(40):
            some = Held(seed)
            noise = np.random.default_rng(seed).normal(0, 0.15, (ROWS, 1))
            odds = np.log(some.true / (1 - some.true))
            mine, theirs = (1 / (1 + np.exp(-(odds + sign * noise))) for sign in (1, -1))
            verdict = some.judge(mine, theirs)
            assert verdict.stages[1].difference is not None
            promoted += verdict.promoted
            if verdict.stages[1].difference.mean >= 0:
                assert not verdict.promoted
        assert 10 <= promoted <= 25, "about half are better on the named stage, few of these worse on the other"

    def test_an_equal_one_is_not_better(self, held: Held) -> None:
        line = held.judge(held.true, held.true).line
        assert line.startswith("not promoted: not better on stage 'complete': log loss differs by +0.00000")
        assert "'click'" not in line

    def test_the_named_stage_is_the_configured_one(self, held: Held) -> None:
        mine = np.column_stack([held.true[:, 0], held.flat[:, 1]])
        assert held.judge(mine, held.flat, stage="click").promoted
        assert not held.judge(mine, held.flat).promoted

    def test_the_first_champion_is_compared_with_a_constant(self, held: Held) -> None:
        verdict = held.judge(held.true, None)
        assert verdict.line == "promoted: the first champion, better than a constant on every stage"
        first = verdict.stages[0]
        assert first.difference is first.champion_log_loss is None
        assert first.gain is not None and first.log_loss is not None and first.constant_log_loss is not None
        assert first.gain.mean == pytest.approx(first.log_loss - first.constant_log_loss) and first.gain.is_better
        rate = held.labels[:, 0].mean()
        entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
        assert first.constant_log_loss == pytest.approx(entropy, rel=1e-9)

    def test_a_first_champion_that_has_learned_nothing_is_refused(self, held: Held) -> None:
        learned_one = np.column_stack([held.true[:, 0], held.flat[:, 1]])
        line = held.judge(learned_one, None).line
        assert line.startswith("not promoted: no better than a constant on stage 'complete': log loss differs by ")
        assert "'click'" not in line
        # A champion is in use already: whether it is better than a constant is no longer the question.
        assert held.judge(learned_one, held.flat, stage="click").promoted

    def test_better_than_a_constant_by_chance_is_not_enough(self) -> None:
        """Scores that know nothing, of the right mean: of 40 such models, about one in twenty is let through."""
        let_through = 0
        for seed in range(40):
            some = Held(seed)
            spread = np.exp(np.random.default_rng(seed).normal(0, 0.05, some.true.shape))
            let_through += some.judge(np.clip(some.flat * spread, 0, 1), None).promoted
        assert let_through <= 2

    def test_too_few_positives_even_of_a_first_champion(self, held: Held) -> None:
        held.labels[:, 1] = 0
        held.labels[[5, 50, -1], 1] = 1
        # So sharp that three are enough to see that it is better than a constant.
        mine = np.column_stack([held.true[:, 0], np.where(held.labels[:, 1] > 0, 0.9, 0.3 / ROWS)])
        verdict = held.judge(mine, None)
        assert verdict.line == (
            "not promoted: stage 'complete' has 3 held-out positives among 4,000 exposures, fewer than "
            "promotion.min_positives = 10"
        )
        assert held.judge(mine, None, min_positives=3).promoted

    def test_a_stage_without_a_held_out_label(self, held: Held) -> None:
        held.labels[:, 1] = np.nan
        verdict = held.judge(held.true, held.flat)
        assert "stage 'complete' has 0 held-out positives among 0 exposures" in verdict.line
        assert verdict.stages[1].log_loss is None

    def test_a_stage_gone_quiet(self, held: Held) -> None:
        held.labels[held.days > DAY0 + 6, 1] = 0
        mine = np.where(held.days[:, None] > DAY0 + 6, [[1.0, 0.01]], 1.0) * held.true
        verdict = held.judge(mine, None)
        rate = held.labels[:2_800, 1].mean()
        assert verdict.line == (
            "not promoted: stage 'complete' has gone quiet: no positive among 1,200 exposures after 2026-03-07, "
            f"where {rate * 1_200:.1f} were expected at the rate before"
        )

    def test_a_stage_that_is_not_calibrated(self, held: Held) -> None:
        verdict = held.judge(np.minimum(1.5 * held.true, 0.99), None)
        assert "stage 'click' is not calibrated: " in verdict.line
        expected, came = np.minimum(1.5 * held.true, 0.99)[:, 0].sum(), held.labels[:, 0].sum()
        assert f"{expected:.1f} positives expected, {came:.0f} observed" in verdict.line
        assert held.judge(np.minimum(1.5 * held.true, 0.99), None, max_calibration_gap=0.6).promoted

    def test_every_reason_is_given(self, held: Held) -> None:
        verdict = held.judge(np.minimum(3 * held.true, 0.99), held.true, min_positives=100_000)
        for reason in ("held-out positives", "not calibrated", "worse on stage"):
            assert verdict.line.count(reason) == 2

    @pytest.mark.parametrize("theirs", [None, "flat"])
    def test_it_survives_json(self, held: Held, theirs: str | None) -> None:
        verdict = held.judge(held.true, None if theirs is None else held.flat)
        stored = json.loads(json.dumps(verdict.to_dict()))
        assert Verdict.from_dict(stored) == verdict
        assert (stored["promoted"], stored["line"]) == (verdict.promoted, verdict.line)


class TestCalibration:
    def test_within_a_share_of_those_that_came(self) -> None:
        labels = np.repeat([1.0, 0.0], [1_000, 9_000])
        assert is_calibrated(labels, np.full(10_000, 0.1199), gap=0.2)
        assert not is_calibrated(labels, np.full(10_000, 0.1201), gap=0.2)

    def test_within_chance(self) -> None:
        # sqrt(100 * 0.1 * 0.9) = 3, and 1.96 times that 5.88: 10 expected, 5 came, or 4.
        labels = np.zeros(100)
        labels[:5] = 1
        assert is_calibrated(labels, np.full(100, 0.1), gap=0.01)
        labels[4] = 0
        assert not is_calibrated(labels, np.full(100, 0.1), gap=0.01)


class TestSilence:
    def test_by_hand(self) -> None:
        labels = np.array([1.0, 0, 1, 0, 0, 0, 0, 0])
        days = DAY0 + np.array([0, 0, 1, 1, 2, 2, 3, 3])
        silence = find_silence(labels, days)
        assert silence is not None
        assert (silence.since, silence.exposures) == (date(2026, 3, 2), 4)
        assert silence.expected == 2.0  # two positives among four exposures, and four more
        assert silence.probability == pytest.approx(0.1353, abs=1e-4)

    def test_none_after_a_positive_on_the_last_day_or_without_one(self) -> None:
        days = DAY0 + np.arange(3)
        assert find_silence(np.array([0.0, 0, 1]), days) is None
        assert find_silence(np.zeros(3), days) is None

    def test_a_rare_stage_may_be_silent_by_chance(self, held: Held) -> None:
        held.labels[:, 1] = 0
        held.labels[::400, 1] = 1  # on the first exposure of each day
        held.labels[held.days > DAY0 + 6, 1] = 0
        mine = np.column_stack([held.true[:, 0], np.full(ROWS, 7 / ROWS)])
        assert "quiet" not in held.judge(mine, None).line, "7 in as many days, then none for three: 5% happens"
