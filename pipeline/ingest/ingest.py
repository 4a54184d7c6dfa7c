"""Lands the source's rows, mapped, checked and deduplicated, in one job and one commit for any range of dates.

For every landing day, rows in = rows kept + duplicates + quarantined, which is recorded.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta

import pandas as pd
from pyspark.sql import DataFrame

from pipeline.audits.audit import audit
from pipeline.audits.expectations import BASELINE_NIGHTS, event_expectations, history_expectations, night_expectations
from pipeline.audits.findings import Finding
from pipeline.audits.shared_users import audit_shared_users
from pipeline.audits.unreadable import ColumnRead, audit_columns
from pipeline.config.settings import Settings
from pipeline.dates import DateRange
from pipeline.engines.spark import cached, read_as_written, stage
from pipeline.errors import AuditError, TransientError
from pipeline.ingest.activity import build_activity
from pipeline.ingest.busy_users import TOO_MANY
from pipeline.ingest.evidence import UNKNOWN, describe_unknown_events, drop_evidence, keep_evidence
from pipeline.ingest.landing import Landing, land_events, land_users
from pipeline.ingest.missed import find_missed, tell_missed
from pipeline.ingest.shared_users import count_shared_users
from pipeline.ingest.turns import take_turn
from pipeline.measures.volumes import WEEKS, is_unexpectedly_empty, usual_rows
from pipeline.runs.context import Context
from pipeline.runs.landed import join_days
from pipeline.runs.landed_with import check_landed_alike, describe_landing
from pipeline.runs.publish import publish
from pipeline.runs.record import Counts, StageRun, recorded
from pipeline.warehouse.warehouse import Pinned

MIN_RATE_EVENTS = 20
"""Events that a stage needs in the baseline, and exposures in the night, for its rate to be compared."""


def ingest(context: Context, dates: DateRange) -> None:
    """Land the events and users of a range of dates: `events`, `users` and `quarantine` by `landed_on`.

    Days that other runs on this machine are landing are waited for, and missed nights stop it or land first, as
    `audit.missed_nights` says.

    Raises:
        FunnelError: the source is not there or does not fit its mapping, nights before these were missed, or other days
            have landed with other stages or another time zone.
        AuditError: a critical expectation failed; no table changed.
        TransientError: another run has landed an earlier day meanwhile.
    """
    with take_turn(context, dates):
        if context.settings.audit.missed_nights == "land":
            for missed in join_days(find_missed(context, dates)):
                context.notify(f"ingest {dates}: landing {missed} first, which never landed")
                _ingest(context, missed)
                build_activity(context, missed)
        _ingest(context, dates)


def _ingest(context: Context, dates: DateRange) -> None:
    with recorded(context, "ingest", dates) as run:
        check_landed_alike(run)
        tell_missed(run)
        _land(run, _pin_looked_at(run))


def _land(run: StageRun, known: Pinned) -> None:
    context, dates = run.context, run.dates
    with land_events(run) as events, land_users(run) as users:
        landings = [events, users] if users else [events]
        for landing in landings:
            run.warnings += landing.warnings
            for note in landing.notes:
                context.notify(f"ingest {dates}: {note}")
        run.read_by_day = _join_columns(landings)
        run.by_day = _sum_by_day(landings)
        staged: dict[str, Pinned] = {}
        try:
            if users:
                staged["users"] = stage(users.kept, context.warehouse, "users")
            staged["quarantine"] = stage(
                _join_rejected(landings), context.warehouse, "quarantine", sort=("reason", "raw")
            )
            staged["events"] = stage(events.kept, context.warehouse, "events", sort=("user_id", "event_time"))
            _audit(run, staged, landings)
            _require_unchanged(run, known)
        except AuditError:
            keep_evidence(run, _join_rejected(landings))
            raise
        # Events come last: readers who see them find their quarantine and users too.
        for name in staged:
            properties = describe_landing(run) if name == "events" else {}
            run.output_snapshot = publish(run, staged[name], dates, properties)
        drop_evidence(run)


def _pin_looked_at(run: StageRun) -> Pinned:
    """The events that landed before the run's dates, in which it looks for repeats."""
    first, lookback = run.dates.first, run.context.settings.source.events.lookback_days
    days = (first - timedelta(days=lookback), first - timedelta(days=1))
    return run.context.warehouse.pin("events", first=days[0], last=days[1])


def _require_unchanged(run: StageRun, known: Pinned) -> None:
    if _pin_looked_at(run).files != known.files:
        raise TransientError(
            "another run has landed earlier days meanwhile, whose events this one has not looked at: run it again"
        )


def _join_rejected(landings: list[Landing]) -> DataFrame:
    rejected = landings[0].quarantined
    for landing in landings[1:]:
        rejected = rejected.unionByName(landing.quarantined)
    return rejected


def _audit(run: StageRun, staged: Mapping[str, Pinned], landings: Sequence[Landing]) -> None:
    context = run.context
    settings, dates = context.settings, run.dates
    unreadable = [finding for landing in landings for finding in _audit_columns(landing, settings)]
    with cached(read_as_written(context.spark, staged["events"])) as written:
        days = _measure_days(run, written, landings[0])
        limits = (
            night_expectations(settings.funnel.stage_names, settings.audit)
            if len(dates) == 1
            else history_expectations(settings.audit)
        )
        keys = ("landed_on", "duplicates", "reasons")
        run.record_findings([*audit(days, limits, what="the landing days of events", keys=keys), *unreadable])
        if settings.source.users and settings.audit.min_shared_users:
            shared = count_shared_users(run, written, staged.get("users"), settings.audit.min_shared_users)
            run.record_findings([audit_shared_users(shared, min_share=settings.audit.min_shared_users)])
        run.record_findings(
            audit(
                written,
                event_expectations(context.warehouse.tables["events"], settings),
                what="events",
                keys=("event_id", "user_id", "event", "event_time"),
            )
        )


def _audit_columns(landing: Landing, settings: Settings) -> list[Finding]:
    return audit_columns(
        landing.read,
        audited=landing.table,
        faults={reading.name: (reading.fault, reading.effect) for reading in landing.readings},
        max_share=settings.audit.max_unreadable_share,
    )


def _join_columns(landings: Sequence[Landing]) -> dict[date, dict[str, ColumnRead]]:
    """What became of the values of events and users, by landing day and, for example, `users.age`."""
    joined: dict[date, dict[str, ColumnRead]] = defaultdict(dict)
    for landing in landings:
        for day, columns in landing.read.items():
            joined[day] |= {f"{landing.table}.{name}": column for name, column in columns.items()}
    return joined


def _measure_days(run: StageRun, written: DataFrame, landing: Landing) -> pd.DataFrame:
    """One row a landing day: rows and stage rates against the last 7 nights, quarantine share and its reasons."""
    dates = run.dates
    yesterday = dates.first - timedelta(days=1)
    earlier = run.read("events", first=dates.first - timedelta(days=BASELINE_NIGHTS), last=yesterday)
    kinds, names = run.context.settings.funnel.event_kinds, run.context.settings.funnel.event_names
    counted = pd.DataFrame(
        written.select("landed_on", "event")
        .unionByName(earlier.select("landed_on", "event"))
        .groupBy("landed_on", "event")
        .count()
        .toPandas()
    )
    index = pd.Index(DateRange(dates.first - timedelta(days=BASELINE_NIGHTS), dates.last), name="landed_on")
    by_kind = counted.pivot(index="landed_on", columns="event", values="count")
    events = by_kind.reindex(index, columns=list(kinds)).fillna(0).astype(float)
    rows = events.sum(axis=1)
    landed = run.context.warehouse.row_counts("events", first=dates.first - timedelta(weeks=WEEKS), last=yesterday)
    landed |= {day: int(rows[day]) for day in dates}
    baseline = pd.Series([usual_rows(landed, day) for day in index], index=index, dtype=float)
    sums = events.shift(1).rolling(BASELINE_NIGHTS, min_periods=1).sum()
    table = pd.DataFrame({"rows": rows, "rows_to_last_7_nights": (rows / baseline).where(rows > 0)})
    table["is_unexpectedly_empty"] = [is_unexpectedly_empty(landed, day) for day in index]
    for name in kinds[1:]:
        usual = sums[name] / sums[kinds[0]]
        rate = events[name] / events[kinds[0]]
        enough = (sums[name] >= MIN_RATE_EVENTS) & (events[kinds[0]] >= MIN_RATE_EVENTS)
        table[f"{name}_rate_to_last_7_nights"] = (rate / usual).where(enough)
    table = table.loc[dates.first : dates.last].reset_index()
    table["duplicates"] = [landing.counts.get(day, Counts()).duplicates for day in table["landed_on"]]
    table["quarantine_share"] = [_quarantine_share(landing, day) for day in table["landed_on"]]
    table["reasons"] = [
        _reasons(landing.reasons.get(day, {}), landing.unknown_events.get(day, {}), list(names))
        for day in table["landed_on"]
    ]
    return table


def _quarantine_share(landing: Landing, day: date) -> float:
    """The share of a day's rows that cannot be used, of those that the configuration does not leave out."""
    counts = landing.counts.get(day, Counts())
    left_out = landing.reasons.get(day, {}).get(TOO_MANY, 0)
    rows = counts.rows_in - left_out
    return (counts.quarantined - left_out) / rows if rows else 0.0


def _reasons(reasons: dict[str, int], unknown_events: dict[str, int], known: list[str]) -> str:
    details = {UNKNOWN: f" ({describe_unknown_events(unknown_events, known)})"} if unknown_events else {}
    return ", ".join(f"{reason}: {number}{details.get(reason, '')}" for reason, number in sorted(reasons.items()))


def _sum_by_day(landings: list[Landing]) -> dict[date, Counts]:
    """Add up events and users by landing day: the record accounts for every row read."""
    sums: dict[date, Counts] = defaultdict(Counts)
    for landing in landings:
        for day, counts in landing.counts.items():
            sums[day] += counts
    return sums
