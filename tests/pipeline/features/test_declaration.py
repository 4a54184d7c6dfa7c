"""Every consumer takes its features from the declaration: none keeps a list of its own."""

import re
from collections.abc import Callable
from dataclasses import replace

import great_expectations.expectations as gxe
import jinja2
import pytest
import sqlglot

from model import Categorical, Numeric
from pipeline.audits.expectations import example_expectations
from pipeline.config import features as declaration
from pipeline.config.features import (
    Aggregate,
    ExposureAttribute,
    Feature,
    UserAttribute,
    aggregates,
    context_names,
    declared_features,
    longest_window,
    user_features,
)
from pipeline.config.settings import Settings
from pipeline.engines.templates import render
from pipeline.errors import ConfigError
from pipeline.features.features import activity_reach, planned_context
from pipeline.monitoring.baseline import comparable_features, steady_features
from pipeline.training.inputs import model_features
from pipeline.warehouse.schema import Column
from pipeline.warehouse.tables import ARROW_TYPES, all_tables, profile_columns
from tests.support.company import Company

EVENTS = ("exposure", "click", "register", "complete")
ODD = Feature("click_n_45d", Aggregate("count", "click", 45), "Clicks.", "int64", "log", 0, warm_up_days=45)
"""A feature that no configuration of the tests makes."""


@pytest.fixture
def settings(company: Company) -> Settings:
    return company.settings


@pytest.fixture
def odd_settings(company: Company, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same configuration where the declaration has one feature more, known to it alone."""
    usual = declaration.behaviour_features
    monkeypatch.setattr(declaration, "behaviour_features", lambda *given: [*usual(*given), ODD])
    return company.settings


def sql_columns(settings: Settings) -> list[str]:
    """What `features.sql` adds to a spine, by its own text."""
    text = render(
        "spark/features",
        aggregates=aggregates(user_features(settings)),
        attributes=list(profile_columns(settings)),
        static=[],
        spine_has_attributes=False,
    )
    return [name for name in sqlglot.parse_one(text, dialect="spark").named_selects if name not in ("user_id", "as_of")]


def columns_in_range(settings: Settings) -> set[str]:
    """The columns that the audit of `examples` wants at 0 or more."""
    found = example_expectations(all_tables(settings)["examples"], settings)
    ranges = [each for each in found if isinstance(each, gxe.ExpectColumnValuesToBeBetween)]
    assert {(each.min_value, each.max_value) for each in ranges} == {(0, None)}
    return {each.column for each in ranges}


def check_consumers(settings: Settings) -> None:
    """Each consumer's features are the declared ones that concern it."""
    declared = declared_features(settings)
    assert len({each.name for each in declared}) == len(declared)
    of_user = [each for each in declared if not isinstance(each.source, ExposureAttribute)]
    assert sql_columns(settings) == [each.name for each in of_user]

    tables = all_tables(settings)
    for name, expected in (
        ("feature_samples", of_user),
        ("examples", declared),
        ("users", [each for each in declared if isinstance(each.source, UserAttribute)]),
        ("known_users", [each for each in declared if isinstance(each.source, UserAttribute)]),
    ):
        names = {each.name for each in declared}
        found = [column for column in tables[name].columns if column.name in names]
        assert found == [Column(each.name, ARROW_TYPES[each.type], each.description) for each in expected], name

    assert columns_in_range(settings) == {each.name for each in declared if each.minimum is not None}
    assert comparable_features(settings, history_days=10_000) == [each.name for each in of_user]
    assert steady_features(settings) == {each.name for each in declared if each.is_steady}

    inputs = model_features(settings)
    assert {each.name for each in inputs} == {each.name for each in declared}
    assert {each.name: each.transform for each in inputs if isinstance(each, Numeric)} == {
        each.name: each.encoding for each in declared if each.is_numeric
    }
    in_context = {each.name for each in declared if isinstance(each.source, ExposureAttribute)}
    assert {each.name for each in inputs if isinstance(each, Categorical) and each.context} == in_context
    assert set(planned_context(settings)) == in_context
    assert activity_reach(settings).days == max(each.window_days for each in aggregates(declared).values())


def test_every_consumer_follows_from_the_declaration(settings: Settings) -> None:
    check_consumers(settings)


def test_a_feature_declared_reaches_every_consumer(odd_settings: Settings) -> None:
    check_consumers(odd_settings)
    assert "click_n_45d" in sql_columns(odd_settings)
    assert "click_n_45d" in columns_in_range(odd_settings)
    assert "click_n_45d" in all_tables(odd_settings)["feature_samples"].schema.names
    assert "click_n_45d" in steady_features(odd_settings)
    assert "click_n_45d" not in comparable_features(odd_settings, history_days=44)
    assert Numeric("click_n_45d", transform="log") in model_features(odd_settings)
    assert longest_window(odd_settings) == 45


def test_the_configuration_refuses_an_attribute_named_as_a_declared_feature(
    odd_settings: Settings, make_company: Callable[..., Company]
) -> None:
    with pytest.raises(ConfigError, match="'click_n_45d'"):
        _ = make_company(replace={'numeric = ["age"]': 'numeric = ["click_n_45d"]'}).settings


def test_columns_and_inputs_keep_their_order_and_types(settings: Settings) -> None:
    """Stored tables and stored models hang on both."""
    behaviour = [
        column for event in EVENTS for column in (*(f"{event}_n_{days}d" for days in (1, 7, 30)), f"{event}_days_since")
    ]
    declared = declared_features(settings)
    assert [each.name for each in declared] == [*behaviour, "city_tier", "age", "context_offer", "context_hour"]
    types = {each.name: each.type for each in declared}
    assert {types[name] for name in behaviour if "_n_" in name} == {"int64"}
    assert {types[name] for name in behaviour if "_n_" not in name} == {"int32"}
    assert (types["city_tier"], types["age"], types["context_hour"]) == ("string", "float64", "string")
    assert model_features(settings) == [
        *(Numeric(name, transform="log") for name in behaviour),
        Numeric("age"),
        Categorical("city_tier"),
        Categorical("context_offer", context=True),
        Categorical("context_hour", context=True),
    ]


def test_counts_over_less_than_a_week_and_recencies_are_not_judged_for_drift(settings: Settings) -> None:
    steady = {f"{event}_n_{days}d" for event in EVENTS for days in (7, 30)}
    assert steady_features(settings) == {*steady, "city_tier", "age"}
    assert set(comparable_features(settings, history_days=7)) == {
        each.name for each in user_features(settings) if not each.name.endswith("_n_30d")
    }


def test_no_attribute_may_take_the_name_of_a_column_that_a_table_has_anyway(
    make_company: Callable[..., Company], settings: Settings
) -> None:
    names = {each.name for each in declared_features(settings)}
    tables = all_tables(settings)
    taken = {
        column
        for name in ("users", "known_users", "examples", "feature_samples")
        for column in tables[name].schema.names
    }
    for name in sorted(taken - names):
        with pytest.raises(ConfigError, match=re.escape(repr(name))):
            _ = make_company(replace={'numeric = ["age"]': f'numeric = ["{name}"]'}).settings


def test_a_context_has_the_column_that_the_sql_gives_it(settings: Settings) -> None:
    text = render(
        "spark/exposures",
        as_of="2026-03-01",
        end_of_as_of=0,
        history_days=7,
        attribution="last_touch",
        by_day=False,
        stages=settings.funnel.stages,
        context=context_names(declared_features(settings)),
        declared_context=settings.source.events.context,
    )
    selected = sqlglot.parse_one(text, dialect="spark").named_selects
    assert {"context_offer", "context_hour"} == {name for name in selected if name.startswith("context_")}


def test_a_function_without_an_expression_is_an_error() -> None:
    unknown = {"click_total": replace(Aggregate("count", "click", 7), function="total")}
    with pytest.raises(jinja2.UndefinedError, match="total"):
        render("spark/features", aggregates=unknown, attributes=[], static=[], spine_has_attributes=True)
