"""Streams, kills and several processes end in the same weights as one uninterrupted run on a table."""

import math
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch

from model import Bundle, Categorical, ModelConfig, Numeric, Task, TrainConfig, TrainingError, fit
from model.inputs.encoded import Encoded
from model.training.checkpoint import FILE
from model.training.examples import Examples
from model.training.sources import READ_AHEAD, StreamedSource
from tests.model.funnels import FEATURES, TASKS, draw_funnel, last_rows, replace

SMALL = ModelConfig(experts=2, expert_units=(8,), tower_units=(), embedding_dim=2, dropout=0.1)
QUICK = TrainConfig(epochs=3, device="cpu", schedule="cosine", loss_weights="uncertainty", batch_size=128)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def table():
    return draw_funnel(1_500).table


class Killed(BaseException):
    """Like a signal: nothing that training catches."""


def fit_table(table, **options):
    given = {"features": FEATURES, "tasks": TASKS, "held_out": last_rows(1_500), "model": SMALL, "training": QUICK}
    return fit(table, **(given | options))


@pytest.mark.parametrize("reports", [pytest.param(1, marks=pytest.mark.slow), 9, 31])
def test_a_killed_run_resumes_to_the_same_weights(table, tmp_path, monkeypatch, reports):
    monkeypatch.setattr("model.training.progress.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("model.training.trainer.CHECKPOINT_SECONDS", 0.0)
    unbroken = fit_table(table)
    seen = []

    def kill(progress):
        seen.append(progress)
        if len(seen) == reports:
            raise Killed

    with pytest.raises(Killed):
        fit_table(table, checkpoint=tmp_path, on_progress=kill)
    resumed, rest = [], []
    resumed = fit_table(table, checkpoint=tmp_path, on_progress=rest.append)
    np.testing.assert_array_equal(resumed.predict(table).raw, unbroken.predict(table).raw)
    assert resumed.metrics == unbroken.metrics
    batches = rest[0].batches
    done = (seen[-1].epoch - 1) * batches + seen[-1].batch
    first = (rest[0].epoch - 1) * batches + rest[0].batch
    assert first - 1 in (done - 1, done)  # at most the interrupted step is repeated
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_finished_checkpoint_yields_the_bundle_without_training(table, tmp_path):
    first = fit_table(table, checkpoint=tmp_path)
    seen = []
    again = fit_table(table, checkpoint=tmp_path, on_progress=seen.append)
    assert seen == []
    np.testing.assert_array_equal(first.predict(table).raw, again.predict(table).raw)


def test_a_checkpoint_of_another_training_is_rejected(table, tmp_path, monkeypatch):
    fit_table(table, checkpoint=tmp_path)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="other data, options or code"):
        patch.setattr("model.training.checkpoint.FORMAT", 1)
        fit_table(table, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="belongs to a training with other data, options or code"):
        fit_table(table, checkpoint=tmp_path, training=TrainConfig(epochs=3, device="cpu", seed=1))
    with pytest.raises(ValueError, match="belongs to a training with other data, options or code"):
        fit_table(replace(table, label_click=[1] * 1_500), checkpoint=tmp_path)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        fit_table(table, checkpoint=tmp_path)


@pytest.fixture(scope="module")
def files(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    pq.write_table(table.slice(0, 700), folder / "a.parquet", row_group_size=90)
    pq.write_table(table.slice(700, 425), folder / "b.parquet", row_group_size=200)
    return ds.dataset(folder)


def numbered(rows):
    """Encode a table of row numbers as examples that carry them."""
    number = torch.tensor(rows["number"].to_pylist(), dtype=torch.float32)[:, None]
    empty = torch.empty(len(number), 0, dtype=torch.int32)
    return Examples(Encoded(empty, number, empty), number, torch.ones_like(number))


def stream(folder, *, rows, row_group_size, shuffle_rows):
    """Stream row numbers from a file with small row groups, in batches of up to 50."""
    pq.write_table(pa.table({"number": range(rows)}), folder / "rows.parquet", row_group_size=row_group_size)
    options = {"columns": ["number"], "batch_size": 50, "shuffle_rows": shuffle_rows, "device": CPU}
    return StreamedSource(ds.dataset(folder), numbered, **options)


@pytest.mark.parametrize("shuffle_rows", [1, 100, 10_000])
def test_a_stream_yields_every_row_once_per_epoch_in_a_new_order(tmp_path, shuffle_rows):
    source = stream(tmp_path, rows=1_003, row_group_size=37, shuffle_rows=shuffle_rows)

    def epoch(seed):
        batches = [batch.targets.flatten().tolist() for batch in source.epoch(seed)]
        assert len(batches) == source.batches
        assert {len(batch) for batch in batches} <= {1_003 // source.batches, math.ceil(1_003 / source.batches)}
        return [number for batch in batches for number in batch]

    first, second = epoch(1), epoch(2)
    assert sorted(first) == sorted(second) == list(range(1_003))
    assert first != second and first == epoch(1)
    neighbours = np.abs(np.diff(first))
    assert np.median(neighbours) > 20  # neighbours in the file are spread out


def test_a_stream_uses_bounded_memory(tmp_path):
    source = stream(tmp_path, rows=20_000, row_group_size=100, shuffle_rows=1_000)
    encode, encoded, held, sent = source.encode, [], [], 0

    def count(rows):
        encoded.append(rows.num_rows)
        held.append(sum(encoded) - sent)
        return encode(rows)

    source.encode = count
    for batch in source.epoch(0):
        sent += len(batch)
    assert sent == sum(encoded) == 20_000
    assert max(held) <= 1_000 + 100 + (READ_AHEAD + 1) * 50
    assert max(held) >= 1_000  # the buffer is used to the full


@pytest.mark.slow
def test_a_stream_learns_the_same_as_a_table(files, table):
    later = table.slice(1_125)
    training = TrainConfig(epochs=6, device="cpu", batch_size=128)
    options = {"features": FEATURES, "tasks": TASKS, "held_out": later, "model": SMALL, "training": training}
    streamed, resident = fit(files, **options), fit(table.slice(0, 1_125), **options)
    assert streamed.spec.categoricals == resident.spec.categoricals
    for task in TASKS:
        ours, theirs = streamed.metrics[task], resident.metrics[task]
        assert (ours.train_rows, ours.train_positives) == (theirs.train_rows, theirs.train_positives)
        assert ours.log_loss == pytest.approx(theirs.log_loss, rel=0.05)
    again = fit(files, **options)
    np.testing.assert_array_equal(streamed.predict(table).raw, again.predict(table).raw)


@pytest.mark.slow
def test_a_killed_stream_resumes_too(files, table, tmp_path, monkeypatch):
    monkeypatch.setattr("model.training.progress.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("model.training.trainer.CHECKPOINT_SECONDS", 0.0)
    options = {"held_out": table.slice(1_125)}
    unbroken = fit_table(files, **options)

    def kill(progress):
        if (progress.epoch, progress.batch) == (2, 5):
            raise Killed

    with pytest.raises(Killed):
        fit_table(files, **options, checkpoint=tmp_path, on_progress=kill)
    resumed = fit_table(files, **options, checkpoint=tmp_path)
    np.testing.assert_array_equal(resumed.predict(table).raw, unbroken.predict(table).raw)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ("rows.parquet", {}, "data is a str, not a pyarrow Table or Dataset"),
        (None, {"held_out": np.zeros((1_125, 3), bool)}, "held_out is a ndarray; for a streamed data set"),
        (None, {"held_out": None, "features": [Numeric("height")]}, "column 'height' is not in the data set; it has"),
        (None, {"held_out": None, "tasks": ["buy"]}, "column 'label_buy' is not in the data set"),
    ],
)
def test_data_that_cannot_be_streamed_is_rejected_in_one_line(files, data, options, words):
    with pytest.raises(ValueError, match=words):
        fit_table(data or files, **options)


def test_an_exploding_loss_leaves_the_last_good_weights(table):
    numbers = replace(table, age=table["age"].to_numpy().astype(float))
    explosive = TrainConfig(epochs=30, device="cpu", learning_rate=0.02, patience=30)
    calls = []

    def sabotage(progress):  # like a broken schedule, after two good epochs
        calls.append(progress)
        if progress.held_out is not None and progress.epoch == 2:
            object.__setattr__(explosive, "learning_rate", 1e30)

    with pytest.raises(TrainingError, match=r"of task 'click' is not finite at step \d+") as caught:
        fit_table(numbers, training=explosive, on_progress=sabotage)
    error = caught.value
    assert error.task == "click" and error.step > 2 * calls[0].batches
    assert isinstance(error.bundle, Bundle)
    assert np.isfinite(error.bundle.predict(numbers).calibrated).all()
    two = fit_table(numbers, training=TrainConfig(epochs=2, device="cpu", learning_rate=0.02, patience=30))
    np.testing.assert_array_equal(error.bundle.predict(numbers).raw, two.predict(numbers).raw)


def test_early_stopping_can_follow_one_task(table):
    seen = []
    training = TrainConfig(epochs=4, device="cpu", stop_on="complete")
    bundle = fit_table(table, training=training, on_progress=seen.append)
    judged = [each.held_out for each in seen if each.held_out is not None]
    complete = table["label_complete"].to_numpy()[:1_125]
    rate = (complete.sum() + 0.5) / 1_126
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert bundle.metrics["complete"].raw_log_loss / entropy == pytest.approx(min(judged), rel=1e-4)
    with pytest.raises(ValueError, match="stop_on is 'buy', not one of click, register, complete"):
        fit_table(table, training=TrainConfig(stop_on="buy"))
    with pytest.raises(ValueError, match="stop_on is 'click', a task without a held-out label"):
        fit_table(table, held_out=None, training=TrainConfig(stop_on="click", device="cpu"))


def test_training_mode_is_restored_after_each_validation(table):
    modes = []

    def look(progress):
        modes.append((progress.held_out is None, network.training))

    import model.fitting as fitting

    network = None
    build = fitting.build_model

    def keep(*arguments):
        nonlocal network
        network = build(*arguments)
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.training.progress.PROGRESS_SECONDS", 0.0)
        patch.setattr(fitting, "build_model", keep)
        fit_table(table, model=ModelConfig(experts=2, dropout=0.2, batch_norm=True), on_progress=look)
    assert {training for in_epoch, training in modes if in_epoch} == {True}
    assert {training for in_epoch, training in modes if not in_epoch} == {False}


@pytest.mark.parametrize("rows", [1, 2, 129])
def test_batch_normalisation_works_with_any_number_of_rows(rows):
    data = pa.table({"x": np.arange(rows), "label_buy": [1] + [0] * (rows - 1)})
    model = ModelConfig(experts=2, batch_norm=True)
    training = TrainConfig(epochs=2, batch_size=64, device="cpu")
    bundle = fit(data, features=[Numeric("x")], tasks=["buy"], model=model, training=training)
    assert np.isfinite(bundle.predict(data.slice(0, 1)).calibrated).all()


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 1e-12, "weight_decay": 0.0},
        {"l2_dense": 10.0, "weight_decay": 0.0},
        {"l2_embedding": 10.0, "weight_decay": 0.0},
        {"schedule": "linear"},
        {"warmup": 1.0},
        {"precision": "bfloat16"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_each_training_option_changes_the_weights(table, options):
    plain = TrainConfig(epochs=2, device="cpu", weight_decay=options.get("weight_decay", 1e-2))
    other = fit_table(table, training=TrainConfig(epochs=2, device="cpu", **options))
    first = fit_table(table, training=plain)
    gap = np.abs(other.predict(table).raw - first.predict(table).raw).max()
    assert 0 < gap < 0.5
    if "precision" in options:
        assert gap < 0.02
        assert all(weight.dtype == torch.float32 for weight in other.network.parameters())
    if "l2_dense" in options or "l2_embedding" in options:
        theirs, ours = first.network.sum_squares(), other.network.sum_squares()
        column = 1 if "l2_dense" in options else 0
        assert ours[column] < 0.5 * theirs[column]


@pytest.mark.slow
def test_a_compiled_network_trains_like_the_plain_one(table):
    steady = TrainConfig(epochs=2, device="cpu", context_dropout=0.0, unseen_share=0.0)
    model = ModelConfig(experts=2, expert_units=(8,), embedding_dim=2)
    plain = fit_table(table, model=model, training=steady)
    compiled = fit_table(table, model=model, training=TrainConfig(**(vars(steady) | {"compile": True})))
    np.testing.assert_allclose(compiled.predict(table).raw, plain.predict(table).raw, atol=1e-4)


WORKER = """
import sys
from datetime import timedelta
import numpy as np
import torch
from torch import distributed
from model import ModelConfig, TrainConfig, fit
from tests.model.funnels import FEATURES, TASKS, draw_funnel, last_rows

torch.set_num_threads(1)
distributed.init_process_group("gloo", timeout=timedelta(seconds=240))
seen = []
bundle = fit(
    draw_funnel(1_500).table, features=FEATURES, tasks=TASKS, held_out=last_rows(1_500),
    model=ModelConfig(experts=2, expert_units=(8,), embedding_dim=2, architecture=sys.argv[2]),
    training=TrainConfig(epochs=2, device="cpu", context_dropout=0.0, unseen_share=0.0, clip_norm=1.0, l2_dense=1e-3,
                         loss_weights="uncertainty"),
    on_progress=seen.append,
)
if distributed.get_rank() == 0:
    np.savez(sys.argv[1], raw=bundle.predict(draw_funnel(500, seed=1).table).raw,
             losses=[list(each.loss.values()) for each in seen if each.held_out is not None])
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["mmoe", "aitm"])
def test_two_processes_train_like_one(tmp_path, architecture):
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.npz"
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*launch, str(script), str(out), architecture], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        results.append(np.load(out))
    one, two = results
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(two["raw"], one["raw"], atol=1e-4)


def test_ids_never_pass_through_floats():
    big = 2**53
    data = pa.table({"id": [big, big + 1] * 50, "label_buy": [0, 1] * 50})
    training = TrainConfig(epochs=30, device="cpu", learning_rate=0.05, unseen_share=0.0)
    bundle = fit(data, features=[Categorical("id")], tasks=[Task("buy")], model=SMALL, training=training)
    low, high = bundle.predict(data.slice(0, 2)).raw[:, 0]
    assert low < 0.2 and high > 0.8
