"""The users that a night may score: known to the source, not completed, consent not withdrawn."""

from datetime import date

from pyspark.sql import DataFrame

from pipeline.engines.spark import run_sql
from pipeline.runs.context import Context
from pipeline.warehouse.tables import profile_columns


def select_eligible(context: Context, known_users: DataFrame, ds: date) -> DataFrame:
    """Select the users known by `ds` who have neither completed nor withdrawn consent.

    Returns: `user_id` and the attributes as of `ds`.
    """
    settings = context.settings
    return run_sql(
        context.spark,
        "eligible",
        {"known_users": known_users},
        ds=ds,
        has_users=settings.source.users is not None,
        attributes=list(profile_columns(settings)),
    )
