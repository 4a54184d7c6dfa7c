"""Missed nights: days that the source has and that never landed, though days before them did."""

from datetime import date, timedelta

from pipeline.dates import DateRange
from pipeline.errors import FunnelError
from pipeline.ingest.delivered import find_delivered, find_delivered_before
from pipeline.ingest.turns import wait_for_earlier
from pipeline.runs.context import Context
from pipeline.runs.landed import describe_days, find_first_landed, find_not_landed
from pipeline.runs.record import StageRun, StageWarning


def find_missed(context: Context, dates: DateRange) -> list[date]:
    """The days before a range, since the first that landed, that the source has and that never landed, in order.

    Raises:
        FunnelError: the source cannot be read, or does not fit its mapping.
    """
    first, yesterday = find_first_landed(context), dates.first - timedelta(days=1)
    if first is None or first > yesterday:
        return []
    absent = find_not_landed(context, DateRange(first, yesterday))
    if not absent:
        return []
    missed = find_delivered(context, absent)
    if missed:
        # Another run may be about to land them.
        wait_for_earlier(context, dates)
        absent = find_not_landed(context, DateRange(missed[0], missed[-1]))
        missed = [day for day in missed if day in absent]
    return missed


def tell_missed(run: StageRun) -> None:
    """Stop a landing that missed nights come before, or warn of them, as `audit.missed_nights` says.

    The first landing warns of the days before it, and one that comes late of the days after it.

    Raises:
        FunnelError: nights were missed; names the command that lands them.
    """
    context, dates = run.context, run.dates
    if find_first_landed(context) is None:
        warnings = _describe_unlanded(context, dates)
        # Looking took a while, in which a run that started at the same time may have announced an earlier day.
        wait_for_earlier(context, dates)
        if find_first_landed(context) is None:
            run.warnings += warnings
            return
    missed = find_missed(context, dates)
    if missed:
        line = (
            f"{describe_days(missed)} never landed, though the source has {'it' if len(missed) == 1 else 'them'}, so "
            "that their events and withdrawals of consent are not known"
        )
        if context.settings.audit.missed_nights != "warn":
            raise FunnelError(
                f"{line}: first run funnel backfill --start {missed[0]} --end {missed[-1]}; with "
                'audit.missed_nights = "land", a night lands them itself'
            )
        run.warnings.append(StageWarning("missed nights", line))
    run.warnings += _describe_later(context, dates)


def _describe_unlanded(context: Context, dates: DateRange) -> list[StageWarning]:
    """A warning, on the first landing, of the days that the source has before it."""
    days = find_delivered_before(context, dates.first)
    if not days:
        return []
    line = (
        f"the first day to land is {dates.first}; the source also has {describe_days(days)}, whose events and "
        f"withdrawals of consent are not known: funnel backfill --start {days[0]} --end {dates.last} lands all of them"
    )
    return [StageWarning("days before the first", line)]


def _describe_later(context: Context, dates: DateRange) -> list[StageWarning]:
    """A warning, if a day lands for the first time, of the days after it that have landed without knowing of it."""
    reach = context.settings.source.events.lookback_days
    if not reach or not find_not_landed(context, dates):
        return []
    after = DateRange(dates.last + timedelta(days=1), dates.last + timedelta(days=reach))
    absent = set(find_not_landed(context, after))
    later = [day for day in after if day not in absent]
    if not later:
        return []
    line = (
        f"{describe_days(later)} landed before {dates}: an event that was delivered again there is counted twice until "
        f"funnel backfill --start {later[0]} --end {later[-1]} lands {'it' if len(later) == 1 else 'them'} again"
    )
    return [StageWarning("landed out of order", line)]
