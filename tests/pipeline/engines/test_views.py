"""The analysts' views give equal rows on DuckDB, on Spark SQL and by pandas."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pytest

from pipeline.analyst.connection import connect
from pipeline.engines.views import all_views, create_views, with_dependencies
from tests.support.busy_warehouse import LAST, NIGHTS, fill
from tests.support.company import Company
from tests.support.nights import STAGES, publish_scores
from tests.support.places import ROOT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

VIEWS = sorted(path.stem for path in (ROOT / "sql" / "views").glob("*.sql"))
Frames = Callable[[str], pd.DataFrame]


@pytest.fixture(scope="module")
def busy(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    company = Company.make(tmp_path_factory.mktemp("busy"))
    fill(company)
    return company


@pytest.fixture(scope="module")
def duck(busy: Company) -> "Iterator[duckdb.DuckDBPyConnection]":
    with connect(busy.settings) as connection:
        yield connection


@pytest.fixture(scope="module")
def spark(busy: Company) -> "Iterator[SparkSession]":
    spark = busy.context().spark
    create_views(spark, busy.settings)
    yield spark
    for name in (*busy.context().warehouse.tables, *VIEWS):
        spark.catalog.dropTempView(name)


@pytest.fixture
def view(duck: duckdb.DuckDBPyConnection) -> Frames:
    return lambda name: with_plain_dates(duck.sql(f"SELECT * FROM {name}").df())


@pytest.fixture
def table(busy: Company) -> Frames:
    """A table's rows as PyIceberg reads them, without DuckDB."""
    warehouse = busy.context().warehouse
    return lambda name: with_plain_dates(warehouse.arrow(name, first=date.min, last=date.max).to_pandas())


def with_plain_dates(frame: pd.DataFrame) -> pd.DataFrame:
    dates = [name for name in frame if name in ("ds", "previous_ds", "as_of", "send_on") or name.endswith("_date")]
    return frame.assign(**{name: pd.to_datetime(frame[name]).astype("datetime64[ns]") for name in dates})


def same_rows(found: pd.DataFrame, expected: pd.DataFrame, keys: Sequence[str]) -> None:
    """Whatever their order. The expected rows' columns count, and the keys tell rows apart."""
    assert not expected.empty
    ordered = (frame.sort_values(list(keys), ignore_index=True) for frame in (found[[*expected]], expected))
    pd.testing.assert_frame_equal(*ordered, check_dtype=False, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", VIEWS)
def test_both_engines_give_equal_rows(name: str, duck: duckdb.DuckDBPyConnection, spark: "SparkSession") -> None:
    here, there = duck.sql(f"SELECT * FROM {name}"), spark.table(name)
    assert here.columns == there.columns
    rows, others = (sorted(map(comparable, found), key=repr) for found in (here.fetchall(), there.collect()))
    assert rows, "a view without rows tells nothing"
    assert [exact for exact, _ in rows] == [exact for exact, _ in others]
    for (_, floats), (_, their_floats) in zip(rows, others, strict=True):
        assert floats == pytest.approx(their_floats, rel=1e-9)


def comparable(row: Sequence[Any]) -> tuple[list[Any], list[float]]:
    """A row's values that have to be the same, then its floats; times in UTC, as each engine has zones of its own."""
    values = [float(value) if isinstance(value, Decimal) else value for value in row]
    exact = [value.astimezone(UTC) if isinstance(value, datetime) else value for value in values]
    return [value for value in exact if not isinstance(value, float)], [v for v in values if isinstance(v, float)]


def test_every_view_describes_its_rows(busy: Company) -> None:
    for each in all_views(busy.settings).values():
        assert each.about.startswith("One ") and len(each.about) < 120, f"{each.name}: {each.about}"


def test_a_view_comes_after_its_sources(busy: Company) -> None:
    views = all_views(busy.settings)
    assert set(views) == set(VIEWS)
    order = list(with_dependencies(views, views))
    assert len(order) == len(set(order))
    assert all(order.index(read) < order.index(name) for name in views for read in views[name].sources)
    assert list(with_dependencies(["latest_scores"], views)) == ["user_scores", "latest_scores"]


def test_latest_scores(view: Frames, table: Frames) -> None:
    scores = table("user_scores")
    newest = scores[scores["ds"] == scores["ds"].max()]
    assert newest["ds"].iloc[0].date() == LAST
    same_rows(view("latest_scores"), newest.drop(columns=["scored_at", "feature_as_of"]), ["user_id"])


def test_score_history(view: Frames, table: Frames) -> None:
    scores = table("user_scores").sort_values(["user_id", "ds"])
    by_user = scores.groupby("user_id")
    expected = scores.assign(
        previous_ds=by_user["ds"].shift(), **{f"change_{stage}": by_user[f"p_{stage}"].diff() for stage in STAGES}
    )
    kinds = [f"{kind}_{stage}" for kind in ("p", "band", "change") for stage in STAGES]
    assert expected["previous_ds"].isna().any() and expected["change_click"].notna().any()
    same_rows(view("score_history"), expected[["user_id", "ds", "previous_ds", *kinds]], ["user_id", "ds"])


def test_score_movers(view: Frames, table: Frames) -> None:
    scores = table("user_scores").set_index("user_id")
    later, earlier = (scores[scores["ds"] == pd.Timestamp(night)] for night in (NIGHTS[-1], NIGHTS[-2]))
    both = later.join(earlier, rsuffix="_before", how="inner").reset_index()
    assert 0 < len(both) < min(len(later), len(earlier)), "some users are scored on one of the nights alone"
    expected = pd.concat(
        pd.DataFrame(
            {
                "user_id": both["user_id"],
                "stage": stage,
                "ds": both["ds"],
                "p": both[f"p_{stage}"],
                "band": both[f"band_{stage}"],
                "previous_ds": both["ds_before"],
                "previous_p": both[f"p_{stage}_before"],
                "previous_band": both[f"band_{stage}_before"],
                "change": both[f"p_{stage}"] - both[f"p_{stage}_before"],
            }
        )
        for stage in STAGES
    )
    same_rows(view("score_movers"), expected, ["user_id", "stage"])


def test_nobody_moves_on_the_first_night(company: Company) -> None:
    publish_scores(company, LAST, {"ann": 0.1, "bob": 0.2})
    with connect(company.settings) as connection:
        assert connection.sql("FROM score_movers").fetchall() == []
        changes = connection.sql("SELECT user_id, change_click FROM score_history ORDER BY 1").fetchall()
    assert changes == [("ann", None), ("bob", None)]


def test_bands(view: Frames, table: Frames) -> None:
    scores = table("user_scores")
    expected = pd.concat(
        scores.groupby(["ds", f"band_{stage}"])[f"p_{stage}"]
        .agg(users="size", mean_score="mean", min_score="min", max_score="max")
        .reset_index(names=["ds", "band"])
        .assign(stage=stage)
        for stage in STAGES
    )
    same_rows(view("bands"), expected, ["ds", "stage", "band"])


def test_funnel_by_day(view: Frames, table: Frames) -> None:
    activity = table("activity")
    counts = activity.pivot_table(index="event_date", columns="event", values="n", aggfunc="sum", fill_value=0)
    assert (counts["exposure"] == 0).any(), "a day without exposures has no rate"
    rates = counts[list(STAGES)].div(counts["exposure"].where(counts["exposure"] > 0), axis=0).add_prefix("rate_")
    expected = counts.add_prefix("events_").rename(columns={"events_exposure": "exposures"}).join(rates).reset_index()
    same_rows(view("funnel_by_day"), expected.rename_axis(columns=None), ["event_date"])


def test_funnel_by_cohort(view: Frames, table: Frames) -> None:
    examples = table("examples")
    newest = examples[examples["as_of"] == pd.Timestamp(LAST)]
    rows = []
    for day, cohort in newest.groupby("exposure_date"):
        row = {"exposure_date": day, "as_of": pd.Timestamp(LAST), "exposures": len(cohort)}
        for stage in STAGES:
            labels = cohort.loc[cohort[f"mature_{stage}"].astype(bool), f"label_{stage}"]
            row |= {f"mature_{stage}": len(labels), f"outcomes_{stage}": labels.sum(), f"rate_{stage}": labels.mean()}
        rows.append(row)
    expected = pd.DataFrame(rows)
    assert expected["rate_complete"].isna().any() and expected["rate_click"].notna().any()
    same_rows(view("funnel_by_cohort"), expected, ["exposure_date"])


def test_run_history(view: Frames, table: Frames) -> None:
    runs = table("runs").sort_values("started_at")
    by_stage = runs.groupby(["ds", "stage"])
    expected = by_stage.tail(1).merge(by_stage.size().rename("attempts").reset_index(), on=["ds", "stage"])
    expected["warnings"] = expected["warnings"].map(lambda text: len(text.splitlines()))
    assert set(expected["attempts"]) == {1, 2} and set(expected["warnings"]) == {0, 2}
    columns = ["ds", "stage", "status", "run_id", "seconds", "rows_in", "rows_out", "duplicates", "quarantined"]
    columns += ["warnings", "message", "model_version", "attempts"]
    same_rows(view("run_history"), expected[columns], ["ds", "stage"])


def test_list_history(view: Frames, table: Frames) -> None:
    version = ["campaign_id", "ds", "version"]
    targets, exports = table("targets"), table("exports").groupby(version)["exported_at"].agg(["size", "min"])
    rows = []
    for key, listed in targets.groupby(version):
        chosen = listed[listed["arm"] == "target"]
        is_exported = key in exports.index
        size, first = exports.loc[key] if is_exported else (0, pd.NaT)
        rows.append(
            dict(zip(version, key, strict=True))
            | {arm: (listed["arm"] == arm.removesuffix("s")).sum() for arm in ("targets", "controls", "holdouts")}
            | {"suppressed": (listed["arm"] == "suppressed").sum(), "send_on": listed["send_on"].iloc[0]}
            | {"goal": listed["goal"].iloc[0], "expected_value": chosen["expected_value"].sum()}
            | {"sms_cost": chosen["sms_cost"].sum(), "exports": size, "exported_at": first}
            # Of the second of its files: one who has withdrawn, and one who has completed.
            | {"left_out": 2.0 if is_exported else None}
        )
    expected = pd.DataFrame(rows)
    assert set(expected["exports"]) == {0, 2}
    found = view("list_history")
    found["exported_at"] = found["exported_at"].dt.tz_convert("UTC").astype(expected["exported_at"].dtype)
    same_rows(found, expected, version)
