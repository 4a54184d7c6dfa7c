"""Attributes declared never to change: whether they do."""

from datetime import date

from pipeline.config.features import static_names
from pipeline.engines.spark import run_sql
from pipeline.errors import AuditError
from pipeline.runs.record import StageRun, StageWarning
from pipeline.text import show

MAX_CHANGED_SHARE = 0.01
"""A few corrected values are mistakes; more users than this change what is then not static."""


def check_static_attributes(run: StageRun, as_of: date) -> None:
    """Warn of each attribute in `features.static` of which a user has several values by the date.

    Raises:
        AuditError: more than `MAX_CHANGED_SHARE` of the users with a value have several: the first one given would
            teach what nobody could have known.
    """
    settings = run.context.settings
    static = static_names(settings)
    if not static:
        return
    users = run.read("users", last=as_of)
    (row,) = run_sql(run.context.spark, "static_changes", {"users": users}, static=static).collect()
    for name in static:
        found = row[name]
        if not found.changed:
            continue
        user, low, high = found.example
        line = (
            f"{name} is in features.static, but {found.changed:,} of {found.users:,} users have several values, such "
            f"as {show(user)!r} ({show(low)} and {show(high)})"
        )
        if found.changed > MAX_CHANGED_SHARE * found.users:
            raise AuditError(f"{line}: take it out of features.static; nothing was published")
        run.warnings.append(StageWarning(f"static {name}", f"{line}: the first one given holds"))
