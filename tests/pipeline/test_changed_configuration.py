"""A change of the configuration ends in the night of a company that always had it, or in lines that lead there.

Each change is made to a company with landed days and a champion, and its lines and warnings are read, without Spark.
Of some changes, what the lines name is done, until the night runs.
"""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.features.eligible import select_eligible
from pipeline.features.examples import build_examples
from pipeline.features.features import compute_features
from pipeline.features.known_users import read_known_users
from pipeline.models.registry import Registry
from pipeline.monitoring.monitor import monitor
from pipeline.nights import load_history
from pipeline.runs.landed_with import check_landed_alike, describe_landing
from pipeline.runs.record import StageRun
from pipeline.scoring.fit import load_fitting
from pipeline.scoring.scoring import score
from tests.support.company import Company
from tests.support.examples import teach
from tests.support.funnels import sms
from tests.support.nights import publish

FIRST, NIGHT = date(2026, 3, 26), date(2026, 3, 30)
TRAINED = NIGHT - timedelta(days=1)
TRAINING = "[training]\nepochs = 1\nexpert_units = [4]\nexperts = 2\ntower_units = [4]\nhistory_days = 60\n"
AUDIT = "[audit]\nmax_quarantine_share = 1.0\nmissed_nights = 'warn'\n"
CLICK = '  { name = "click",    event = "sms_click",            window_days = 3 },\n'
REGISTER = '  { name = "register", event = "register",             window_days = 7 },\n'
COMPLETE = '  { name = "complete", event = "complete_application", window_days = 14 },\n'
USERS = '[source.users]\npath = "source/users/{ds}"\ncolumns = { user_id = "uid", consent = "sms_consent" }\n'
ATTRIBUTES = 'categorical = ["city_tier"]\nnumeric = ["age"]\n'
BACKFILL = f"funnel backfill --start {FIRST} --end {NIGHT}"
TRAIN = f"funnel train --as-of {NIGHT}"


@dataclass(frozen=True)
class Change:
    """A change and what comes of it.

    Args:
        pieces: what is replaced in the configuration, by what.
        lands: the line that landing stops with.
        scores: the line that scoring stops with.
        told: the warning of the landing.
    """

    pieces: dict[str, str]
    lands: str = ""
    scores: str = ""
    told: str = ""


CHANGES = {
    "nothing": Change({}),
    "a stage renamed": Change(
        {'name = "click", ': 'name = "tap", '},
        lands=f"no longer has click and now has tap, .*{BACKFILL}",
        scores=f"knows the stages click, .*has tap, .*{TRAIN}",
    ),
    "a stage removed": Change(
        {REGISTER: ""}, lands=f"no longer has register, .*{BACKFILL}", scores=f"has click, complete: .*{TRAIN}"
    ),
    "the last stage removed": Change(
        {COMPLETE: ""}, lands=f"no longer has complete, .*{BACKFILL}", scores=f"has click, register: .*{TRAIN}"
    ),
    "a stage added": Change(
        {COMPLETE: COMPLETE + '  { name = "again", event = "again", window_days = 20 },\n'},
        scores=f"has click, register, complete, again: .*{TRAIN}",
        told=f"again is a new stage: 4 days .*funnel backfill --start {FIRST} --end {TRAINED}",
    ),
    "stages in another order": Change(
        {CLICK: "", REGISTER: REGISTER + CLICK}, scores=f"has register, click, complete: .*{TRAIN}"
    ),
    "the window of a stage": Change(
        {"window_days = 7 ": "window_days = 5 "},
        scores=f"predicts register within 7 days, funnel.stages has 5: .*{TRAIN}",
    ),
    "attribution": Change(
        {"last_touch": "any_in_window"},
        scores=f"was trained with funnel.attribution = 'last_touch', which is 'any_in_window' now: .*{TRAIN}",
    ),
    "the time zone": Change(
        {"Asia/Shanghai": "Europe/London"},
        lands=f"funnel.timezone is 'Europe/London', but days have landed with 'Asia/Shanghai': .*{BACKFILL}",
        scores=f"was trained with funnel.timezone = 'Asia/Shanghai', .*{TRAIN}",
    ),
    "a window of features dropped": Change(
        {"[1, 7, 30]": "[7, 30]"}, scores=f"needs exposure_n_1d, .*, which .features. no longer makes: .*{TRAIN}"
    ),
    "a window of features added": Change({"[1, 7, 30]": "[1, 7, 14, 30]"}),
    "a longer window of features": Change(
        {"[1, 7, 30]": "[1, 7, 30, 60]"},
        scores=f"knows exposure_days_since as days_since of exposure in 30 days, .* in 60 days: .*{TRAIN}",
    ),
    "an attribute dropped": Change(
        {'numeric = ["age"]': ""}, scores=f"needs age, .*{TRAIN}", told="source.users.columns.age is gone"
    ),
    "an attribute added": Change(
        {
            'numeric = ["age"]': 'numeric = ["age", "year"]',
            'consent = "sms_consent"': 'consent = "sms_consent", year = "age + 1"',
        },
        told=f"source.users.columns.year is new; 4 days .* landed as it was before, .*: {BACKFILL}",
    ),
    "an attribute that becomes a category": Change(
        {ATTRIBUTES: 'categorical = ["city_tier", "age"]\n'},
        lands="has age as double, the configuration makes it string: give the attribute of the new type another name",
    ),
    "an attribute that becomes static": Change(
        {ATTRIBUTES: ATTRIBUTES + 'static = ["age"]\n'},
        scores=f"knows age as the newest value of the attribute, .* it the first value .*{TRAIN}",
    ),
    "an attribute mapped in another way": Change(
        {'consent = "sms_consent"': 'consent = "sms_consent", age = "age * 2"'},
        told=f"source.users.columns.age has changed; 4 days .*: {BACKFILL}",
    ),
    "a context dropped": Change({'["offer", "hour"]': '["hour"]'}, scores=f"needs context_offer, .*{TRAIN}"),
    "a context added": Change(
        {'["offer", "hour"]': '["offer", "hour", "tone"]', 'offer = "offer"': 'offer = "offer", tone = "offer"'},
        told=f"source.events.context.tone is new; .*: {BACKFILL}",
    ),
    "a context mapped in another way": Change(
        {'offer = "offer"': 'offer = "upper(offer)"'}, told=f"source.events.context.offer has changed; .*: {BACKFILL}"
    ),
    "another condition on rows": Change(
        {"[source.events]\n": "[source.events]\nwhere = \"uid <> 'eve'\"\n"}, told="source.events.where is new; "
    ),
    "consent dropped": Change({', consent = "sms_consent"': ""}, told="source.users.columns.consent is gone; "),
    "times of profiles added": Change(
        {'consent = "sms_consent"': 'consent = "sms_consent", updated_at = "1"'},
        told="source.users.columns.updated_at is new; ",
    ),
    "users dropped": Change(
        {USERS: "", ATTRIBUTES: ""},
        lands=r"\[source.users\] is gone, .* withdrawals of consent",
        scores=f"needs city_tier, age, .*{TRAIN}",
    ),
}
FOLLOWED = {
    "a stage renamed": (),
    "a stage added": (
        f"4 days from {FIRST} to {TRAINED} landed before funnel.stages had again.*"
        f"funnel backfill --start {FIRST} --end {TRAINED}",
    ),
    "the window of a stage": (),
    "the time zone": (),
    "an attribute added": (),
}
"""Changes whose lines are followed until the night runs, with the lines of the commands themselves."""


def change(company: Company, name: str) -> Change:
    made = CHANGES[name]
    text = company.config.read_text(encoding="utf-8")
    for old, new in made.pieces.items():
        assert old in text
        text = text.replace(old, new)
    company.config.write_text(text, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def kept(warehouse: None, tmp_path_factory: pytest.TempPathFactory) -> Company:
    """A company with four landed days, as a landing leaves them, and a champion."""
    company = Company.make(tmp_path_factory.mktemp("kept"), TRAINING)
    for day in DateRange(FIRST, TRAINED):
        at = datetime(day.year, day.month, day.day, 2, tzinfo=UTC)
        landed = [
            {"event_id": f"{kind}{day}", "user_id": "ann", "event": kind, "event_time": at}
            for kind in ("exposure", "click", "register", "complete")
        ]
        publish(company, "users", day, [{"user_id": "ann", "consent": True, "city_tier": "1", "age": 30.0}])
        properties = describe_landing(StageRun(company.context(), "ingest", DateRange(day, day)))
        publish(company, "events", day, landed, summary=properties)
    teach(company, TRAINED)
    return company


def check(company: Company, name: str) -> None:
    """Make a change, and compare what landing and scoring say of it."""
    text = company.config.read_text(encoding="utf-8")
    try:
        made, run = change(company, name), StageRun(company.context(), "ingest", DateRange(NIGHT, NIGHT))
        with pytest.raises(FunnelError, match=made.lands) if made.lands else nullcontext():
            check_landed_alike(run)
            run.context.warehouse.staging("users")
        told = "\n".join(warning.line for warning in run.warnings)
        assert re.search(made.told, told) if made.told else not told
        registry = run.context.registry
        version = registry.champion(NIGHT)
        assert version is not None
        with pytest.raises(FunnelError, match=made.scores) if made.scores else nullcontext():
            load_fitting(registry.bundle_path(version), company.settings, NIGHT)
    finally:
        company.config.write_text(text, encoding="utf-8")


IS_GONE = [name for name, each in CHANGES.items() if each.lands.startswith("no longer has")]


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in IS_GONE])
def test_what_a_change_says(kept: Company, name: str) -> None:
    check(kept, name)


@pytest.mark.parametrize("name", IS_GONE)
def test_what_a_stage_that_is_gone_says(spark: None, kept: Company, name: str) -> None:
    check(kept, name)


@pytest.fixture
def company(spark: None, make_company: Callable[..., Company]) -> Company:
    """A company with four landed days, a fifth that has been delivered, and a champion."""
    company = make_company(TRAINING + AUDIT)
    for number, day in enumerate(DateRange(FIRST, NIGHT)):
        users = [
            {"uid": uid, "sms_consent": (uid, number) != ("bob", 2), "city_tier": "1", "age": 30.0 + number}
            for uid in (("ann", "bob", "cal", "dan", "eve") if number in (0, 2, 4) else ())
        ]
        texts = [
            # Before eight in Shanghai, it is the day before in London.
            sms(f"{uid}{day}{kind}", uid, f"{day}T0{hour}:00:00+08:00", type=kind, offer="cash")
            for uid, kinds in (
                ("ann", ("sms_sent", "sms_click")),
                ("bob", ("sms_sent",)),
                ("cal", ("sms_sent", "sms_click", "register")),
                ("dan", ("sms_sent", *(["complete_application"] if number == 1 else []))),
                ("eve", ("sms_sent", "again")),
            )
            for hour, kind in enumerate(kinds, 7)
        ]
        company.land(day, texts, users)
    load_history(company.context(), DateRange(FIRST, TRAINED))
    teach(company, TRAINED)
    return company


def train(company: Company) -> None:
    build_examples(company.context(), NIGHT)
    teach(company, NIGHT)


def run_night(company: Company) -> None:
    load_history(company.context(), DateRange(NIGHT, NIGHT))
    score(company.context(), NIGHT)
    monitor(company.context(), NIGHT)


def find_command(company: Company, line: str) -> Callable[[], None] | None:
    """What a line names."""
    if found := re.search(r"funnel backfill --start (\S+) --end ([\d-]+)", line):
        days = DateRange(*map(date.fromisoformat, found.groups()))
        return lambda: load_history(company.context(), days)
    return (lambda: train(company)) if TRAIN in line else None


def follow(company: Company) -> list[str]:
    """Run the night, and before it whatever the lines name that it and these commands end in."""
    lines: list[str] = []
    todo: list[Callable[[], None]] = [lambda: run_night(company)]
    while todo and len(lines) < 6:
        try:
            todo[-1]()
        except FunnelError as error:
            lines.append(str(error))
            command = find_command(company, str(error))
            if command is None:
                return lines
            todo.append(command)
        else:
            todo.pop()
    return lines


def read_features(company: Company) -> list[dict[str, Any]]:
    """What the night knows of everyone whom it may score."""
    run = StageRun(company.context(), "score", DateRange(NIGHT, NIGHT))
    eligible = select_eligible(run.context, read_known_users(run, None, NIGHT), NIGHT).selectExpr(
        "*", f"DATE '{NIGHT}' AS as_of"
    )
    return sorted(
        (row.asDict() for row in compute_features(run, eligible, first=NIGHT, last=NIGHT).collect()), key=repr
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOWED)
def test_where_a_change_ends(company: Company, tmp_path: Path, name: str) -> None:
    company.lines.clear()
    made = change(company, name)
    lines = follow(company)
    expected = [line for line in (made.lands, made.scores) if line] + list(FOLLOWED[name])
    assert len(lines) == len(expected), lines
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line), line
    scored = company.context().warehouse.arrow("user_scores", first=NIGHT, last=NIGHT).to_pylist()
    assert {row["model_version"] for row in scored} == {Registry(company.settings).champion(NIGHT)}
    if not expected:
        # The days before keep what they have, until the command that the warning names.
        command = find_command(company, "\n".join(company.lines))
        assert command is not None
        command()
    (tmp_path / "always").mkdir()
    always = Company(tmp_path / "always", company.config.read_text(encoding="utf-8"))
    (always.folder / "source").symlink_to(company.folder / "source")
    load_history(always.context(), DateRange(FIRST, NIGHT))
    features = read_features(company)
    assert features == read_features(always)
    assert {row["user_id"] for row in scored} == {row["user_id"] for row in features}
