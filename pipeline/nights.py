"""Runs one night or many: the stages in the order of the nightly DAG."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from pipeline.dates import DateRange
from pipeline.errors import Terminated, describe_error
from pipeline.ingest.activity import build_activity
from pipeline.ingest.ingest import ingest
from pipeline.ingest.turns import take_turn, wait_for_earlier
from pipeline.monitoring.monitor import monitor
from pipeline.report.report import report
from pipeline.runs.context import Context
from pipeline.runs.termination import raise_on_sigterm
from pipeline.scoring.scoring import score


def nightly(context: Context, ds: date, *, model: str | None = None) -> None:
    """Run ingest, activity, score and monitor for one night, then write its report even if a stage failed.

    Raises:
        FunnelError: from the first stage that failed, once the report is written; or from the report itself.
        Terminated: by SIGTERM, once the stopped stage is recorded and the report written.
    """
    night = DateRange(ds, ds)
    with _report_afterwards(context, ds):
        load_history(context, night)
        # Days before it may have landed since, and their tiles may still be on the way.
        wait_for_earlier(context, night)
        score(context, ds, model=model)
        monitor(context, ds)


def load_history(context: Context, dates: DateRange) -> None:
    """Land a range of dates and build its activity tiles: one Spark job and one commit for each of the two stages."""
    with take_turn(context, dates):
        ingest(context, dates)
        build_activity(context, dates)


def backfill(context: Context, dates: DateRange, *, model: str | None = None) -> None:
    """Load a range, then score, monitor and report each date with the champion as of that date.

    Dates before the first champion are loaded but not scored; one line says which.

    Args:
        model: a version that scores every date, instead of the champions.

    Raises:
        FunnelError: from the first stage that failed, once that night's report is written; later dates are not scored.
    """
    load_history(context, dates)
    scored = [ds for ds in dates if model or context.registry.champion(ds)]
    if len(scored) < len(dates):
        until = "" if not scored else f" until {scored[0]}"
        context.notify(f"not scored{until}: no model trained on data up to these dates was promoted")
    for ds in scored:
        with _report_afterwards(context, ds):
            score(context, ds, model=model)
            monitor(context, ds)


@contextmanager
def _report_afterwards(context: Context, ds: date) -> Iterator[None]:
    """Write the night's report once its stages have ended, even if one failed or was stopped."""
    try:
        with raise_on_sigterm():
            yield
    except (Exception, KeyboardInterrupt, Terminated):
        try:
            report(context, ds)
        except Exception as error:
            # The stage's own error is raised, not the report's.
            context.notify(f"no report of {ds}: {describe_error(error)}")
        raise
    report(context, ds)
