"""The funnel by day: each stage's events per 100 exposures of the same day, as known by the night."""

from datetime import timedelta

from markupsafe import Markup

from pipeline.charts.scores import draw_rates_by_day
from pipeline.config.funnel import EXPOSURE
from pipeline.dates import DateRange
from pipeline.report.night import Night
from pipeline.report.parts import Chart, Charts, Section
from pipeline.text import format_number

DAYS = 30


def build(night: Night) -> Section | None:
    days = DateRange(night.ds - timedelta(days=DAYS - 1), night.ds)
    counted = {
        (day, event): n
        for day, event, n in night.query(
            "SELECT event_date, event, sum(n)::BIGINT FROM activity "
            "WHERE landed_on BETWEEN $first AND $last AND event_date BETWEEN $first AND $last GROUP BY ALL",
            first=days.first,
            last=days.last,
        )
    }
    exposures = {day: n for (day, event), n in counted.items() if event == EXPOSURE}
    if not exposures:
        return None
    # A user may have several events after one exposure: not a percentage, since it may be above 100.
    label = f"per 100 {night.exposures}"
    charts = []
    for stage in night.stages:
        rates = [100 * counted.get((day, stage), 0) / exposures[day] if day in exposures else None for day in days]
        overall = 100 * sum(counted.get((day, stage), 0) for day in exposures) / sum(exposures.values())
        caption = f"{format_number(overall)} {label} over these days"
        caption += "." if rates[-1] is None else f", {format_number(rates[-1])} on the last day."
        svg = draw_rates_by_day(f"rates-{stage}", list(days), rates, label)
        charts.append(Chart(stage, Markup(svg), caption))
    return Section(
        "funnel",
        f"The funnel, last {DAYS} days",
        f"Each day's events {label} of that day. The later stages may follow on later days, and a user may have an "
        "event several times.",
        [Charts(f"Events {label} by day", charts)],
    )
