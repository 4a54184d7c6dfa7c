"""Examples of two funnels for benchmarks: produced by the pipeline, read without it.

`prepare` runs the pipeline (Spark) and writes one Parquet file per funnel: features, labels, the part of the split that
each label belongs to and, for the simulated lender, the true probabilities. `read` only needs pyarrow.

The split is by day of exposure: training days, then validation days, then test days. A label belongs to a part only if
its exposure *and its whole window* lie within the part's days, so that nothing after a border teaches, stops or
calibrates what is measured beyond it. As in the pipeline, a later stage implies an earlier one, but only within the
same part. The last days before a border therefore teach only the early stages. All stages are measured on the same
exposures. What happened in time counts even if it landed after the border: labels are read on the last day of the data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model import Categorical, Feature, Numeric
from tests.benchmarks.tuning import Split
from tests.support.places import ROOT

if TYPE_CHECKING:
    from pipeline.config.settings import Settings

FUNNELS = ("lender", "bpi2012")
METADATA = b"funnel"
TEST_DAYS = 21
VALIDATION_DAYS = 14
"""Days of exposures of which even the longest window ends before the test days."""
LENDER_START, LENDER_DAYS = date(2026, 1, 1), 120
BPI_FIRST, BPI_LAST = date(2011, 10, 1), date(2012, 3, 14)


@dataclass(frozen=True)
class Borders:
    """The first validation day, the first test day, and the day after the last test day."""

    validation: date
    test: date
    end: date

    @classmethod
    def before(cls, as_of: date, *, longest_window: int) -> Borders:
        """The latest borders for which every test label is mature by the end of ``as_of``.

        >>> Borders.before(date(2026, 4, 30), longest_window=14)
        Borders(validation=datetime.date(2026, 2, 27), test=datetime.date(2026, 3, 27), end=datetime.date(2026, 4, 17))
        """
        end = as_of - timedelta(days=longest_window - 1)
        test = end - timedelta(days=TEST_DAYS)
        return cls(test - timedelta(days=VALIDATION_DAYS + longest_window), test, end)


def assign_part(exposed: np.ndarray, window_days: int, borders: tuple[np.datetime64, ...]) -> np.ndarray:
    """The part that a stage's label belongs to, for exposures at these instants: "train", "validation", "test" or "".

    ``borders`` are the instants at which validation and test begin and test ends.

    >>> days = np.array(["2026-01-01", "2026-01-08", "2026-01-10", "2026-01-15", "2026-01-20"], "datetime64[us]")
    >>> borders = tuple(np.array(["2026-01-10", "2026-01-20", "2026-01-30"], "datetime64[us]"))
    >>> assign_part(days, 7, borders).tolist()
    ['train', '', 'validation', '', 'test']
    """
    validation, test, end = borders
    closed = exposed + np.timedelta64(24 * window_days, "h")
    inside = [closed <= validation, (exposed >= validation) & (closed <= test), (exposed >= test) & (exposed < end)]
    return np.select(inside, ["train", "validation", "test"], default="")


def label_within_parts(observed: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Labels (n, T) from what was observed (n, T): a stage counts as passed if a later one was, in the same part.

    >>> parts = np.array([["train", "train"], ["train", ""]])
    >>> label_within_parts(np.array([[0, 1], [0, 1]]), parts).tolist()
    [[1, 1], [0, 1]]
    """
    labels = observed.copy()
    for stage in range(labels.shape[1] - 1):
        later = np.where(parts[:, stage + 1 :] == parts[:, [stage]], observed[:, stage + 1 :], 0)
        labels[:, stage] = np.maximum(observed[:, stage], later.max(axis=1))
    return labels


@dataclass(frozen=True)
class Funnel:
    """One funnel's examples. Columns: ``user_id``, the features, and for each stage ``label_<stage>``,
    ``part_<stage>`` and, for the lender, ``truth_<stage>``, the probability the simulator drew from.
    """

    name: str
    table: pa.Table
    features: tuple[Feature, ...]
    context: tuple[str, ...]
    stages: tuple[str, ...]
    windows_days: tuple[int, ...]
    borders: Borders

    def part(self, part: str) -> pa.Table:
        """The rows with a label in a part; labels of other parts are null."""
        inside = np.column_stack([np.asarray(self.table[f"part_{stage}"]) == part for stage in self.stages])
        table = self.table
        for position, stage in enumerate(self.stages):
            name = f"label_{stage}"
            label = pc.if_else(
                pa.array(inside[:, position]), table[name], pa.scalar(None, table.schema.field(name).type)
            )
            table = table.set_column(table.schema.get_field_index(name), name, label)
        return table.filter(pa.array(inside.any(axis=1)))

    def split(self) -> Split:
        return Split(self.part("train"), self.part("validation"), self.part("test"))

    def features_with_context(self) -> tuple[Feature, ...]:
        """The features, with those of the exposure marked as context, which a night cannot know."""
        return tuple(
            Categorical(each.name, context=True)
            if isinstance(each, Categorical) and each.name in self.context
            else each
            for each in self.features
        )


def read(path: Path) -> Funnel:
    """Read a funnel from its Parquet file."""
    table = pq.read_table(path)
    told = json.loads(table.schema.metadata[METADATA])
    return Funnel(
        name=path.stem,
        table=table,
        features=tuple(_feature(**each) for each in told["features"]),
        context=tuple(told["context"]),
        stages=tuple(told["stages"]),
        windows_days=tuple(told["windows_days"]),
        borders=Borders(*map(date.fromisoformat, told["borders"])),
    )


def write(funnel: Funnel, path: Path) -> None:
    """Write a funnel to a Parquet file; ``read`` is the inverse."""
    borders = funnel.borders
    told = {
        "features": [_told(each) for each in funnel.features],
        "context": funnel.context,
        "stages": funnel.stages,
        "windows_days": funnel.windows_days,
        "borders": [each.isoformat() for each in (borders.validation, borders.test, borders.end)],
    }
    pq.write_table(funnel.table.replace_schema_metadata({METADATA: json.dumps(told).encode()}), path)


def _told(feature: Feature) -> dict[str, Any]:
    return {"name": feature.name} | ({"transform": feature.transform} if isinstance(feature, Numeric) else {})


def _feature(name: str, transform: str | None = None) -> Feature:
    return Categorical(name) if transform is None else Numeric(name, transform=transform)


def prepare(out: Path) -> None:
    """Run the pipeline for both funnels and write ``<funnel>.parquet`` to ``out``; needs Spark.

    The event log of BPI 2012 is not part of the project: without it, only the lender is written, and a line says so.
    """
    from tests.support.places import SHARED_DATA

    out.mkdir(parents=True, exist_ok=True)
    write(_lender(out / "lender"), out / "lender.parquet")
    log = SHARED_DATA / "bpi2012"
    if log.is_dir():
        write(_bpi2012(out / "bpi2012", log), out / "bpi2012.parquet")
    else:
        print(f"no BPI 2012 data at {log}: set FUNNEL_TEST_DATA to the folder that holds bpi2012/")


def _lender(company: Path) -> Funnel:
    """The demo's simulated lender, with labels as of its last day and the truth joined by exposure id."""
    from importlib.resources import files

    from pipeline.demo import simulate_company
    from pipeline.simulate.simulation import Simulation

    simulate_company(company / "source", users=20_000, days=LENDER_DAYS, start=LENDER_START, seed=Simulation.seed)
    text = files("pipeline").joinpath("demo.toml").read_text(encoding="utf-8")
    last = LENDER_START + timedelta(days=LENDER_DAYS - 1)
    funnel = _examples(company, text, LENDER_START, last)
    truth = pq.read_table(company / "source" / "truth" / "exposures.parquet")
    place = pc.index_in(funnel.table["exposure_id"], value_set=truth["event_id"])
    assert place.null_count == 0, "an exposure of the warehouse that the simulator did not send"
    table, matched = funnel.table, truth.take(place)
    for stage in funnel.stages:
        table = table.append_column(f"truth_{stage}", matched[f"p_{stage}"])
    return replace(funnel, table=table)


def _bpi2012(company: Path, log: Path) -> Funnel:
    """BPI 2012, read as calls and what follows them, with the tests' configuration."""
    config = ROOT / "tests" / "configs" / "bpi2012.toml"
    text = config.read_text(encoding="utf-8").replace('path = "bpi2012/', f'path = "{log.resolve()}/')
    company.mkdir()
    return _examples(company, text, BPI_FIRST, BPI_LAST)


def _examples(company: Path, text: str, first: date, last: date) -> Funnel:
    """Load a range of dates, build the examples as of its last, and split them."""
    from pipeline.config.settings import load
    from pipeline.dates import DateRange
    from pipeline.features.examples import build_examples
    from pipeline.nights import load_history
    from pipeline.runs.context import Context

    config = company / "funnel.toml"
    config.write_text(text, encoding="utf-8")
    settings = load(config)
    load_history(Context(settings), DateRange(first, last))
    build_examples(Context(settings), last)
    table = Context(settings).warehouse.arrow("examples", first=last, last=last)
    return _parted(company.name, table, settings, last)


def _parted(name: str, table: pa.Table, settings: Settings, as_of: date) -> Funnel:
    """Add ``part_<stage>`` to the examples, with labels as known within their part; drop rows that are in no part."""
    from pipeline.config.features import context_names, declared_features
    from pipeline.dates import end_of_day, epoch_micros

    stages, windows = settings.funnel.stage_names, tuple(stage.window_days for stage in settings.funnel.stages)
    borders = Borders.before(as_of, longest_window=max(windows))
    days = (borders.validation, borders.test, borders.end)
    starts = [epoch_micros(end_of_day(day - timedelta(days=1), settings.zone)) for day in days]
    instants = tuple(np.array(starts).astype("datetime64[us]"))

    table = table.sort_by([("exposure_time", "ascending"), ("exposure_id", "ascending")])
    exposed = table["exposure_time"].cast(pa.int64()).to_numpy().astype("datetime64[us]")
    parts = np.column_stack([assign_part(exposed, window, instants) for window in windows])
    observed = np.column_stack([table[f"observed_{stage}"].fill_null(0).to_numpy() for stage in stages])
    labels = label_within_parts(observed, parts)
    kept = [name for name in table.column_names if not name.startswith(("mature_", "observed_", "label_"))]
    made = table.select(kept)
    for column, stage in enumerate(stages):
        inside = parts[:, column] != ""
        mature = table[f"mature_{stage}"].to_numpy(zero_copy_only=False)
        assert mature[inside].all(), f"a label of {stage} that is in a part is not mature"
        made = made.append_column(f"label_{stage}", pa.array(labels[:, column], mask=~inside))
        made = made.append_column(f"part_{stage}", pa.array(parts[:, column]))
    return Funnel(
        name=name,
        table=made.filter(pa.array((parts != "").any(axis=1))),
        features=_plain_features(settings),
        context=tuple(context_names(declared_features(settings))),
        stages=stages,
        windows_days=windows,
        borders=borders,
    )


def _plain_features(settings: Settings) -> tuple[Feature, ...]:
    """The pipeline's features, none marked as context, since every model sees every column."""
    from pipeline.training.inputs import model_features

    return tuple(Categorical(each.name) if isinstance(each, Categorical) else each for each in model_features(settings))
