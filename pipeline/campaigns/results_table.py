"""`funnel results`: a list's results as tables for a person, or as CSV for a spreadsheet."""

import csv
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.campaigns.results import ARMS, BandResults, CampaignResults, StageResults, measure_campaign
from pipeline.config.settings import Settings
from pipeline.errors import FunnelError
from pipeline.measures.uplift import Estimate, Qini, Response
from pipeline.terminal import TextTable


def print_results(
    settings: Settings,
    campaign: str,
    *,
    ds: date | None = None,
    version: int | None = None,
    format: Literal["table", "csv"] = "table",
    plot: Path | None = None,
) -> None:
    """Print the results of a campaign's list, and draw its Qini curve into an SVG file if `plot` names one.

    Raises:
        FunnelError: as `measure_campaign` does; or there is no curve to draw, or the file cannot be written.
    """
    results = measure_campaign(settings, campaign, ds, version)
    if plot is not None:
        _draw_plot(plot, results)
    if format == "csv":
        for warning in results.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        _write_csv(results)
    else:
        _print_tables(results)
    if plot is not None:
        print(f"the Qini curve is in {plot}", file=sys.stderr)


def _print_tables(results: CampaignResults) -> None:
    print(f"{results.campaign}, list of {results.ds}, version {results.version}: sent on {results.send_on}")
    for warning in results.warnings:
        print(f"warning: {warning}")
    arms = [arm for arm in ARMS if results.users[arm]]
    texted = (f"{results.users[arm]:,} {arm} ({results.texted_share(arm):.1%} texted)" for arm in arms)
    print(f"users: {', '.join(texted)}; SMS cost {results.cost:,.2f}")
    for stage in results.stages:
        print(f"\n{stage.stage}{' (goal)' if stage.stage == results.goal else ''}")
        _tabulate_responses(stage, arms).print()
        for line in _summarise(stage):
            print(line)
    if results.profit:
        print(f"\nreturn of all stages, net of the SMS cost: {_format_money(results.profit)}")
    if results.qini:
        print(f"\nQini curve of {results.goal}: outcomes caused by messages to the best ranks")
        _tabulate_qini(results.qini).print()
        print(_summarise_qini(results.qini))


def _tabulate_responses(stage: StageResults, arms: list[str]) -> TextTable:
    table = TextTable("band")
    for arm in arms:
        table.add_column(arm, is_number=True)
        table.add_column("rate (95%)", is_number=True)
    table.add_column("uplift, points (95%)", is_number=True)
    table.add_column("p-value", is_number=True)
    for row in (*stage.bands, stage.overall):
        cells: list[str] = []
        for arm in arms:
            group: Response = getattr(row, arm)
            rate = group.rate()
            cells += [f"{group.outcomes:,} of {group.users:,}", _format_share(rate) if rate else "–"]
        cells += [_format_points(row.uplift.difference), f"{row.uplift.p_value:.3f}"] if row.uplift else ["–", "–"]
        table.add_row("all" if row.band is None else str(row.band), *cells)
    return table


def _summarise(stage: StageResults) -> Iterator[str]:
    if stage.caused:
        outcomes = stage.overall.target.outcomes
        yield f"caused by the messages: {_format_count(stage.caused)} of the targets' {outcomes:,} outcomes"
    if stage.cost_per_outcome is not None:
        if stage.cost_per_caused:
            caused = f"{_format_money(stage.cost_per_caused)} per caused outcome"
        else:
            caused = "unknown per caused outcome, as there may be none"
        yield f"cost: {stage.cost_per_outcome:,.2f} per outcome, {caused}"
    if stage.programme:
        yield (
            "target and control minus holdout, in points: "
            f"{_format_points(stage.programme.difference)}, p = {stage.programme.p_value:.3f}"
        )


def _tabulate_qini(curve: Qini) -> TextTable:
    table = TextTable()
    for name in ("best ranks", "caused", "in random order", "by chance (95%)"):
        table.add_column(name, is_number=True)
    for share in np.linspace(0.1, 1, 10):
        caused, at_random, low, high = (
            float(np.interp(share, curve.shares, line))
            for line in (curve.gains, curve.at_random, curve.chance_low, curve.chance_high)
        )
        table.add_row(f"{share:.0%}", f"{caused:,.1f}", f"{at_random:,.1f}", f"{low:,.1f} to {high:,.1f}")
    return table


def _summarise_qini(curve: Qini) -> str:
    low, high = curve.chance
    verdict = "messages move the best ranks most" if curve.is_beyond_chance else "no more than chance"
    return (
        f"Qini coefficient: {1000 * curve.coefficient:+.2f} outcomes per 1,000 messages from sending in order of rank "
        f"({1000 * low:+.2f} to {1000 * high:+.2f} by chance): {verdict}"
    )


def _write_csv(results: CampaignResults) -> None:
    """One row per stage and band ('all': every band together)."""
    rows = [_make_csv_row(results, stage, row) for stage in results.stages for row in (*stage.bands, stage.overall)]
    writer = csv.DictWriter(sys.stdout, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _make_csv_row(results: CampaignResults, stage: StageResults, row: BandResults) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "ds": results.ds,
        "campaign": results.campaign,
        "version": results.version,
        "stage": stage.stage,
        "band": "all" if row.band is None else row.band,
    }
    for arm in ARMS:
        group: Response = getattr(row, arm)
        cells |= {f"{arm}_users": group.users, f"{arm}_outcomes": group.outcomes}
        cells |= _make_csv_cells(f"{arm}_rate", group.rate())
    cells |= _make_csv_cells("uplift", row.uplift.difference if row.uplift else None)
    cells["p_value"] = row.uplift.p_value if row.uplift else None
    is_all = row.band is None
    cells |= _make_csv_cells("caused", stage.caused if is_all else None)
    cells |= _make_csv_cells("cost_per_caused", stage.cost_per_caused if is_all else None)
    return cells


def _make_csv_cells(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, (estimate.value, estimate.low, estimate.high) if estimate else (None,) * 3, strict=True))


def _draw_plot(plot: Path, results: CampaignResults) -> None:
    from pipeline.charts.campaigns import draw_qini_curve, make_standalone

    if results.qini is None:
        raise FunnelError(f"--plot {plot}: no Qini curve without a control group and mature outcomes of {results.goal}")
    try:
        plot.write_text(make_standalone(draw_qini_curve("qini", results.qini)), encoding="utf-8")
    except OSError as error:
        raise FunnelError(f"--plot {plot}: the file cannot be written: {error.strerror}") from None


def _format_share(rate: Estimate) -> str:
    return f"{rate.value:.2%} ({100 * rate.low:.2f} to {100 * rate.high:.2f})"


def _format_points(difference: Estimate) -> str:
    value, low, high = (100 * each for each in (difference.value, difference.low, difference.high))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _format_count(estimate: Estimate) -> str:
    return f"{estimate.value:,.1f} ({estimate.low:,.1f} to {estimate.high:,.1f})"


def _format_money(estimate: Estimate) -> str:
    return f"{estimate.value:,.2f} ({estimate.low:,.2f} to {estimate.high:,.2f})"
