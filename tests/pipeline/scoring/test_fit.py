"""A model that does not fit the configuration is refused in one line; a planned value it does not know is told."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from model import Bundle, Categorical, FeatureSpec, Numeric
from pipeline.errors import FunnelError
from pipeline.scoring.fit import load_fitting, warn_of_unknown_context
from tests.support.company import Company

DAY = date(2026, 3, 1)
STAGES = ("click", "register", "complete")
SPEC = FeatureSpec.fit(
    [Numeric("age"), Categorical("context_offer", context=True), Categorical("context_hour", context=True)],
    pa.table({"age": [1.0] * 3, "context_offer": ["cash", "cash", "gift"], "context_hour": ["9", "10", None]}),
)


def a_model(**trained_on: Any) -> Any:
    return SimpleNamespace(spec=SPEC, task_names=STAGES, trained_on=trained_on)


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "load", lambda _: a_model())


def test_a_model_whose_features_are_all_there(company: Company) -> None:
    assert load_fitting(Path("m1"), company.settings, DAY).spec is SPEC


@pytest.mark.parametrize(
    ("old", "new", "gone"),
    [('numeric = ["age"]', "", "age"), ('context = ["offer", "hour"]', 'context = ["offer"]', "context_hour")],
)
def test_a_dropped_feature_is_named(make_company: Callable[..., Company], old: str, new: str, gone: str) -> None:
    company = make_company(replace={old: new})
    with pytest.raises(FunnelError, match=f"model m1 needs {gone}, which"):
        load_fitting(Path("m1"), company.settings, DAY)


LEARNT: dict[str, Any] = {
    "windows_days": {"click": 3, "register": 7, "complete": 14},
    "attribution": "last_touch",
    "timezone": "Asia/Shanghai",
    "features": {
        "age": "the newest value of the attribute",
        "context_offer": "the exposure's offer",
        "context_hour": "the exposure's hour",
    },
}
"""What a model of the tests' funnel keeps of its training."""


def test_a_model_that_learnt_the_same(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "load", lambda _: a_model(**LEARNT))
    assert load_fitting(Path("m1"), company.settings, DAY).trained_on is not None


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"windows_days": {"click": 4}}, "model m1 predicts click within 4 days, funnel.stages has 3: "),
        (
            {"attribution": "any_in_window"},
            "trained with funnel.attribution = 'any_in_window', which is 'last_touch' now",
        ),
        ({"timezone": "UTC"}, "trained with funnel.timezone = 'UTC', which is 'Asia/Shanghai' now"),
        (
            {"features": LEARNT["features"] | {"age": "the first value of the attribute"}},
            "knows age as the first value of the attribute, .features. makes it the newest value of the attribute",
        ),
    ],
)
def test_a_model_that_learnt_something_else(
    company: Company, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr(Bundle, "load", lambda _: a_model(**LEARNT | changed))
    with pytest.raises(FunnelError, match=f"{line}.*funnel train --as-of {DAY}"):
        load_fitting(Path("m1"), company.settings, DAY)


def test_other_stages_are_named(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'name = "click", ': 'name = "tap", '})
    with pytest.raises(FunnelError, match=r"knows the stages click, register, complete, funnel.stages has tap,"):
        load_fitting(Path("m1"), company.settings, DAY)


@pytest.mark.parametrize(
    ("planned", "lines"),
    [
        ('offer = "cash"', []),
        ('offer = "cahs"', ["scoring.context.offer = 'cahs' is a value that model m1 has never seen, is it 'cash'?"]),
        ('offer = "loan", hour = "9"', ["scoring.context.offer = 'loan' is a value that model m1 has never seen; "]),
        ("", []),
    ],
)
def test_a_planned_value_that_the_model_has_not_seen(
    make_company: Callable[..., Company], planned: str, lines: list[str]
) -> None:
    company = make_company(f"[scoring]\ncontext = {{ {planned} }}\n")
    warnings = warn_of_unknown_context(a_model(), "m1", company.settings)
    assert len(warnings) == len(lines)
    for warning, line in zip(warnings, lines, strict=True):
        assert warning.line.startswith(line)
        assert "it knows 'cash', 'gift'" in warning.line
