"""The report's parts on the night itself: its figures, what changed, scores and bands, and the funnel by day."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import numpy as np
from markupsafe import Markup

from pipeline.charts.svg import distribution, means_by_band, rates_by_day
from pipeline.config.features import user_features
from pipeline.config.figures import FIGURES
from pipeline.config.funnel import EXPOSURE
from pipeline.dates import DateRange
from pipeline.report.night import Night
from pipeline.report.parts import (
    Cell,
    Chart,
    Charts,
    Note,
    Part,
    Section,
    Table,
    change,
    figure,
    measured_cell,
    percent,
    points,
)

RATE_DAYS = 30
MOST_MOVED = 6
"""Features that are named as those that moved most."""
WORTH_TELLING = 0.05
"""Standard deviations that a feature's mean must have moved for that."""


def in_figures(night: Night) -> Section | None:
    """What `monitor` measured of the night and its stages, beside the night before."""
    shown = {name: meaning for name, meaning in FIGURES.items() if meaning.per in ("night", "stage")}
    measured = {
        (day, name, stage): (value, past)
        for day, name, stage, value, past in night.query(
            "SELECT ds, name, stage, value, past FROM metrics WHERE ds IN ($ds, $before) "
            "AND name IN (SELECT unnest($names))",
            ds=night.ds,
            before=night.before,
            names=list(shown),
        )
    }
    rows: list[Sequence[Cell | str]] = []
    for name, meaning in shown.items():
        stages = [stage for stage in (None, *night.stages) if (night.ds, name, stage) in measured]
        if stages and stages != [None]:
            rows.append([Cell(meaning.title, meaning.explanation)])
        for stage in stages:
            now, past = measured[night.ds, name, stage]
            earlier, _ = measured.get((night.before, name, stage), (None, None))
            rows.append(
                [
                    Cell(stage) if stage else Cell(meaning.title, meaning.explanation),
                    measured_cell(figure(now, meaning.kind), past),
                    figure(earlier, meaning.kind),
                    change(earlier, now, meaning.kind),
                ]
            )
    if not rows:
        return None
    before = f"{night.before:%d %b}" if night.before else "Before"
    return Section(
        "numbers",
        "The night in numbers",
        "What came in, what went out and how far the scores moved, beside the last night that has scores. "
        "A figure past its threshold is marked.",
        [Table("The night in numbers", ["Figure", f"{night.ds:%d %b}", before, "Change"], rows)],
    )


def what_changed(night: Night) -> Section | None:
    """The model, the users, their scores and bands, features and warnings, against the night before."""
    if not night.scores or not night.before:
        return None
    parts: list[Part] = [
        Note(text, heading=heading)
        for heading, text in (("Model", _model_change(night)), ("Users", _users_change(night)), _news(night))
        if text
    ]
    return Section(
        "changes",
        "What changed since last night",
        f"Against {night.before}, the last night before this one that has scores. Scores are compared for the users "
        "of both nights.",
        [*parts, *_score_changes(night), *_feature_changes(night)],
    )


def _model_change(night: Night) -> str:
    ((earlier,),) = night.query("SELECT any_value(model_version) FROM user_scores WHERE ds = $ds", ds=night.before)
    model = (night.scores or {})["model"]
    if model == earlier:
        return f"The same as the night before, {model}."
    return f"New: {model} took over from {earlier}. Scores may move for that alone."


def _users_change(night: Night) -> str:
    ((both, gained, lost),) = night.query(
        "SELECT count(*) FILTER (t.user_id IS NOT NULL AND b.user_id IS NOT NULL), "
        "count(*) FILTER (b.user_id IS NULL), count(*) FILTER (t.user_id IS NULL) "
        "FROM (SELECT user_id FROM user_scores WHERE ds = $ds) AS t "
        "FULL JOIN (SELECT user_id FROM user_scores WHERE ds = $before) AS b USING (user_id)",
        ds=night.ds,
        before=night.before,
    )
    return f"{both:,} were scored on both nights, {gained:,} are new, {lost:,} are no longer scored."


def _news(night: Night) -> tuple[str, str]:
    fresh = [warned for warned in night.warnings if warned.is_new]
    if not night.warnings:
        return "Warnings", "None tonight."
    return "Warnings", f"{len(night.warnings)} tonight, {len(fresh)} of them of a kind that last night had not."


def _score_changes(night: Night) -> Iterator[Table]:
    moved = ", ".join(
        f"avg(b.p_{stage}), avg(t.p_{stage}), avg(CAST(t.band_{stage} > b.band_{stage} AS INT)), "
        f"avg(CAST(t.band_{stage} < b.band_{stage} AS INT)), "
        f"avg(CAST(abs(t.band_{stage} - b.band_{stage}) >= 3 AS INT))"
        for stage in night.stages
    )
    ((count, *values),) = night.query(
        f"SELECT count(*), {moved} FROM user_scores AS t JOIN user_scores AS b USING (user_id) "
        "WHERE t.ds = $ds AND b.ds = $before",
        ds=night.ds,
        before=night.before,
    )
    if not count:
        return
    rows = []
    for stage, (earlier, now, up, down, far) in zip(night.stages, zip(*[iter(values)] * 5, strict=True), strict=True):
        rows.append([stage, percent(now), points(now - earlier), percent(up), percent(down), percent(far)])
    columns = ["Stage", "Mean score", "Change", "Band up", "Band down", "By 3 or more"]
    yield Table("Scores and bands of the users of both nights", columns, rows)


def _feature_changes(night: Night) -> Iterator[Part]:
    """The numeric features whose mean moved most, in standard deviations of the night before."""
    names = [each.name for each in user_features(night.settings) if each.is_numeric]
    summaries = ", ".join(f'avg("{name}"), stddev_samp("{name}")' for name in names)
    found = {
        day: list(zip(*[iter(values)] * 2, strict=True))
        for day, *values in night.query(
            f"SELECT ds, {summaries} FROM feature_samples WHERE ds IN ($ds, $before) GROUP BY ds",
            ds=night.ds,
            before=night.before,
        )
    }
    if len(found) < 2:
        return
    moves = []
    for name, (now, _), (earlier, deviation) in zip(names, found[night.ds], found[night.before], strict=True):
        if now is not None and earlier is not None and deviation:
            moves.append((abs(now - earlier) / deviation, name, earlier, now))
    telling = [move for move in sorted(moves, reverse=True) if move[0] >= WORTH_TELLING][:MOST_MOVED]
    if not telling:
        yield Note(
            f"No feature's mean moved by more than {WORTH_TELLING} standard deviations.", heading="Biggest movers"
        )
        return
    rows = [[name, f"{now:.4g}", f"{earlier:.4g}", f"{by:.2f} sd"] for by, name, earlier, now in telling]
    yield Table("Biggest movers: features by how far their mean moved", ["Feature", "Mean", "Before", "Moved by"], rows)


def scores_and_bands(night: Night) -> Section | None:
    """How scores spread over users, and the mean of each band."""
    if not night.scores:
        return None
    bands = {
        stage: night.query(
            f"SELECT band_{stage}, count(*), avg(p_{stage}) FROM user_scores WHERE ds = $ds GROUP BY ALL ORDER BY 1",
            ds=night.ds,
        )
        for stage in night.stages
    }
    rows: list[Sequence[Cell | str]] = []
    for stage, of_stage in bands.items():
        rows.append([Cell(stage)])
        rows += [[str(band), f"{users:,}", percent(mean)] for band, users, mean in reversed(of_stage)]
    return Section(
        "scores",
        "Scores and bands",
        "A score is the probability that a user gets to a stage if texted next. Bands cut the night's users into "
        "tenths by score, band 10 the best.",
        [
            Charts("Users by score", [_distribution(night, stage) for stage in night.stages], "How many have which."),
            Charts(
                "Mean score by band",
                [_bands(stage, of_stage) for stage, of_stage in bands.items()],
                "The steeper, the more there is to gain by texting the best bands alone.",
            ),
            Table("Bands", ["Band", "Users", "Mean score"], rows, folded="The bands as a table"),
        ],
    )


def _distribution(night: Night, stage: str) -> Chart:
    scores = night.column(f"p_{stage}", night.ds)
    earlier = night.column(f"p_{stage}", night.before) if night.before else None
    half, top = float(np.median(scores)), float(np.quantile(scores, 0.99))
    caption = f"Half of the users score below {percent(half)}, one in a hundred above {percent(top)}."
    if night.before:
        caption += f" The outline is {night.before:%d %b}."
    return Chart(stage, Markup(distribution(f"scores-{stage}", scores, earlier)), caption)


def _bands(stage: str, bands: Sequence[tuple[int, int, float]]) -> Chart:
    means = {band: mean for band, _, mean in bands}
    overall = sum(users * mean for _, users, mean in bands) / sum(users for _, users, _ in bands)
    best = max(means)
    caption = f"Band {best} averages {percent(means[best])}, all users {percent(overall)} (dashed)."
    return Chart(stage, Markup(means_by_band(f"bands-{stage}", means, overall)), caption)


def funnel_by_day(night: Night) -> Section | None:
    """Each stage's events per message of the same day, as known by the night."""
    days = DateRange(night.ds - timedelta(days=RATE_DAYS - 1), night.ds)
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
        caption = f"{percent(overall)} over these days"
        caption += "." if rates[-1] is None else f", {percent(rates[-1])} on the last one."
        charts.append(Chart(stage, Markup(rates_by_day(f"rates-{stage}", list(days), rates)), caption))
    return Section(
        "funnel",
        f"The funnel, last {RATE_DAYS} days",
        "Events of a day for each message sent that day. A message's later stages may follow on later days.",
        [Charts("Events per message by day", charts)],
    )
