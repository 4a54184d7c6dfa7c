"""A campaign from the night's scores to what it caused: list, export, sending, outcomes, results, by the commands."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.campaigns.results import measure_campaign
from tests.support.campaigns import D, campaign, make_night
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.nights import publish

USERS = 4_000
BASE, CAUSED = 0.05, 0.06
SEND = D + timedelta(days=1)
SPRING = campaign(sms_cost=0.05, control_share=0.3, more="size = 2000")


@pytest.fixture
def listed(make_company: Callable[..., Company], funnel: Callable[..., Ended]) -> Company:
    """A night of scores, a list that was sent, and a longer one that was not."""
    draw = np.random.default_rng(0)
    scores = {f"u{n:04}": float(p) for n, p in enumerate(draw.uniform(0.2, 0.6, USERS))}
    company = make_night(make_company, scores, SPRING)
    targets = ("targets", "--ds", D, "--campaign", "spring", "-c", company.config)
    assert funnel(*targets, "--export", "csv").code == 0
    assert funnel(*targets, "--size", 2500).code == 0
    return company


def send_and_wait(company: Company, *, caused: float, until: date) -> dict[str, int]:
    """Text the exported users; some complete anyway, some due to the message. Returns completions by arm."""
    draw = np.random.default_rng(1)
    texted = set((company.folder / "targets" / f"spring-{D}-v1.csv").read_text().split()[1:])
    arms = {row["user_id"]: row["arm"] for row in company.rows("targets") if row["version"] == 1}
    assert texted == {user for user, arm in arms.items() if arm == "target"}
    completed = {user for user in sorted(arms) if draw.random() < BASE + caused * (user in texted)}
    events = [
        *({"user_id": user, "event": "exposure", "event_date": SEND, "n": 1} for user in sorted(texted)),
        *(
            {"user_id": user, "event": "complete", "event_date": SEND + timedelta(days=3), "n": 1}
            for user in sorted(completed)
        ),
    ]
    publish(company, "activity", until, events)
    return {arm: sum(arms[user] == arm for user in completed) for arm in ("target", "control")}


@pytest.mark.parametrize("caused", [CAUSED, 0.0])
def test_an_effect_is_found_if_and_only_if_there_is_one(
    listed: Company, funnel: Callable[..., Ended], caused: float
) -> None:
    came = send_and_wait(listed, caused=caused, until=SEND + timedelta(days=14))
    found = measure_campaign(listed.settings, "spring")
    assert (found.version, found.users["target"]) == (1, 2000), "the list that went out is measured, not the newest"
    goal = found.goal_results
    assert goal is not None and goal.overall.uplift is not None and goal.caused is not None
    assert (goal.overall.target.outcomes, goal.overall.control.outcomes) == (came["target"], came["control"])
    assert goal.overall.uplift.difference.low < caused < goal.overall.uplift.difference.high
    assert goal.caused.is_clear == bool(caused)
    assert (found.texted_share("target"), found.texted_share("control")) == (1.0, 0.0)
    assert found.cost == pytest.approx(100.0)
    printed = funnel("results", "--campaign", "spring", "-c", listed.config)
    assert printed.code == 0 and f"{came['target']:,} of 2,000" in printed.out


def test_a_list_of_last_night_says_when_it_will_be_mature(
    listed: Company, funnel: Callable[..., Ended], tmp_path: Path
) -> None:
    send_and_wait(listed, caused=CAUSED, until=SEND + timedelta(days=5))
    plot = tmp_path / "qini.svg"
    ended = funnel("results", "--campaign", "spring", "--plot", plot, "-c", listed.config)
    assert ended.complaint == (
        f"the list of 'spring' for {D} is not mature yet: it matures for register on {SEND + timedelta(days=7)}, "
        f"complete on {SEND + timedelta(days=14)}; --ds {D} shows the mature stages"
    )
    assert not plot.exists()
