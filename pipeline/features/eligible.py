"""The users a night may score: known to the source, not yet completed, consent not withdrawn."""

from datetime import date

from pyspark.sql import DataFrame

from pipeline.engines.spark import run_sql
from pipeline.features.known_users import known_users
from pipeline.runs.context import Context
from pipeline.runs.record import StageRun
from pipeline.warehouse.columns import profile_columns


def eligible(context: Context, run: StageRun, ds: date) -> DataFrame:
    """`user_id` of everyone known by `ds`, not completed, consent not withdrawn; with the attributes as of `ds`."""
    settings = context.settings
    return run_sql(
        context.spark,
        "eligible",
        {"known_users": known_users(context, run, ds)},
        ds=ds,
        has_users=settings.source.users is not None,
        attributes=list(profile_columns(settings)),
    )
