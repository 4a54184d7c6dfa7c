"""A model that does not fit the configuration is refused in one line; a planned value it does not know is told."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from model import Bundle, Categorical, FeatureSpec, Numeric
from pipeline.errors import FunnelError
from pipeline.scoring.fit import load_fitting, warn_of_unknown_context
from tests.support.company import Company

STAGES = ("click", "register", "complete")
SPEC = FeatureSpec.fit(
    [Numeric("age"), Categorical("context_offer", context=True), Categorical("context_hour", context=True)],
    pa.table({"age": [1.0] * 3, "context_offer": ["cash", "cash", "gift"], "context_hour": ["9", "10", None]}),
)


def a_model(stages: tuple[str, ...] = STAGES) -> Any:
    return SimpleNamespace(spec=SPEC, task_names=stages)


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundle, "load", lambda _: a_model())


def test_a_model_whose_features_are_all_there(company: Company) -> None:
    assert load_fitting(Path("m1"), company.settings).spec is SPEC


@pytest.mark.parametrize(
    ("old", "new", "gone"),
    [('numeric = ["age"]', "", "age"), ('context = ["offer", "hour"]', 'context = ["offer"]', "context_hour")],
)
def test_a_dropped_feature_is_named(make_company: Callable[..., Company], old: str, new: str, gone: str) -> None:
    company = make_company(replace={old: new})
    with pytest.raises(FunnelError, match=f"model m1 needs {gone}, which"):
        load_fitting(Path("m1"), company.settings)


def test_other_stages_are_named(make_company: Callable[..., Company]) -> None:
    company = make_company(replace={'name = "click", ': 'name = "tap", '})
    with pytest.raises(FunnelError, match=r"knows the stages click, register, complete, funnel.stages has tap,"):
        load_fitting(Path("m1"), company.settings)


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
