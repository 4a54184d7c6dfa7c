"""One night, and many: the stages in the order Airflow runs them."""

from datetime import date

from pipeline.activity import activity
from pipeline.context import Context
from pipeline.dates import DateRange
from pipeline.ingest import ingest
from pipeline.registry import Registry
from pipeline.scoring import score


def nightly(context: Context, ds: date, *, model: str | None = None) -> None:
    """Every stage of one night: ingest, activity, score."""
    night = DateRange(ds, ds)
    ingest(context, night)
    activity(context, night)
    score(context, ds, model=model)


def load(context: Context, dates: DateRange) -> None:
    """Land a range of dates and build its tiles, in one job and one commit each."""
    ingest(context, dates)
    activity(context, dates)


def backfill(context: Context, dates: DateRange, *, model: str | None = None) -> None:
    """Load a range, then score each of its dates by the champion as of that date.

    Dates before the first model are loaded and not scored; one line says which.
    """
    load(context, dates)
    registry = Registry(context.settings)
    scored = [ds for ds in dates if model or registry.champion(ds)]
    if len(scored) < len(dates):
        until = "" if not scored else f" until {scored[0]}"
        context.notify(f"not scored{until}: no model was trained on data up to these dates")
    for ds in scored:
        score(context, ds, model=model)
