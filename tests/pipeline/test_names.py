"""What the customer names and what we name never meet, in Spark, DuckDB or Arrow, from the landing to a list."""

import json
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model import ModelConfig, TrainConfig, fit
from pipeline.campaigns.targets import make_list
from pipeline.config.funnel import RESERVED_COLUMNS
from pipeline.config.settings import Settings, load
from pipeline.dates import DateRange
from pipeline.errors import ConfigError
from pipeline.features.examples import build_examples
from pipeline.features.features import compute_features
from pipeline.features.known_users import read_known_users
from pipeline.ingest.activity import build_activity
from pipeline.ingest.ingest import ingest
from pipeline.monitoring.baseline import write_baseline
from pipeline.monitoring.monitor import monitor
from pipeline.runs.record import recorded
from pipeline.scoring.scoring import publish_scores, stage_predictions
from pipeline.training.inputs import model_features
from pipeline.warehouse.tables import all_tables
from tests.support.campaigns import campaign
from tests.support.commands import Ended
from tests.support.company import Company
from tests.support.funnels import sms
from tests.support.nights import publish
from tests.support.nights import publish_scores as put_scores

DAY = date(2026, 3, 2)
BEFORE = DAY - timedelta(days=1)
HOLD_ATTRIBUTES = ("users", "known_users", "examples", "feature_samples")
KEYWORDS = sorted({row[0] for row in duckdb.sql("SELECT keyword_name FROM duckdb_keywords()").fetchall()})

# Names inside our queries, frames and structs, and words of SQL that are values or begin a clause.
CATEGORIES = (
    *("reason", "fate", "raw", "is_dated", "profile", "source", "is_sampled", "sample", "event", "users", "n", "s"),
    *("select", "order", "from", "null", "true", "current_date", "case", "interval", "cross", "campaign_id", "a"),
)
NUMBERS = ("rank", "messages", "expected_value", "p_goal", "model_version", "is_quiet", "double", "count", "bands")
OF_THE_TESTS, STAGES = ("click", "register", "complete"), ("landed_on", "select", "group")
NAMES = {
    'categorical = ["city_tier"]': f"categorical = {json.dumps(CATEGORIES)}",
    'numeric = ["age"]': f"numeric = {json.dumps(NUMBERS)}",
    "windows_days = [1, 7, 30]": "windows_days = [1]",
    'context = { offer = "offer" }': 'context = { campaign = "offer", order = "\'second\'" }',
    'context = ["offer", "hour"]': 'context = ["campaign", "order"]',
    **{f'name = "{old}"': f'name = "{new}"' for old, new in zip(OF_THE_TESTS, STAGES, strict=True)},
}
CAMPAIGN = """
[campaigns.select]
worth = { group = 100, landed_on = 1 }
sms_cost = 0.1
control_share = 0.0
"""


def describe(name: str, number: int) -> str | float:
    return number + 0.5 if name in NUMBERS else f"{name} of {number}"


@pytest.fixture(scope="module")
def company(spark: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A company whose every name is also one of ours or of SQL: landed, taught, scored, monitored, on a list."""
    made = Company.make(tmp_path_factory.mktemp("names"), CAMPAIGN, replace=NAMES)
    users = [
        {"uid": f"u{number}", "sms_consent": True, **{name: describe(name, number) for name in (*CATEGORIES, *NUMBERS)}}
        for number in range(4)
    ]
    for day in (BEFORE, DAY):
        sent = [sms(f"{day}-{user['uid']}", str(user["uid"]), f"{day}T10:00:00+08:00", offer="first") for user in users]
        made.land(day, [*sent, sms(f"{day}-c", "u1", f"{day}T11:00:00+08:00", type="sms_click")])
        made.write("users", day, pa.Table.from_pylist(users if day == BEFORE else users[:1]))
    both = DateRange(BEFORE, DAY)
    ingest(made.context(), both)
    build_activity(made.context(), both)
    build_examples(made.context(), DAY)
    score(made)
    monitor(made.context(), DAY)
    make_list(made.context(), DAY, "select")
    return made


def score(company: Company) -> None:
    context = company.context()
    taught = context.warehouse.arrow("examples", first=DAY, last=DAY)
    labels = {f"label_{stage}": pa.array([1, 0] * len(taught))[: len(taught)] for stage in STAGES}
    table = taught.drop_columns(list(labels))
    for name, values in labels.items():
        table = table.append_column(name, values)
    small, once = ModelConfig(expert_units=(4,), tower_units=(4,), experts=2), TrainConfig(epochs=1, device="cpu")
    bundle = fit(table, features=model_features(company.settings), tasks=STAGES, model=small, training=once)
    folder = company.folder / "model-1"
    bundle.save(folder)
    sample = context.warehouse.arrow("feature_samples", first=DAY, last=DAY)
    write_baseline(context, "model-1", DAY, sample, np.full((len(sample), len(STAGES)), 0.5))
    with recorded(context, "score", DateRange(DAY, DAY)) as run:
        run.model_version = "model-1"
        known = read_known_users(run, None, DAY).selectExpr("*", f"DATE'{DAY}' AS as_of")
        inputs = compute_features(run, known, first=DAY, last=DAY)
        staged = stage_predictions(run, inputs, folder, users=4)
    publish_scores(context, DAY, staged.files)


@pytest.mark.parametrize("table", HOLD_ATTRIBUTES)
def test_every_table_holds_each_user_s_own_values(company: Company, table: str) -> None:
    # Of the day before, nothing was known.
    rows = [row for row in company.rows(table) if row.get("exposure_date", DAY) == DAY]
    assert {row["user_id"] for row in rows} == {f"u{number}" for number in range(4)}
    for row in rows:
        number = int(row["user_id"].removeprefix("u"))
        assert {name: row[name] for name in (*CATEGORIES, *NUMBERS)} == {
            name: describe(name, number) for name in (*CATEGORIES, *NUMBERS)
        }


def test_a_declared_context_may_be_called_like_a_built_in_one(company: Company) -> None:
    rows = company.rows("examples")
    assert {(row["context_campaign"], row["context_order"]) for row in rows} == {("first", "second")}


def test_a_stage_may_be_called_like_a_column_or_a_keyword(company: Company) -> None:
    implied = {row["stage"] for row in company.rows("metrics") if row["name"] == "implied_labels"}
    assert implied == set(STAGES)
    assert {row["arm"] for row in company.rows("targets")} == {"target"}
    assert all(0 < row[f"p_{stage}"] < 1 for row in company.rows("user_scores") for stage in STAGES)


def complain(plain: Settings, changes: Mapping[str, Any]) -> str | None:
    """The configuration's complaint about these names; None: it takes them."""
    content = plain.model_dump(by_alias=True)
    for key, value in changes.items():
        section, name = key.split(".")
        content[section] = content[section] | {name: value}
    try:
        checked = Settings(**content)
    except ValueError as error:
        return str(error)
    for table in all_tables(checked).values():
        assert len({name.lower() for name in table.schema.names}) == len(table.schema), f"{table.name}: {changes}"
    return None


OURS = sorted({name for table in ("users", "examples") for name in (table, f"{table}_id")} | RESERVED_COLUMNS)
NAMES_OF_ANYONE = st.one_of(
    st.sampled_from(KEYWORDS),
    st.sampled_from(OURS),
    st.builds("{}_{}".format, st.sampled_from(["label", "mature", "context"]), st.sampled_from(["click", "n_1d"])),
    st.builds("{}_n_1d".format, st.sampled_from(["click", "label_click", "observed", "context"])),
    st.text(min_size=1, max_size=6),
    st.sampled_from(["Reason", "ärger", "a.b", "a b", "`a`", "_a", "1a", "user_ID"]),
)


@example(attributes=[], stages=["click_n_1d", "label_click"], context=[])
@example(attributes=[], stages=["context_a"], context=["a_n_1d", "a_n_1d"])
@settings(max_examples=50)
@given(
    attributes=st.lists(NAMES_OF_ANYONE, max_size=4, unique=True),
    stages=st.lists(NAMES_OF_ANYONE, min_size=1, max_size=4, unique=True),
    context=st.lists(NAMES_OF_ANYONE, max_size=3, unique=True),
)
def test_names_are_refused_or_make_different_columns(
    plain: Settings, attributes: list[str], stages: list[str], context: list[str]
) -> None:
    complaint = complain(
        plain,
        {
            "features.categorical": attributes,
            "features.numeric": [],
            "features.context": context,
            "source.events": plain.source.events.model_dump(by_alias=True) | {"context": dict.fromkeys(context, "x")},
            "funnel.stages": [{"name": name, "event": name, "window_days": 1} for name in stages],
        },
    )
    if complaint is not None:
        assert any(repr(name) in complaint for name in (*attributes, *stages, *context)) or "two columns" in complaint


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(Company.make(tmp_path_factory.mktemp("plain")).config)


@pytest.mark.parametrize("table", HOLD_ATTRIBUTES)
def test_no_attribute_may_be_called_like_a_column_beside_it(make_company: Callable[..., Company], table: str) -> None:
    plain = make_company()
    own = {"city_tier", "age"}
    for column in set(all_tables(plain.settings)[table].schema.names) - own:
        plain.config.write_text(plain.config.read_text("utf-8").replace('["city_tier"]', f'["{column}"]'), "utf-8")
        with pytest.raises(ConfigError, match=f"'{column}'"):
            load(plain.config)
        plain.config.write_text(plain.config.read_text("utf-8").replace(f'["{column}"]', '["city_tier"]'), "utf-8")


def test_every_word_of_sql_is_an_attribute_to_a_list(
    make_company: Callable[..., Company], funnel: Callable[..., Ended]
) -> None:
    words = [word for word in KEYWORDS if word.isidentifier() and word not in RESERVED_COLUMNS]
    company = make_company(campaign(), replace={'["city_tier"]': json.dumps(words)})
    users = [{"user_id": user, **{word: f"{word} of {user}" for word in words}} for user in ("ann", "bob")]
    publish(company, "users", DAY, users)
    put_scores(company, DAY, {"ann": 0.5, "bob": 0.4})
    make_list(company.context(), DAY, "spring", despite_monitor=True)
    assert [row["arm"] for row in company.rows("targets")] == ["target", "target"]
    query = f'SELECT "{words[0]}" AS first, "{words[-1]}" AS last FROM users WHERE "select" = \'select of bob\''
    ended = funnel("sql", query, "--format", "csv", "-c", company.config)
    assert ended.out.splitlines()[1:] == [f'"{words[0]} of bob","{words[-1]} of bob"']
