"""A training's plots: whether probabilities are calibrated, and which experts each stage uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from model import Bundle
from model.display import create_figure
from model.inspection import ExpertUse, expert_use
from model.metrics import reliability
from model.network.architectures.base import Architecture


def plot_reliability(labels: np.ndarray, probabilities: np.ndarray, stages: Sequence[str], path: Path) -> None:
    """Plot the share of positives over the mean probability in bins of equal size, a panel per stage.

    Both axes are logarithmic, since a funnel's rates differ in magnitude; bins without a positive are left out.

    Args:
        labels: float (n, T), NaN where unknown.
        probabilities: (n, T), from a calibration that was not fitted to these labels.
    """
    figure = create_figure(3.0 * len(stages), 3.2)
    for column, (stage, axes) in enumerate(zip(stages, figure.subplots(1, len(stages), squeeze=False)[0], strict=True)):
        known = ~np.isnan(labels[:, column])
        diagram = reliability(labels[known, column], probabilities[known, column])
        shown = diagram.observed > 0
        predicted, observed = diagram.predicted[shown], diagram.observed[shown]
        spread = np.sqrt(observed * (1.0 - observed) / diagram.rows[shown])
        axes.errorbar(predicted, observed, yerr=1.96 * spread, fmt="o", markersize=4, color="#4a7fb5", elinewidth=0.8)
        axes.axline((0.5, 0.5), (1.0, 1.0), color="#222222", linewidth=0.8)
        if shown.any():
            axes.set(xscale="log", yscale="log")
            axes.set_xlim(0.5 * predicted.min(), min(1.0, 2.0 * predicted.max()))
            axes.set_ylim(0.5 * observed.min(), min(1.0, 2.0 * observed.max()))
        axes.set_title(f"{stage}: {int(labels[known, column].sum()):,} of {int(known.sum()):,}", fontsize=10)
        axes.set_xlabel("expected share")
        axes.spines[["top", "right"]].set_visible(False)
        if column == 0:
            axes.set_ylabel("observed share, ± 95%")
    figure.savefig(path)


def measure_expert_use(bundle: Bundle, rows: pa.Table) -> ExpertUse | None:
    """The weight that each stage gives each expert, context hidden; None without rows or without gates."""
    has_gates = type(bundle.network.architecture).expert_weights is not Architecture.expert_weights
    return expert_use(bundle, rows, hide_context=True) if has_gates and rows.num_rows else None
