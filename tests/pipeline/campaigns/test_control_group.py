"""Control groups: their required size, checked against the textbook, and the refusal of one that is too small."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from pipeline.campaigns.targets import make_list
from pipeline.errors import FunnelError
from pipeline.measures.control_group import controls_needed, power, smallest_uplift
from tests.support.campaigns import D, campaign, make_night, read_reasons
from tests.support.commands import Ended
from tests.support.company import Company


def fleiss(targets: float, controls: float, rate: float, uplift: float) -> float:
    """Power of the two-sided test at 5%, from its two standard errors."""
    lower = rate * (1 - uplift)
    pooled = (targets * rate + controls * lower) / (targets + controls)
    under_null = math.sqrt(pooled * (1 - pooled) * (1 / targets + 1 / controls))
    under_uplift = math.sqrt(rate * (1 - rate) / targets + lower * (1 - lower) / controls)
    critical = norm.ppf(0.975) * under_null
    difference = rate - lower
    return float(norm.sf((critical - difference) / under_uplift) + norm.cdf((-critical - difference) / under_uplift))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.001, 0.9), st.floats(0.01, 0.99))
def test_power_agrees_with_the_textbook(targets: int, controls: int, rate: float, uplift: float) -> None:
    assert power(targets, controls, rate, uplift) == pytest.approx(fleiss(targets, controls, rate, uplift), abs=1e-9)


def test_the_smallest_sufficient_control_group_and_uplift() -> None:
    needed = controls_needed(2000, 0.05, 0.5)
    assert needed is not None
    assert fleiss(2000, needed, 0.05, 0.5) >= 0.8 > fleiss(2000, needed - 1, 0.05, 0.5)
    uplift = smallest_uplift(2000, needed, 0.05)
    assert uplift is not None and 0.499 < uplift <= 0.5
    assert controls_needed(50, 0.05, 0.5) is None
    assert smallest_uplift(2000, 0, 0.05) is None


def test_a_control_group_that_is_too_small_is_refused_with_a_share_that_is_enough(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    scores = {f"u{n:04d}": 0.9 + n / 100_000 for n in range(4000)}
    company = make_night(make_company, scores, campaign(control_share=0.02, more="size = 500"))
    options = ("--ds", D, "--campaign", "spring", "-c", company.config)
    refused = funnel("targets", *options).complaint
    share = refused.partition("control_share = ")[2].split()[0]
    needed = controls_needed(500, sum(sorted(scores.values())[-500:]) / 4 / 500, 0.5)
    assert f"it takes {needed} for these 500 targets" in refused
    assert not company.rows("targets") and [row["stage"] for row in company.rows("runs")] == ["monitor"]

    def with_share(value: float) -> Ended:
        text = company.config.read_text(encoding="utf-8")
        old = text[text.index("control_share") :].splitlines()[0]
        company.config.write_text(text.replace(old, f"control_share = {value}"), encoding="utf-8")
        return funnel("targets", *options)

    assert "too small" in with_share(float(share) - 0.01).complaint
    ended = with_share(float(share))
    assert ended.code == 0
    controls = sum(arm == "control" for arm, _ in read_reasons(company).values())
    assert f"the control group of {controls} shows what the messages cause if that is" in ended.out
    without = with_share(0)
    assert without.code == 0 and "no control group" in without.out


def test_a_list_too_short_for_any_control_group(make_company: Callable[..., Company]) -> None:
    company = make_night(make_company, {f"u{n}": 0.5 for n in range(40)}, campaign(control_share=0.2))
    with pytest.raises(FunnelError, match=r"only a longer list.*; control_share = 0 goes without"):
        make_list(company.context(), D, "spring")
