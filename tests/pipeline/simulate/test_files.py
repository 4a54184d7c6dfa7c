"""What the simulator delivers: its files against its own counts, read independently; the same again; mistakes."""

import dataclasses
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.simulate.clock import LocalClock
from pipeline.simulate.files import EVENT_SCHEMA, TRUTH_SCHEMA, USER_SCHEMA
from pipeline.simulate.simulate import simulate
from pipeline.simulate.simulation import Simulation
from tests.support.simulated import ALL_EVENTS, NOISY, Company, assert_near


def tables(out: Path) -> Iterator[tuple[str, pa.Table]]:
    for file in sorted(out.rglob("*.parquet")):
        yield str(file.relative_to(out)), pq.read_table(file)


def assert_counts_match(found: Company) -> None:
    summary, fates = found.summary, found.events.fate.value_counts()
    assert summary.rows == len(found.events)
    assert summary.clean == len(found.clean)
    assert summary.late == int((found.clean.lag > 0).sum())
    assert summary.duplicates == fates.get("duplicate", 0)
    assert summary.broken == {reason: fates.get(reason, 0) for reason in summary.broken}
    assert summary.events == {name: int((found.clean.type == name).sum()) for name in ALL_EVENTS}
    assert summary.exposures == len(found.truth)
    assert summary.users == found.users.uid.nunique() == found.simulation.users
    assert summary.profiles == len(found.users)
    assert summary.opt_outs == found.users[~found.users.sms_consent].uid.nunique()
    assert summary.rows == summary.clean + summary.duplicates + sum(summary.broken.values())


def test_the_summary_agrees_with_the_files(company: Company) -> None:
    assert_counts_match(company)
    assert min(company.summary.broken.values()) > 0
    assert company.events[company.events.fate != "duplicate"].id.is_unique


share = st.floats(0, 1)


@pytest.mark.slow
@given(
    simulation=st.builds(
        Simulation,
        users=st.integers(1, 40),
        days=st.integers(1, 15),
        start=st.dates(date(1990, 1, 1), date(2036, 1, 1)),  # pandas knows no summer time after 2037
        timezone=st.sampled_from(["Asia/Shanghai", "America/New_York", "Australia/Lord_Howe", "UTC"]),
        sms_per_week=st.floats(0.01, 5),
        late_share=share,
        duplicate_share=share,
        broken_share=share,
        opt_out_share=share,
        untracked_share=share,
        seed=st.integers(0, 2**40),
    )
)
@settings(max_examples=12, deadline=None)
def test_counts_match_for_any_company(simulation: Simulation) -> None:
    with TemporaryDirectory() as folder:
        assert_counts_match(Company.simulated(simulation, Path(folder) / "out"))


def test_shares_are_as_requested(company: Company) -> None:
    summary, clean = company.summary, company.clean
    # Rows that would land past the end are missing: only rows that cannot be cut off give unbiased shares.
    last = NOISY.start + timedelta(days=NOISY.days - 1)
    whole = clean[clean.time < pd.Timestamp(last - timedelta(days=6), tz=NOISY.timezone)]
    copies = company.events[(company.events.fate == "duplicate") & company.events.id.isin(whole.id)]
    assert_near((whole.lag > 0).sum(), len(whole), NOISY.late_share)
    assert_near(len(copies), len(whole), NOISY.duplicate_share)
    assert_near(sum(summary.broken.values()), summary.clean, NOISY.broken_share)
    for count in summary.broken.values():
        assert_near(count, sum(summary.broken.values()), 1 / 4)
    assert_near(summary.opt_outs, summary.exposures, NOISY.opt_out_share)
    assert set(whole.lag) == {0, 1, 2, 3, 4, 5}


def test_stage_events_lose_their_campaign_but_exposures_do_not(company: Company) -> None:
    is_exposure = company.clean.type == "sms_sent"
    exposures, caused = company.clean[is_exposure], company.clean[~is_exposure]
    assert_near(caused.campaign.isna().sum(), len(caused), NOISY.untracked_share)
    assert exposures.campaign.notna().all() and exposures.offer.notna().all()
    assert caused.offer.isna().all()


def test_duplicates_repeat_the_row_on_the_same_day_or_up_to_five_later(company: Company) -> None:
    names = EVENT_SCHEMA.names
    copies = company.events[company.events.fate == "duplicate"]
    copies = copies.merge(company.clean, on="id", suffixes=("", "_first"))
    assert len(copies) == company.summary.duplicates
    for name in names[1:]:
        assert copies[name].fillna("").equals(copies[f"{name}_first"].fillna("")), name
    after = (pd.to_datetime(copies.landed_on) - pd.to_datetime(copies.landed_on_first)).dt.days
    assert set(after) == {0, 1, 2, 3, 4, 5}
    assert 0.4 < (after == 0).mean() < 0.6


def test_future_rows_are_30_to_400_days_ahead_of_their_folder(company: Company) -> None:
    ahead = -company.events[company.events.fate == "future_time"].lag
    assert ahead.between(30, 400).all() and ahead.nunique() > 10


def test_every_day_has_its_files_even_without_rows(tmp_path: Path) -> None:
    simulation = Simulation(users=1, days=12, sms_per_week=0.5, start=date(2024, 2, 25), late_share=0.0)
    seen: list[date] = []
    simulate(simulation, tmp_path / "out", on_day=seen.append)
    days = [date(2024, 2, 25) + timedelta(days=day) for day in range(12)]
    assert seen == days
    sizes = []
    for kind, schema in (("events", EVENT_SCHEMA), ("users", USER_SCHEMA)):
        assert sorted(path.name for path in (tmp_path / "out" / kind).iterdir()) == [str(day) for day in days]
        for day in days:
            table = pq.read_table(tmp_path / "out" / kind / str(day) / "part-0.parquet", partitioning=None)
            assert table.schema == schema
            sizes.append(len(table))
    assert 0 in sizes
    assert pq.read_schema(tmp_path / "out" / "truth" / "exposures.parquet") == TRUTH_SCHEMA


def test_times_are_local_with_their_offset_across_a_change_of_clocks(tmp_path: Path) -> None:
    simulation = Simulation(
        users=300, days=14, start=date(2026, 3, 2), timezone="America/New_York", broken_share=0, late_share=0
    )
    found = Company.simulated(simulation, tmp_path / "out")
    assert found.events.ts.str.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}-0[45]:00").all()
    winter = found.events.ts.str[:10] < "2026-03-08"
    sent = found.events.type == "sms_sent"
    assert (found.events.ts.str[-6:][winter] == "-05:00").all()
    assert (found.events.ts.str[-6:][~winter & sent] == "-04:00").all()
    assert found.events.ts.str[11:13][sent].astype(int).between(9, 20).all()
    assert (found.clean.lag == 0).all()


ZONES = ["Asia/Shanghai", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe", "Europe/Berlin", "UTC"]


@given(
    zone=st.sampled_from(ZONES),
    seconds=st.lists(st.integers(0, 400 * 86_400_000 - 1), min_size=1, max_size=20),
)
@settings(max_examples=25, deadline=None)
def test_local_clock_agrees_with_zoneinfo(zone: str, seconds: list[int]) -> None:
    start = date(2025, 12, 1)
    clock = LocalClock(zone, start, 400)
    utc = int(datetime(2025, 12, 1, tzinfo=UTC).timestamp() * 1000) + np.array(seconds)
    expected = [datetime.fromtimestamp(ms // 1000, ZoneInfo(zone)) for ms in utc.tolist()]
    exact = [at.replace(microsecond=ms % 1000 * 1000) for at, ms in zip(expected, utc.tolist(), strict=True)]
    assert clock.to_text(utc).to_pylist() == [at.isoformat(timespec="milliseconds") for at in exact]
    assert clock.to_day(utc).tolist() == [(at.date() - start).days for at in exact]
    midnights = clock.midnight(0) + np.arange(400) * 86_400_000
    for hour in (9, 20):
        texts = clock.to_text(clock.to_utc(midnights + hour * 3_600_000)).to_pylist()
        assert {text[11:19] for text in texts} == {f"{hour:02d}:00:00"}


# Reproducibility


SMALL = Simulation(users=200, days=25, late_share=0.1, duplicate_share=0.1, broken_share=0.1)


def test_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    first, again = simulate(SMALL, tmp_path / "first"), simulate(SMALL, tmp_path / "again")
    other = simulate(dataclasses.replace(SMALL, seed=8), tmp_path / "other")
    assert first == again != other
    one, two, three = (dict(tables(tmp_path / name)) for name in ("first", "again", "other"))
    assert one == two
    assert one.keys() == three.keys()
    assert one["truth/exposures.parquet"] != three["truth/exposures.parquet"]
    ids = [set(each["truth/exposures.parquet"]["event_id"].to_pylist()) for each in (one, three)]
    assert len(ids[0]) == first.exposures and not ids[0] & ids[1]


def test_an_untidy_delivery_does_not_change_the_truth(tmp_path: Path) -> None:
    tidy = dataclasses.replace(SMALL, late_share=0, duplicate_share=0, broken_share=0, untracked_share=0)
    simulate(SMALL, tmp_path / "untidy")
    summary = simulate(tidy, tmp_path / "tidy")
    # Ids number all rows, broken ones included, and so depend on them.
    truths = [pd.read_parquet(tmp_path / name / "truth") for name in ("untidy", "tidy")]
    truths = [truth.drop(columns="event_id") for truth in truths]
    assert truths[0].equals(truths[1])
    assert summary.late == summary.duplicates == sum(summary.broken.values()) == 0
    assert summary.events["sms_sent"] == summary.exposures


def test_truth_is_written_day_by_day(company: Company) -> None:
    file = pq.ParquetFile(company.out / "truth" / "exposures.parquet")
    assert file.metadata.num_row_groups == company.truth.sent_on.nunique() == NOISY.days


# Mistakes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("users", 0),
        ("users", 2.5),
        ("days", -1),
        ("days", 10**9),
        ("start", "2026-01-01"),
        ("start", datetime(2026, 1, 1, 9)),
        ("start", date(1900, 1, 1)),
        ("timezone", "Asia/Shangri-La"),
        ("timezone", ""),
        ("sms_per_week", 0.0),
        ("sms_per_week", 8.0),
        ("sms_per_week", math.nan),
        ("late_share", 1.1),
        ("duplicate_share", -0.1),
        ("broken_share", math.nan),
        ("opt_out_share", "much"),
        ("untracked_share", 2),
        ("seed", -1),
    ],
)
def test_a_bad_argument_is_named_with_its_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got ") as raised:
        Simulation(**{name: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)


def test_an_occupied_folder_or_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    occupied, file, empty = tmp_path / "occupied", tmp_path / "file", tmp_path / "empty"
    occupied.mkdir()
    (occupied / "mine.txt").write_text("mine")
    file.write_text("mine")
    empty.mkdir()
    for out in (occupied, file):
        with pytest.raises(ValueError, match=str(out)):
            simulate(SMALL, out)
    assert [path.name for path in occupied.iterdir()] == ["mine.txt"] and file.read_text() == "mine"
    assert simulate(dataclasses.replace(SMALL, days=1), empty).users == SMALL.users
