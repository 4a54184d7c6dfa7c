"""Evaluate a trained model on later, held-out days, with probabilities that were not fitted to their labels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from zlib import crc32

import numpy as np
import pyarrow as pa

from model import Bundle
from model.calibration.calibrators import IDENTITY, Calibrator, fit_isotonic, fit_platt
from model.calibration.ordering import measure_gaps, order_stages
from model.network.inference import score
from pipeline.config.settings import Settings
from pipeline.models.promotion import Verdict, decide_promotion
from pipeline.runs.context import Context
from pipeline.runs.record import StageRun
from pipeline.scoring.fit import describe_misfit

HELD_OUT_SHARE = 0.25
"""The largest share of a stage's mature days that is held out when history is short."""
FOLDS = 5


@dataclass(frozen=True, eq=False)
class LabelledExposures:
    """A partition of `examples` in a fixed order.

    table     the rows of `examples`
    labels    float32 (n, T), NaN until mature
    held_out  which labels are held out, bool (n, T)
    snapshot  identifies this build of the partition
    """

    table: pa.Table
    labels: np.ndarray
    held_out: np.ndarray
    snapshot: str

    @property
    def days(self) -> np.ndarray:
        return self.table.column("exposure_date").to_numpy().astype("datetime64[D]")

    @cached_property
    def taught(self) -> pa.Table:
        """The rows with a label, held out or not."""
        return self.table.filter(pa.array((~np.isnan(self.labels)).any(axis=1)))

    @property
    def held_out_part(self) -> "LabelledExposures":
        """The rows with a held-out label, with only those labels."""
        rows = self.held_out.any(axis=1)
        labels = np.where(self.held_out, self.labels, np.nan)[rows]
        return LabelledExposures(self.table.filter(pa.array(rows)), labels, self.held_out[rows], self.snapshot)

    def held_out_from(self, stages: Sequence[str]) -> dict[str, str | None]:
        """The first held-out day of each stage, ISO 8601; None if no label of it is held out."""
        firsts = [self.days[column] for column in self.held_out.T]
        return {stage: str(days.min()) if len(days) else None for stage, days in zip(stages, firsts, strict=True)}


def read_examples(run: StageRun, as_of: date) -> LabelledExposures:
    """The exposures of `examples` as of a date, which the run then names as its input."""
    context = run.context
    pinned = run.pin("examples", first=as_of, last=as_of)
    table = context.warehouse.read_pinned(pinned)
    table = table.sort_by([(column, "ascending") for column in ("exposure_time", "exposure_id", "user_id")])
    columns = [table.column(f"label_{stage}") for stage in context.settings.funnel.stage_names]
    labels = np.column_stack([column.cast(pa.float32()).to_numpy(zero_copy_only=False) for column in columns])
    files = hashlib.sha256("\n".join(pinned.files).encode()).hexdigest()[:16]
    return LabelledExposures(table, labels, held_out_labels(table, context.settings), files)


def held_out_labels(table: pa.Table, settings: Settings) -> np.ndarray:
    """Which labels are held out for calibration and evaluation, bool (exposures, stages).

    Each stage holds out its own latest mature days (`training.holdout_days`, at most a quarter of them), so that
    recent exposures still train the early stages while the rare last stage is evaluated on unseen days. An exposure
    between two stages' bounds trains one stage and evaluates another, with different labels.
    """
    days = table.column("exposure_date").to_numpy().astype("datetime64[D]")
    held_out = np.zeros((table.num_rows, len(settings.funnel.stages)), dtype=bool)
    for position, stage in enumerate(settings.funnel.stage_names):
        mature = table.column(f"mature_{stage}").to_numpy(zero_copy_only=False)
        if not mature.any():
            continue
        span = int((days[mature].max() - days[mature].min()).astype(int)) + 1
        kept_back = min(settings.training.holdout_days, int(span * HELD_OUT_SHARE))
        held_out[:, position] = mature & (days > days[mature].max() - np.timedelta64(kept_back, "D"))
    return held_out


def compare_with_champion(
    context: Context, challenger: Bundle, version: str, as_of: date, held: LabelledExposures
) -> Verdict:
    """Compare a challenger with the champion as of its own date.

    Both are evaluated with the context hidden, as when a night scores users, on labels that trained neither: if the
    champion held out fewer days, on those. The challenger was calibrated on these labels, so it is evaluated with
    calibrations that were not (`cross_fitted`). The champion is evaluated as nights use it, with its own calibration,
    except on labels that it may have been calibrated on, where it is cross-fitted too.

    A champion that does not fit these examples (other stages or windows, missing features, a damaged bundle) cannot
    score tonight's users either; the challenger is then treated as a first champion. A champion that cannot be fetched
    from the server is an error: it may be the better one.

    Raises:
        FunnelError: the registry does not answer.
    """
    settings, registry = context.settings, context.registry
    stages = settings.funnel.stage_names
    labels, users = held.labels, _user_numbers(held.table)
    folds = user_folds(held.table)
    mine = cross_fitted(challenger, held.table, labels, folds)
    theirs, unusable = None, ""
    champion = registry.champion(as_of, excluding=version)
    if champion is not None:
        path = registry.bundle_path(champion)
        try:
            bundle = Bundle.load(path)
            if misfit := describe_misfit(bundle, settings):
                raise ValueError(f"it {misfit}")
            deployed = bundle.predict(held.table, hide_context=True).calibrated
        except ValueError as error:
            unusable = f"{champion}: {error}"
        else:
            fitted = cross_fitted(bundle, held.table, labels, folds)
            theirs = np.where(_may_have_calibrated(bundle, held, settings), fitted, deployed)
            labels = np.where(_may_have_trained(bundle, held, stages), np.nan, labels)
    return decide_promotion(
        labels,
        mine,
        theirs,
        users=users,
        days=held.days,
        stages=stages,
        options=settings.promotion,
        champion_version=champion,
        unusable_champion=unusable,
    )


def cross_fitted(bundle: Bundle, table: pa.Table, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Probabilities (n, T), context hidden, each from a calibration fitted to the labels of the other folds.

    A bundle's calibration is fitted to all its held-out labels, so that its own scores of those rows flatter it. Here
    the network stays, and the users of each fold are scored with a calibration of the same kind fitted without them.
    """
    logits = score(bundle.network, bundle.encode(table, hide_context=True)).numpy().astype(np.float64)
    gaps = measure_gaps(logits).tolist()
    probabilities = np.empty_like(logits)
    for fold in np.unique(folds):
        inside = folds == fold
        known = ~inside[:, None] & ~np.isnan(labels)
        others = [logits[rows, column] for column, rows in enumerate(known.T)]
        calibrators = [
            _refitted(calibrator, others[column], labels[known[:, column], column])
            for column, calibrator in enumerate(bundle.calibration)
        ]
        refitted = replace(bundle, calibration=order_stages(calibrators, others, gaps=gaps))
        probabilities[inside] = refitted.to_predictions(logits[inside]).calibrated
    return probabilities


def _refitted(calibrator: Calibrator, logits: np.ndarray, labels: np.ndarray) -> Calibrator:
    """A calibrator of the same kind fitted to these rows; Platt's if an isotonic one lacks a class."""
    if calibrator.method == IDENTITY.method:
        return IDENTITY
    has_both = 0 < labels.sum() < len(labels)
    return fit_isotonic(logits, labels) if calibrator.method == "isotonic" and has_both else fit_platt(logits, labels)


def user_folds(rows: pa.Table) -> np.ndarray:
    """The fold of each row, int (n,): the same for all rows of a user, on every machine and in every run."""
    encoded = rows.column("user_id").combine_chunks().dictionary_encode()
    folds = np.array([crc32(user.encode()) % FOLDS for user in encoded.dictionary.to_pylist()], dtype=np.int64)
    return folds[encoded.indices.to_numpy()]


def _user_numbers(rows: pa.Table) -> np.ndarray:
    return rows.column("user_id").combine_chunks().dictionary_encode().indices.to_numpy()


def _may_have_calibrated(champion: Bundle, held: LabelledExposures, settings: Settings) -> np.ndarray:
    """Which labels (n, T) were mature by the champion's date, so that it may have been calibrated on them."""
    as_of = np.datetime64(champion.trained_on["as_of"], "D")
    windows = np.array([stage.window_days for stage in settings.funnel.stages]).astype("timedelta64[D]")
    return held.days[:, None] + windows <= as_of


def _may_have_trained(champion: Bundle, held: LabelledExposures, stages: tuple[str, ...]) -> np.ndarray:
    """Which labels (n, T) are of days that the champion did not hold out, so that they may have trained it."""
    firsts = champion.trained_on["held_out_from"]
    bounds = np.array([np.datetime64(firsts[stage] or champion.trained_on["as_of"], "D") for stage in stages])
    return held.days[:, None] < bounds
