"""A night's figures: against the same worked by hand, once each however often it is run."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FunnelError
from pipeline.monitor import MEANINGS, monitor, psi
from tests.conftest import Company
from tests.pipeline.conftest import Ended
from tests.pipeline.nights_by_hand import publish_scores, record

D1 = date(2026, 3, 1)
D2 = D1 + timedelta(days=1)
MIDNIGHT = datetime(2026, 3, 2, 16, tzinfo=UTC)
"""The end of D2 in Shanghai."""
EARLIER = {f"u{n}": 0.01 * (n + 1) for n in range(20)}
TONIGHT = {f"u{n}": 0.01 * (n + 4) for n in range(5, 30)}


def figures(company: Company, ds: date) -> dict[tuple[str, str | None], float]:
    """A night's figures by name and stage, none of them twice."""
    rows = [row for row in company.rows("metrics") if row["ds"] == ds]
    found = {(row["name"], row["stage"]): row["value"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.fixture
def nights(company: Company) -> Company:
    """Two scored nights and the record of the second."""
    publish_scores(company, D1, EARLIER)
    publish_scores(company, D2, TONIGHT)
    record(company, D2, "ingest", MIDNIGHT, rows_in=200, rows_out=180, duplicates=10, quarantined=10)
    record(company, D2, "score", MIDNIGHT + timedelta(hours=2), seconds=1800.0)
    return company


def test_a_night_s_figures(nights: Company) -> None:
    monitor(nights.context(), D2)
    found = figures(nights, D2)
    assert {name for name, _ in found} == set(MEANINGS)
    assert found["rows_landed", None] == 180
    assert found["quarantined_share", None] == 10 / 200
    assert found["users_scored", None] == 25
    assert found["users_in_common", None] == 15 / 25
    assert found["hours_to_scores", None] == pytest.approx(2.5)
    assert found["mean_score", "click"] == pytest.approx(0.01 * (4 + 17))
    assert found["mean_score", "complete"] == pytest.approx(0.01 * (4 + 17) / 4)
    assert found["score_psi", "register"] == pytest.approx(by_hand(list(EARLIER.values()), list(TONIGHT.values())))


def test_scores_are_fresh_when_they_are_published_not_when_made(nights: Company) -> None:
    record(nights, D2, "publish", MIDNIGHT + timedelta(hours=3), seconds=3600.0)
    record(nights, D2, "publish", MIDNIGHT + timedelta(hours=9), run_id="another, whose scores these are not")
    monitor(nights.context(), D2)
    assert figures(nights, D2)["hours_to_scores", None] == pytest.approx(4)


def test_the_first_night_has_nothing_to_be_compared_with(nights: Company) -> None:
    monitor(nights.context(), D1)
    names = {name for name, _ in figures(nights, D1)}
    assert names == {"users_scored", "mean_score"}


def test_a_night_is_compared_with_the_newest_before_it(nights: Company) -> None:
    publish_scores(nights, D2 + timedelta(days=5), TONIGHT)
    monitor(nights.context(), D2 + timedelta(days=5))
    found = figures(nights, D2 + timedelta(days=5))
    assert found["users_in_common", None] == 1
    assert found["score_psi", "click"] == 0


def test_a_rerun_replaces_its_own_figures_and_no_others(nights: Company) -> None:
    warehouse = nights.context().warehouse
    trained = {"ds": D2, "name": "held_out_auc", "stage": "click", "value": 0.7, "run_id": "training"}
    warehouse.append("metrics", [trained])
    monitor(nights.context(), D1)
    monitor(nights.context(), D2)
    of_d1 = figures(nights, D1)
    publish_scores(nights, D2, {user: p / 2 for user, p in EARLIER.items()})
    monitor(nights.context(run_id="again"), D2)
    found = figures(nights, D2)
    assert found.pop(("held_out_auc", "click")) == 0.7
    assert found["users_scored", None] == 20
    assert "hours_to_scores" in {name for name, _ in found}
    again = [row for row in nights.rows("metrics") if row["run_id"] == "again"]
    assert len(again) == len(found)
    assert figures(nights, D1) == of_d1


def test_nights_monitored_at_once_lose_nothing(company: Company) -> None:
    days = [D1 + timedelta(days=n) for n in range(4)]
    for day in days:
        publish_scores(company, day, EARLIER)
    contexts = [company.context() for _ in days]
    with ThreadPoolExecutor(len(days)) as pool:
        list(pool.map(monitor, contexts, days))
    assert [figures(company, day)["users_scored", None] for day in days] == [20] * len(days)


def test_a_rerun_that_is_rolled_back_leaves_the_figures_before(nights: Company) -> None:
    monitor(nights.context(), D2)
    before = figures(nights, D2)
    publish_scores(nights, D2, EARLIER)
    monitor(nights.context(), D2)
    nights.context().warehouse.rollback("metrics")
    assert figures(nights, D2) == before


def test_no_scores_is_one_line_and_no_record(nights: Company, funnel: Callable[..., Ended]) -> None:
    ended = funnel("monitor", "--ds", "2026-03-09", "-c", nights.config)
    assert ended.complaint == (
        "no scores of 2026-03-09, the newest night is 2026-03-02: run `funnel nightly --ds 2026-03-09` first"
    )
    assert {row["stage"] for row in nights.rows("runs")} == {"ingest", "score"}


def test_no_scores_at_all(company: Company) -> None:
    with pytest.raises(FunnelError, match="no night has any yet"):
        monitor(company.context(), D1)


def by_hand(earlier: list[float], later: list[float]) -> float:
    """PSI by its definition, row by row."""
    edges = sorted({float(np.percentile(earlier, tenth)) for tenth in range(10, 100, 10)})

    def shares(sample: list[float]) -> list[float]:
        counts = [0.5] * (len(edges) + 1)
        for value in sample:
            counts[sum(value > edge for edge in edges)] += 1
        return [count / sum(counts) for count in counts]

    return sum((q - p) * np.log(q / p) for p, q in zip(shares(earlier), shares(later), strict=True))


scores = st.lists(st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.3, 1.0]) | st.floats(0, 1), min_size=1, max_size=60)


@given(scores, scores)
def test_psi_is_its_definition(earlier: list[float], later: list[float]) -> None:
    found = psi(np.array(earlier), np.array(later))
    assert found == pytest.approx(by_hand(earlier, later), abs=1e-9)
    assert found >= 0
    assert psi(np.array(earlier), np.array(earlier)) == 0


def test_psi_tells_a_shift_from_chance() -> None:
    random = np.random.default_rng(0)
    earlier, same, shifted = (random.beta(2, 20, 5_000) for _ in range(3))
    # By chance alone about 9 x 2 / 5,000.
    assert psi(earlier, same) < 0.01
    assert psi(earlier, shifted * 1.5) > 0.25
