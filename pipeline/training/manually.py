"""`funnel promote`: make a model champion, whatever its verdict."""

from datetime import date

from pipeline.dates import DateRange
from pipeline.runs.context import Context
from pipeline.runs.record import StageWarning, recorded
from pipeline.text import show


def promote_manually(context: Context, version: str, *, reason: str) -> str:
    """Promote a version whatever its verdict, and record it in `runs`: the newest word on whether it is promoted.

    Returns: one line with its new status and its verdict.

    Raises:
        FunnelError: there is no such version.
    """
    registry = context.registry
    found = registry.run(version)
    verdict = found.tags.get("verdict", "never evaluated")
    with recorded(context, "promote", DateRange(found.as_of, found.as_of)) as run:
        run.model_version = version
        model = registry.register(version)
        registry.promote(version, reason=reason)
        if found.tags.get("promoted") != "true":
            why = f": {show(reason)}" if reason else ""
            judged = "against its verdict (see funnel models)" if "verdict" in found.tags else "never evaluated"
            line = f"model {version} was promoted by hand, {judged}{why}"
            run.warnings.append(StageWarning("promoted by hand", line))
    champion = registry.champion(date.max)
    status = (
        "champion" if champion == version else f"promoted for nights from {model.as_of} on; later ones keep {champion}"
    )
    return f"model {version} is {status} (its verdict: {verdict})"
