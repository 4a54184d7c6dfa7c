"""Sources of batches: the shuffle buffer, the share of each process, and reading files."""

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.inputs.categorical import Categorical
from model.inputs.encoded import Encoded
from model.inputs.feature_spec import FeatureSpec
from model.inputs.numeric import Numeric
from model.training.examples import Examples
from model.training.row_groups import list_row_groups
from model.training.shuffle_buffer import ShuffleBuffer
from model.training.sources import ResidentSource, StreamedSource, read_ahead

CPU = torch.device("cpu")


def numbered(numbers):
    """Examples that carry their number in every tensor."""
    number = torch.as_tensor(numbers, dtype=torch.float32)[:, None]
    return Examples(Encoded(number.int(), number, torch.empty(len(number), 0, dtype=torch.int32)), number, number)


def numbers_of(rows):
    assert rows.inputs.sparse.tolist() == rows.inputs.dense.tolist() == rows.targets.tolist() == rows.weight.tolist()
    return rows.targets.flatten().int().tolist()


def streamed(folder, *, sizes, **options):
    """Stream row numbers from a file with row groups of these sizes."""
    ends = list(itertools.accumulate(sizes))
    schema = pa.schema([("number", pa.int64())])
    with pq.ParquetWriter(folder / "rows.parquet", schema) as writer:
        for size, end in zip(sizes, ends, strict=True):
            writer.write_table(pa.table({"number": range(end - size, end)}, schema), row_group_size=max(size, 1))
    given = {"columns": ["number"], "batch_size": 50, "shuffle_rows": 200, "device": CPU} | options
    return StreamedSource(ds.dataset(folder), lambda rows: numbered(rows["number"].to_pylist()), **given)


@settings(deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 12)), max_size=20))
def test_a_buffer_behaves_like_a_shuffled_list(capacity, moves):
    buffer, plain, came = ShuffleBuffer(capacity), [], itertools.count()
    ours, theirs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    buffer.add(numbered([]))
    for added, shuffled, taken in moves:
        new = list(itertools.islice(came, min(added, capacity - len(plain))))
        buffer.add(numbered(new))
        plain += new
        if shuffled:
            buffer.shuffle(ours)
            plain = [plain[place] for place in torch.randperm(len(plain), generator=theirs).tolist()]
        out, plain = plain[:taken], plain[taken:]
        assert numbers_of(buffer.take(min(taken, len(buffer)))) == out
        assert len(buffer) == len(plain)


def test_rows_taken_from_a_buffer_do_not_change_later():
    buffer = ShuffleBuffer(3)
    buffer.add(numbered([1, 2, 3]))
    taken = buffer.take(2)
    buffer.add(numbered([4, 5]))
    assert numbers_of(taken) == [1, 2] and numbers_of(buffer.take(3)) == [3, 4, 5]


def as_process(monkeypatch, rank, count):
    monkeypatch.setattr("model.training.distributed.count_processes", lambda: count)
    monkeypatch.setattr("model.training.sources.count_processes", lambda: count)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
@pytest.mark.parametrize("sizes", [[1_003], [37] * 27 + [4], [5, 700, 0, 1, 297], [500, 503]], ids=str)
def test_processes_share_the_rows_of_a_stream_in_equally_many_steps(tmp_path, monkeypatch, processes, sizes):
    source = streamed(tmp_path, sizes=sizes)
    parts = []
    for rank in range(processes):
        as_process(monkeypatch, rank, processes)
        epoch = [numbers_of(batch) for batch in source.epoch(3)]
        assert len(epoch) == source.batches
        assert {len(batch) for batch in epoch} <= {1_003 // processes // source.batches + more for more in (0, 1, 2)}
        assert epoch == [numbers_of(batch) for batch in source.epoch(3)]
        parts.append([number for batch in epoch for number in batch])
    assert sorted(number for part in parts for number in part) == list(range(1_003))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_reads_different_rows_every_epoch(tmp_path, monkeypatch):
    source = streamed(tmp_path, sizes=[10] * 100)
    as_process(monkeypatch, 0, 2)
    first, second = ({number for batch in source.epoch(seed) for number in numbers_of(batch)} for seed in (1, 2))
    assert len(first) == len(second) == 500
    assert 150 < len(first & second) < 350  # half of them, by chance


def test_a_process_reads_only_its_own_row_groups(tmp_path, monkeypatch):
    source = streamed(tmp_path, sizes=[10] * 20)
    read = []
    monkeypatch.setattr("model.training.row_groups.RowGroup.read", lambda group, most: read.append(group.rows) or [])
    as_process(monkeypatch, 1, 4)
    list(source.epoch(0))
    assert read == [10] * 5


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_every_batch_of_a_table(monkeypatch, processes):
    source = ResidentSource(numbered(range(1_003)), batch_size=50)
    as_process(monkeypatch, 0, 1)
    whole = [numbers_of(batch) for batch in source.epoch(5)]
    assert sorted(itertools.chain(*whole)) == list(range(1_003))
    parts = []
    for rank in range(processes):
        as_process(monkeypatch, rank, processes)
        parts.append([numbers_of(batch) for batch in source.epoch(5)])
    assert [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)] == whole


def test_more_processes_than_rows_are_rejected(tmp_path, monkeypatch):
    as_process(monkeypatch, 0, 4)
    with pytest.raises(ValueError, match="4 processes cannot share 3 rows: start no more than 3"):
        streamed(tmp_path, sizes=[3])


def test_a_stream_mixes_rows_like_a_plain_list(tmp_path):
    """A plain implementation: random row groups, and half of a shuffled list sent at a time."""
    sizes = [90, 10, 37, 200, 63, 100, 12, 88]
    starts = [0, *itertools.accumulate(sizes)]
    generator = torch.Generator().manual_seed(9)
    groups = torch.randperm(len(sizes), generator=generator).tolist()
    source = streamed(tmp_path, sizes=sizes)
    ends = np.linspace(0, 600, source.batches + 1).round().astype(int)
    batch_sizes, buffer, expected = np.diff(ends).tolist(), [], []
    for position, group in enumerate(groups):
        buffer += range(starts[group], starts[group] + sizes[group])
        last = position == len(groups) - 1
        if len(buffer) >= 200 or last:
            buffer = [buffer[place] for place in torch.randperm(len(buffer), generator=generator).tolist()]
            while batch_sizes and len(buffer) - batch_sizes[0] >= (0 if last else 100):
                size = batch_sizes.pop(0)
                expected.append(buffer[:size])
                buffer = buffer[size:]
    assert [numbers_of(batch) for batch in source.epoch(9)] == expected


def test_reading_ahead_yields_the_same_items_and_fetches_no_more_than_allowed():
    got = []
    items = (got.append(number) or number for number in range(20))
    for number in read_ahead(items, 3):
        assert len(got) <= number + 1 + 3
    assert got == list(range(20))


def test_reading_ahead_propagates_errors_and_leaves_no_thread():
    def broken():
        yield 1
        raise ValueError("of the file")

    before = threading.active_count()
    items = read_ahead(broken(), 2)
    assert next(items) == 1
    with pytest.raises(ValueError, match="of the file"):
        next(items)
    endless = read_ahead(itertools.count(1), 2)
    assert next(endless) == 1
    endless.close()
    assert threading.active_count() == before


def test_strings_in_parquet_are_read_as_dictionaries_and_encode_like_strings(tmp_path):
    words = [f"w{number % 7}" if number % 5 else None for number in range(60)]
    table = pa.table({"c": words, "large": pa.array(words, pa.large_string()), "n": range(60)})
    pq.write_table(table.slice(0, 40), tmp_path / "a.parquet", row_group_size=15)
    pq.write_table(table.slice(40).drop(["large"]), tmp_path / "b.parquet")  # null there
    data = ds.dataset(sorted(map(str, tmp_path.iterdir())), schema=table.schema)
    table = data.to_table()
    spec = FeatureSpec.fit([Categorical("c", max_vocabulary=4), Categorical("large"), Numeric("n")], table)
    groups = [
        group for each in data.get_fragments() for group in list_row_groups(each, data.schema, ["n", "c", "large"])
    ]
    assert [group.rows for group in groups] == [15, 15, 10, 20]
    pieces = [piece for group in groups for piece in group.read(4)]
    assert all(pa.types.is_dictionary(piece["c"].type) for piece in pieces)
    read = Encoded.concatenate([spec.encode(piece) for piece in pieces])
    assert all(torch.equal(one, other) for one, other in zip(read.tensors, spec.encode(table).tensors, strict=True))


def test_files_and_partition_folders_are_read_with_the_data_sets_schema(tmp_path):
    for month, codes in (("may", pa.array([1, 2])), ("june", pa.array(["2", "x"]))):
        (tmp_path / f"month={month}").mkdir()
        pq.write_table(pa.table({"code": codes}), tmp_path / f"month={month}" / "rows.parquet")
    schema = pa.schema([("code", pa.string()), ("month", pa.string())])
    data = ds.dataset(tmp_path, schema=schema, partitioning=ds.partitioning(schema.remove(0), flavor="hive"))
    groups = [group for each in data.get_fragments() for group in list_row_groups(each, schema, schema.names)]
    rows = [row for group in groups for piece in group.read(10) for row in piece.to_pylist()]
    assert sorted((row["month"], row["code"]) for row in rows) == [
        ("june", "2"),
        ("june", "x"),
        ("may", "1"),
        ("may", "2"),
    ]
    ds.write_dataset(pa.table({"code": ["a", "b"]}), tmp_path / "arrow", format="ipc")
    data = ds.dataset(tmp_path / "arrow", format="ipc")
    (group,) = list_row_groups(next(data.get_fragments()), data.schema, ["code"])
    assert [piece["code"].to_pylist() for piece in group.read(10)] == [["a", "b"]]


WORKER = """
import sys
from datetime import timedelta
import numpy as np
import pyarrow.dataset as ds
import torch
from torch import distributed
from model import ModelConfig, Numeric, TrainConfig, fit
from model.training.trainer import Trainer

torch.set_num_threads(1)
distributed.init_process_group("gloo", timeout=timedelta(seconds=240))
rank, step, seen, rates = distributed.get_rank(), Trainer._step, [], []

def spy(trainer, batch):
    seen.append(batch.inputs.dense[:, 0].double().numpy())
    return step(trainer, batch)

Trainer._step = spy
bundle = fit(
    ds.dataset(sys.argv[1]), features=[Numeric("x")], tasks=["buy"], model=ModelConfig(experts=2, expert_units=(8,)),
    training=TrainConfig(epochs=1, device="cpu", batch_size=64, shuffle_rows=128), on_progress=rates.append,
)
weights = np.concatenate([each.detach().numpy().ravel() for each in bundle.network.parameters()])
np.savez(f"{sys.argv[2]}/{rank}.npz", seen=np.concatenate(seen), sizes=[len(each) for each in seen], weights=weights)
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_on_every_row_of_a_stream_once(tmp_path):
    rows = 1_001  # one row group and a bit for one process, the rest of it for the other
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir(), out.mkdir()
    table = pa.table({"x": np.arange(rows), "label_buy": np.arange(rows) % 2})
    pq.write_table(table, folder / "rows.parquet", row_group_size=600)
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, str(script), str(folder), str(out)], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    one, two = (np.load(out / f"{rank}.npz") for rank in (0, 1))
    assert len(one["sizes"]) == len(two["sizes"]) and sorted([sum(one["sizes"]), sum(two["sizes"])]) == [500, 501]
    assert len(np.unique(np.concatenate([one["seen"], two["seen"]]))) == rows
    np.testing.assert_array_equal(one["weights"], two["weights"])
