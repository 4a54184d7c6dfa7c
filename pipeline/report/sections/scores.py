"""Scores and bands: how the night's scores spread over users, and the mean of each band."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from pipeline.charts.scores import draw_distribution, draw_means_by_band
from pipeline.report.formats import format_percent
from pipeline.report.night import Night
from pipeline.report.parts import Cell, Chart, Charts, Section, Table


def build(night: Night) -> Section | None:
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
        rows += [[str(band), f"{users:,}", format_percent(mean)] for band, users, mean in reversed(of_stage)]
    return Section(
        "scores",
        "Scores and bands",
        f"A score is the probability that a user reaches a stage after the next {night.exposure}. Bands split the "
        "night's users into tenths by score; band 10 is the best.",
        [
            Charts(
                "Users by score",
                [_chart_distribution(night, stage) for stage in night.stages],
                "How many users have which score.",
            ),
            Charts(
                "Mean score by band",
                [_chart_bands(stage, of_stage) for stage, of_stage in bands.items()],
                "The steeper, the more there is to gain from choosing only the best bands.",
            ),
            Table("Bands", ["Band", "Users", "Mean score"], rows, folded="The bands as a table"),
        ],
    )


def _chart_distribution(night: Night, stage: str) -> Chart:
    scores = night.read_column(f"p_{stage}", night.ds)
    earlier = night.read_column(f"p_{stage}", night.before) if night.before else None
    median, top = float(np.median(scores)), float(np.quantile(scores, 0.99))
    caption = f"Half of the users score below {format_percent(median)}, one in a hundred above {format_percent(top)}."
    if night.before:
        caption += f" The outline is {night.before:%d %b}."
    return Chart(stage, Markup(draw_distribution(f"scores-{stage}", scores, earlier)), caption)


def _chart_bands(stage: str, bands: Sequence[tuple[int, int, float]]) -> Chart:
    means = {band: mean for band, _, mean in bands}
    overall = sum(users * mean for _, users, mean in bands) / sum(users for _, users, _ in bands)
    best = max(means)
    caption = f"Band {best} averages {format_percent(means[best])}, all users {format_percent(overall)} (dashed)."
    return Chart(stage, Markup(draw_means_by_band(f"bands-{stage}", means, overall)), caption)
