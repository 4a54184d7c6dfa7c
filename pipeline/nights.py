"""One night, and many: the stages in the order Airflow runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from pipeline.dates import DateRange
from pipeline.errors import describe_error
from pipeline.ingest.activity import activity
from pipeline.ingest.ingest import ingest
from pipeline.models.registry import Registry
from pipeline.monitoring.monitor import monitor
from pipeline.report.report import report
from pipeline.runs.context import Context
from pipeline.scoring.scoring import score


def nightly(context: Context, ds: date, *, model: str | None = None) -> None:
    """Every stage of one night: ingest, activity, score, monitor; and its report, whether it went well or not.

    Raises:
        FunnelError: the first stage that failed, once the report that tells of it is written; or the report's own.
    """
    night = DateRange(ds, ds)
    with _report_afterwards(context, ds):
        ingest(context, night)
        activity(context, night)
        score(context, ds, model=model)
        monitor(context, ds)


def load_history(context: Context, dates: DateRange) -> None:
    """Land a range of dates and build its tiles, in one job and one commit each."""
    ingest(context, dates)
    activity(context, dates)


def backfill(context: Context, dates: DateRange, *, model: str | None = None) -> None:
    """Load a range, then score, monitor and report each of its dates, by the champion as of that date.

    Dates before the first model are loaded and not scored; one line says which.

    Raises:
        FunnelError: the first stage that failed, once that night has its report; later dates are not scored.
    """
    load_history(context, dates)
    registry = Registry(context.settings)
    scored = [ds for ds in dates if model or registry.champion(ds)]
    if len(scored) < len(dates):
        until = "" if not scored else f" until {scored[0]}"
        context.notify(f"not scored{until}: no model trained on data up to these dates was promoted")
    for ds in scored:
        with _report_afterwards(context, ds):
            score(context, ds, model=model)
            monitor(context, ds)


@contextmanager
def _report_afterwards(context: Context, ds: date) -> Iterator[None]:
    """Write a night's report after its stages, the failed ones too."""
    try:
        yield
    except Exception:
        try:
            report(context, ds)
        except Exception as error:
            # The stage's failure is the news.
            context.notify(f"no report of {ds}: {describe_error(error)}")
        raise
    report(context, ds)
