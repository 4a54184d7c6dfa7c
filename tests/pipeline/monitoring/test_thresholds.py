"""Thresholds of monitored figures: which side is bad, what the configuration allows, and how a warning reads."""

from collections.abc import Callable

import pytest

from pipeline.config.settings import load
from pipeline.errors import ConfigError
from pipeline.monitoring.thresholds import Measurement, find_breach, resolve_thresholds
from tests.support.company import Company


def breaches(company: Company, *figures: Measurement, severity: str = "warn") -> list[str]:
    """The lines of the figures that warn, or of those that stop."""
    thresholds = resolve_thresholds(company.settings)
    found = (find_breach(figure, thresholds) for figure in figures)
    return [str(breach) for breach in found if breach and breach.severity == severity]


def test_a_warning_names_figure_value_and_bound(company: Company) -> None:
    drifted = Measurement("feature_psi", 0.4123, feature="age", basis="against model m as of 2026-02-01")
    figures = (drifted, Measurement("matured_auc", 0.51234, "click"), Measurement("users_scored_ratio", 0.25))
    assert breaches(company, *figures) == [
        "drift of age: PSI 0.412 > 0.25 (against model m as of 2026-02-01)",
        "ranking of click: AUC 0.512 < 0.55",
        "users scored, relative to the median of the last 7 nights, 0.25 < 1/2",
    ]
    assert breaches(company, *figures, severity="stop") == []


@pytest.mark.parametrize(
    ("name", "harmless", "bad"),
    [
        ("feature_psi", [0.0, 0.25], [0.26]),
        ("score_psi", [0.25], [0.3]),
        ("score_psi_training", [0.25], [0.3]),
        ("feature_missing_change", [0.1, 0.0, -0.1], [0.11, -0.11]),
        ("feature_unseen_share", [0.05], [0.06]),
        ("matured_auc", [0.55, 0.9], [0.54]),
        ("matured_lift", [1.0, 3.0], [0.9]),
        ("matured_calibration_gap", [0.25], [0.3]),
        ("rows_landed_ratio", [0.5, 1.0, 2.0], [0.49, 2.1, 0.0]),
        ("users_scored_ratio", [0.5, 2.0], [0.49, 2.1]),
        ("hours_to_scores", [-1.0, 8.0], [8.1]),
        # Without a default: only the configuration sets a threshold.
        ("quarantined_share", [1.0], []),
        ("users_in_common", [0.0], []),
        ("feature_missing_share", [1.0], []),
        ("matured_calibration_error", [1.0], []),
        ("rows_landed", [0.0], []),
    ],
)
def test_the_default_thresholds(company: Company, name: str, harmless: list[float], bad: list[float]) -> None:
    assert [value for value in harmless if breaches(company, Measurement(name, value, "click"))] == []
    assert [value for value in bad if not breaches(company, Measurement(name, value, "click"))] == []


def test_what_chance_explains_is_not_past_a_threshold(company: Company) -> None:
    for name, value in (("feature_psi", 0.4), ("matured_auc", 0.4), ("users_scored_ratio", 0.4)):
        assert breaches(company, Measurement(name, value, "click"))
        assert not breaches(company, Measurement(name, value, "click", chance=1.0))
        assert not breaches(company, Measurement(name, value, "click", is_checked=False))


def test_configured_thresholds(make_company: Callable[..., Company]) -> None:
    company = make_company(
        "[monitoring.thresholds]\nscore_psi = { warn = 0.1, stop = 0.5 }\nfeature_psi = {}\n"
        "hours_to_scores = { warn = 2 }\nmatured_auc = { warn = 0.7, stop = 0.6 }\nusers_in_common = { stop = 0.5 }\n"
    )
    figures = (
        Measurement("score_psi", 0.2, "click"),
        Measurement("score_psi", 0.6, "complete"),
        Measurement("feature_psi", 9.0, feature="age"),
        Measurement("hours_to_scores", 3.0),
        Measurement("matured_auc", 0.65, "click"),
        Measurement("matured_auc", 0.55, "register"),
        Measurement("users_in_common", 0.4),
        Measurement("matured_lift", 0.5, "click"),
    )
    assert breaches(company, *figures) == [
        "shift of the scores of click: PSI 0.2 > 0.1",
        "hours from the end of the day to its scores 3 > 2",
        "ranking of click: AUC 0.65 < 0.7",
        "lift of the top band of click 0.5 < 1",
    ]
    assert breaches(company, *figures, severity="stop") == [
        "shift of the scores of complete: PSI 0.6 > 0.5",
        "ranking of register: AUC 0.55 < 0.6",
        "share of users also scored the night before 0.4 < 0.5",
    ]


def test_scores_are_late_after_scores_due_hours(make_company: Callable[..., Company]) -> None:
    company = make_company("[operations]\nscores_due_hours = 3\n")
    assert breaches(company, Measurement("hours_to_scores", 4.0))
    assert not breaches(company, Measurement("hours_to_scores", 2.0))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("psi = { warn = 0.2 }", "monitoring.thresholds: 'psi' is not one of the figures rows_landed_ratio, "),
        (
            "score_psi = { warn = 0.5, stop = 0.2 }",
            "monitoring.thresholds.score_psi: stop = 0.2 comes before warn = 0.5; more",
        ),
        (
            "matured_auc = { warn = 0.5, stop = 0.6 }",
            "monitoring.thresholds.matured_auc: stop = 0.6 comes before warn = 0.5; less",
        ),
        ('score_psi = { warn = "high" }', "monitoring.thresholds.score_psi.warn: got 'high', takes a valid number"),
        ("score_psi = { alarm = 1 }", "monitoring.thresholds.score_psi.alarm is not a key of the configuration"),
    ],
)
def test_a_mistake_is_one_line(make_company: Callable[..., Company], text: str, line: str) -> None:
    company = make_company(f"[monitoring.thresholds]\n{text}\n")
    with pytest.raises(ConfigError) as error:
        load(company.config)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
