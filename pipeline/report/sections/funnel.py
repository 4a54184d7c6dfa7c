"""The funnel by day: each stage's events per message of the same day, as known by the night."""

from datetime import timedelta

from markupsafe import Markup

from pipeline.charts.scores import draw_rates_by_day
from pipeline.config.funnel import EXPOSURE
from pipeline.dates import DateRange
from pipeline.report.formats import format_percent
from pipeline.report.night import Night
from pipeline.report.parts import Chart, Charts, Section

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
    messages = {day: n for (day, event), n in counted.items() if event == EXPOSURE}
    if not messages:
        return None
    charts = []
    for stage in night.stages:
        rates = [counted.get((day, stage), 0) / messages[day] if day in messages else None for day in days]
        overall = sum(counted.get((day, stage), 0) for day in messages) / sum(messages.values())
        caption = f"{format_percent(overall)} over these days"
        caption += "." if rates[-1] is None else f", {format_percent(rates[-1])} on the last day."
        charts.append(Chart(stage, Markup(draw_rates_by_day(f"rates-{stage}", list(days), rates)), caption))
    return Section(
        "funnel",
        f"The funnel, last {DAYS} days",
        "Each day's events per message sent that day. The later stages of a message may follow on later days.",
        [Charts("Events per message by day", charts)],
    )
