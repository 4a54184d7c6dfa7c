"""The night in numbers: what `monitor` measured, compared with the night before."""

from collections.abc import Sequence

from pipeline.config.figures import FIGURES
from pipeline.report.formats import format_change, format_figure
from pipeline.report.night import Night
from pipeline.report.parts import Cell, Section, Table, measured_cell


def build(night: Night) -> Section | None:
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
                    measured_cell(format_figure(now, meaning.kind), past),
                    format_figure(earlier, meaning.kind),
                    format_change(earlier, now, meaning.kind),
                ]
            )
    if not rows:
        return None
    before = f"{night.before:%d %b}" if night.before else "Before"
    return Section(
        "numbers",
        "The night in numbers",
        "What came in, what went out and how far the scores moved, compared with the latest earlier night that has "
        "scores. A figure past its threshold is marked.",
        [Table("The night in numbers", ["Figure", f"{night.ds:%d %b}", before, "Change"], rows)],
    )
