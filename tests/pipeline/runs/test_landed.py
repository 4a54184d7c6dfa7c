"""Which days lack the activity of their events, and what survives of a landing's configuration."""

import json
from datetime import UTC, date, datetime, timedelta

from pipeline.dates import DateRange
from pipeline.runs.landed import find_without_activity
from pipeline.runs.landed_with import KEY, check_landed_alike, describe_landing, require_known_stages
from pipeline.runs.record import StageRun
from tests.support.company import Company
from tests.support.nights import publish, publish_activity, record

D1, D2, D3 = (date(2026, 3, 1) + timedelta(days=n) for n in range(3))
DAYS = DateRange(D1, D3)
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


def test_activity_that_was_never_built_or_not_since_its_day_landed_again(company: Company) -> None:
    for day in DAYS:
        publish(company, "events", day, [{"event_id": str(day), "user_id": "ann", "event": "exposure"}])
        record(company, day, "ingest", NOON)
    assert find_without_activity(company.context(), DAYS) == [D1, D2, D3]
    for day in (D1, D2):
        publish_activity(company, day, (1, 0, 0, 0))
        record(company, day, "activity", NOON + timedelta(minutes=1))
    assert find_without_activity(company.context(), DAYS) == [D3]
    # A backfill whose activity failed leaves that of the events before it.
    record(company, D1, "ingest", NOON + timedelta(hours=1))
    record(company, D1, "activity", NOON + timedelta(hours=2), status="failed")
    record(company, D2, "ingest", NOON + timedelta(hours=1), status="failed")
    assert find_without_activity(company.context(), DAYS) == [D1, D3]
    record(company, D1, "activity", NOON + timedelta(hours=3))
    assert find_without_activity(company.context(), DAYS) == [D3]


def test_a_landing_of_a_release_that_kept_less_is_compared_by_what_it_kept(company: Company) -> None:
    events = {ours: theirs for theirs, ours in company.settings.funnel.event_names.items()}
    kept = {"timezone": "Asia/Shanghai", "time_zone": None, "events": events}
    publish(company, "events", D1, [{"event_id": "1", "event": "exposure"}], {KEY: json.dumps(kept)})
    run = StageRun(company.context(), "ingest", DateRange(D2, D2))
    check_landed_alike(run)
    assert run.warnings == []
    require_known_stages(run.context, DAYS)
    assert set(json.loads(describe_landing(run)[KEY])) > set(kept)


def test_what_a_landing_kept_is_handed_on_when_its_snapshot_goes(company: Company) -> None:
    rows = [{"event_id": "1", "user_id": "ann", "event": "exposure"}]
    publish(company, "events", D1, rows, {KEY: '{"timezone": "UTC"}'})
    warehouse = company.context().warehouse
    warehouse.append("events", [{**rows[0], "landed_on": D1}])
    warehouse.compact("events", more_than=1, dry_run=False)
    # As `[retention]` drops a day.
    warehouse.publish("events", (), first=D1, last=D1, summary={})
    publish(company, "events", D2, rows)
    later = datetime.now(UTC) + timedelta(days=30)
    assert warehouse.clean("events", since=later, publishes=1, older_than=later, dry_run=False).snapshots > 2
    assert company.context().warehouse.last_property("events", KEY) == '{"timezone": "UTC"}'
