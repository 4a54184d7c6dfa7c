"""The model on a GPU: first whether it is right, then how fast it trains and scores, and where the time goes.

Correctness compares with the CPU: every architecture's outputs and weights after a few steps, a bundle trained on the
GPU and read on a CPU, a killed training resumed, and one training done twice. Rates are of the network of
`training_step`, on rows that lie on the GPU, beside DeepCTR-Torch and torch-rechub where they are installed. The
limits are a large product and a large copy, timed in turns with the others.

Needs torch, numpy, pyarrow and safetensors. Without a GPU it runs on a few rows of the CPU and writes nothing.

    python -m tests.benchmarks gpu
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from model import Bundle, Categorical, ModelConfig, Numeric, Task, TrainConfig, fit
from model.config import ArchitectureName
from model.network.multitask import MultiTaskModel, build_model
from model.training.examples import Examples
from model.training.sources import ResidentSource
from model.training.trainer import Trainer, products_in
from tests.benchmarks.harness import Timing, time_in_turns, write_report
from tests.benchmarks.peers import (
    TASKS,
    Contender,
    DeepCTR,
    Ours,
    Rechub,
    flop_per_row,
    make_examples,
    make_spec,
)
from tests.benchmarks.tuning import markdown

STEPS = 5
"""Training steps after which the weights of two devices are compared."""


class Sizes(NamedTuple):
    """Rows per batch, batches per round, and what the limits are measured with."""

    batch: int
    batches: int
    small_batch: int
    small_batches: int
    vocabulary: int
    product: int
    copy: int
    rounds: int


FULL = Sizes(65_536, 16, 4_096, 64, 10_000, 8_192, 2**28, 3)
TINY = Sizes(64, 4, 64, 2, 50, 64, 1_024, 1)


class Variant(NamedTuple):
    """How our model runs: the precision of its products, and what launches them."""

    precision: str
    compile: bool = False


VARIANTS = {
    "float32": Variant("float32"),
    "tf32": Variant("tf32"),
    "bfloat16": Variant("bfloat16"),
    "tf32, compiled": Variant("tf32", compile=True),
    "bfloat16, compiled": Variant("bfloat16", compile=True),
}


def main() -> None:
    """Measure on the GPU and write results/gpu.md; without one, run on a few rows and print the tables."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        write_report(
            "gpu",
            f"# The model on a GPU, {name}",
            *measure("cuda", FULL),
            command="python -m tests.benchmarks gpu",
            packages=("deepctr-torch", "torch-rechub"),
        )
    else:
        print("no GPU: a few rows on the CPU, nothing written")
        measure("cpu", TINY)


def measure(device: str, sizes: Sizes) -> list[str]:
    """All sections of the report, each printed as soon as it is there."""
    sections: list[str] = []
    started = time.monotonic()
    for parts in (
        ("## Is it right?", lambda: [markdown(["check", "found"], check(device))]),
        ("## How fast is it?", lambda: measure_rates(device, sizes)),
        ("## Where does a step's time go?", lambda: profile_steps(device, sizes)),
    ):
        title, make = parts
        sections.append(title)
        print(f"{title}  [{time.monotonic() - started:.0f} s]", flush=True)
        for section in make():
            sections.append(section)
            print(f"{section}  [{time.monotonic() - started:.0f} s]\n", flush=True)
    return sections


# Correctness


def check(device: str) -> list[list[str]]:
    """One row per check against the CPU; a failed one names its error."""
    rows = []
    for architecture in get_args(ArchitectureName):
        rows.append([f"{architecture}: outputs, weights after {STEPS} steps", _compare_devices(architecture, device)])
    for name, run in {
        f"a bundle trained on {device}, read on the CPU": _check_bundle,
        "a killed training, resumed": _check_resume,
        "one training, done twice": _check_repeat,
    }.items():
        rows.append([name, run(device)])
    return rows


def _compare_devices(architecture: ArchitectureName, device: str) -> str:
    """Relative distances, ||x - reference|| / ||reference||, of the outputs from those in float64 on the CPU, and of
    the way that training moved the weights from the way it moved them on the CPU."""
    network, rows = _build_small(architecture), make_examples(STEPS * 512, 50)
    precise = replace(rows.inputs, dense=rows.inputs.dense.double())
    with torch.no_grad():
        reference = copy.deepcopy(network).double()(*precise.tensors)
        outputs = copy.deepcopy(network).to(device)(*rows.to(torch.device(device)).inputs.tensors)
    here, there = (_train_a_little(copy.deepcopy(network), rows, each) for each in ("cpu", device))
    start = _flatten(network)
    return f"{_distance(outputs.double().cpu(), reference):.1e}, {_distance(there - start, here - start):.1e}"


def _build_small(architecture: ArchitectureName) -> MultiTaskModel:
    torch.manual_seed(0)
    head = "independent" if architecture == "single_task" else "chain"
    tasks = tuple(map(Task, TASKS))
    return build_model(make_spec(50), tasks, ModelConfig(architecture=architecture, head=head)).eval()


def _train_a_little(network: MultiTaskModel, rows: Examples, device: str) -> Tensor:
    """The weights (w,) after a few steps on batches in a fixed order."""
    placed = rows.to(torch.device(device))
    source = ResidentSource(placed, batch_size=512)
    source.epoch = lambda seed: (placed.select(slice(at, at + 512)) for at in range(0, len(rows), 512))  # type: ignore[method-assign]
    config = TrainConfig(epochs=1, device=device, context_dropout=0.0, unseen_share=0.0)
    Trainer(
        network.to(device),
        make_spec(50),
        source,
        None,
        tasks=tuple(map(Task, TASKS)),
        base=torch.ones(len(TASKS), device=device),
        config=config,
        on_progress=None,
    ).run(None)
    return _flatten(network)


def _flatten(network: MultiTaskModel) -> Tensor:
    return torch.cat([each.detach().flatten().double().cpu() for each in network.parameters()])


def _distance(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).norm() / reference.norm())


FEATURES = (Numeric("age"), Categorical("city"), Categorical("offer", context=True))
QUICK = TrainConfig(epochs=3, batch_size=128)
SMALL = ModelConfig(experts=2, expert_units=(8,), tower_units=(), embedding_dim=2, dropout=0.1)


def _draw_table(rows: int = 2_000) -> pa.Table:
    draw = np.random.default_rng(0)
    age, city = draw.normal(40.0, 10.0, rows), draw.integers(0, 6, rows)
    clicked = draw.random(rows) < 1 / (1 + np.exp(1.0 - 0.1 * (age - 40) - 0.3 * (city - 2.5)))
    completed = clicked & (draw.random(rows) < 0.4)
    return pa.table(
        {
            "age": age,
            "city": city,
            "offer": draw.integers(0, 2, rows),
            "label_click": clicked.astype(np.int8),
            "label_complete": completed.astype(np.int8),
        }
    )


def _fit(device: str, **options: object) -> Bundle:
    table = _draw_table()
    held_out = np.repeat((np.arange(len(table)) >= 1_500)[:, None], 2, axis=1)
    return fit(
        table,
        features=FEATURES,
        tasks=["click", "complete"],
        held_out=held_out,
        model=SMALL,
        training=replace(QUICK, device=device),
        **options,  # type: ignore[arg-type]
    )


def _check_bundle(device: str) -> str:
    bundle, table = _fit(device), _draw_table()
    with tempfile.TemporaryDirectory() as folder:
        bundle.save(f"{folder}/bundle")
        read = Bundle.load(f"{folder}/bundle")
    same = np.array_equal(read.predict(table).raw, bundle.predict(table).raw)
    there = replace(bundle, network=bundle.network.to(device))
    inputs = bundle.spec.encode(table).to(torch.device(device))
    with torch.no_grad():
        on_device = there.network(*inputs.tensors).sigmoid().cpu().numpy()
    bundle.network.cpu()
    apart = np.abs(on_device - read.predict(table).raw).max()
    return f"{'same scores' if same else 'OTHER SCORES'}; on {device} at most {apart:.1e} apart"


class Killed(BaseException):
    """Like a signal: nothing that training catches."""


def _check_resume(device: str) -> str:
    unbroken, seen = _fit(device), 0

    def kill(progress: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            raise Killed

    with tempfile.TemporaryDirectory() as folder:
        with suppress(Killed):
            _fit(device, checkpoint=folder, on_progress=kill)
        resumed = _fit(device, checkpoint=folder)
    return _say_difference(resumed, unbroken)


def _check_repeat(device: str) -> str:
    return _say_difference(_fit(device), _fit(device))


def _say_difference(one: Bundle, other: Bundle) -> str:
    table = _draw_table()
    apart = float(np.abs(one.predict(table).raw - other.predict(table).raw).max())
    return "same bits" if apart == 0.0 else f"scores at most {apart:.1e} apart"


# Rates


class Run:
    """A contender on its rows, in its precision; a failure is kept and ends its rounds."""

    def __init__(self, precision: str, work: Callable[[], object], device: str) -> None:
        self.precision, self.work, self.device = precision, work, device
        self.error: str | None = None
        self.peak = 0

    def __call__(self) -> None:
        if self.error is not None:
            return
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            with products_in(self.precision):
                self.work()
                if self.device == "cuda":
                    torch.cuda.synchronize()
        except Exception as error:
            self.error = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            print(f"  failed: {self.error}", flush=True)
        if self.device == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())


def list_contenders(device: str, sizes: Sizes) -> dict[str, tuple[str, Contender]]:
    """Our variants and the installed peers, each with its precision."""
    spec = make_spec(sizes.vocabulary)
    found: dict[str, tuple[str, Contender]] = {}
    for name, variant in VARIANTS.items():
        if device == "cpu" and variant.compile:
            continue
        found[name] = variant.precision, Ours(spec, device=device, precision=variant.precision, compile=variant.compile)
    for name, peer in {"DeepCTR-Torch": DeepCTR, "torch-rechub": Rechub}.items():
        for precision in ("float32", "tf32"):
            try:
                found[f"{name}, {precision}"] = precision, peer(sizes.vocabulary, device=device)
            except ImportError as error:
                print(f"without {name}: {error}")
    return found


def measure_rates(device: str, sizes: Sizes) -> Iterator[str]:
    """Training and scoring at the large batch, training at the small one."""
    contenders = list_contenders(device, sizes)
    rows = make_examples(sizes.batch * sizes.batches, sizes.vocabulary, device=device)
    few = rows.select(slice(0, sizes.small_batch * sizes.small_batches))
    for title, work, part, passes in (
        (f"Training, batches of {sizes.batch:,}", lambda each: each.train(rows, sizes.batch), rows, 3.0),
        (f"Scoring, batches of {sizes.batch:,}", lambda each: each.infer(rows, sizes.batch), rows, 1.0),
        (f"Training, batches of {sizes.small_batch:,}", lambda each: each.train(few, sizes.small_batch), few, 3.0),
    ):
        runs = {
            name: Run(precision, lambda each=each, work=work: work(each), device)
            for name, (precision, each) in contenders.items()
        }
        yield f"{title}:"
        yield _rate(runs, len(part), passes, device, sizes)


def _rate(runs: Mapping[str, Run], rows: int, passes: float, device: str, sizes: Sizes) -> str:
    """Rates, memory, and the share of what the precision's large product and a large copy reach in the same rounds."""
    limits = _limits(device, sizes)
    units = dict.fromkeys(runs, float(rows)) | {name: unit for name, (_, unit) in limits.items()}
    timings = time_in_turns(
        {**runs, **{name: run for name, (run, _) in limits.items()}}, rounds=sizes.rounds, units=units
    )
    table = []
    for name, run in runs.items():
        if run.error is not None:
            table.append([name, run.error, "", "", ""])
            continue
        one = timings[name]
        arithmetic = Timing(one.seconds, one.units * passes * flop_per_row())
        share = arithmetic.times_as_fast_as(timings[f"product, {run.precision}"])
        span = f"{one.units / max(one.seconds):,.0f} to {one.units / min(one.seconds):,.0f}"
        table.append([name, f"{one.rate:,.0f}", span, f"{share:.0%}", f"{run.peak / 2**30:.2f}"])
    told = ", ".join(
        f"{name} {timings[name].rate / 1e12:,.1f} {'TB/s' if name == 'copy' else 'TFLOP/s'}" for name in limits
    )
    return markdown(["contender", "rows/s", "rounds", "of its product's rate", "GiB"], table) + f"\n\nLimits: {told}."


def _limits(device: str, sizes: Sizes) -> dict[str, tuple[Callable[[], object], float]]:
    """A large product in each precision, and a large copy, with the operations and bytes of each."""
    left, right = torch.randn(2, sizes.product, sizes.product, device=device)
    halves = left.bfloat16(), right.bfloat16()
    source = torch.zeros(sizes.copy, device=device)
    target = torch.empty_like(source)
    operations = 2.0 * sizes.product**3
    return {
        "product, float32": (Run("float32", lambda: torch.mm(left, right), device), operations),
        "product, tf32": (Run("tf32", lambda: torch.mm(left, right), device), operations),
        "product, bfloat16": (Run("bfloat16", lambda: torch.mm(*halves), device), operations),
        "copy": (Run("float32", lambda: target.copy_(source), device), 2.0 * 4 * sizes.copy),
    }


# Where the time goes


def profile_steps(device: str, sizes: Sizes) -> Iterator[str]:
    """For some variants: how busy the device is, what it does, and how often the host waits for it."""
    spec = make_spec(sizes.vocabulary)
    rows = make_examples(sizes.batch * sizes.batches, sizes.vocabulary, device=device)
    for name in ("float32", "bfloat16"):
        variant = VARIANTS[name]
        ours = Ours(spec, device=device, precision=variant.precision, compile=variant.compile)
        yield f"{name}:"
        yield profile_step(ours, rows, sizes.batch, device)
    if device == "cuda":
        yield count_syncs(Ours(spec, device=device, precision="bfloat16"), rows, sizes.batch)


def profile_step(ours: Ours, rows: Examples, batch: int, device: str, *, most: int = 14) -> str:
    """One row per operation: its share of the device's time, largest first; and the share of time it is busy."""
    for _ in range(2):
        ours.train(rows, batch)
    on_device = device == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_device else [])
    with profile(activities=activities) as run:
        ours.train(rows, batch)
        if on_device:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if on_device else DeviceType.CPU
    events = [event for event in run.key_averages() if event.device_type == kind]

    def own(event: object) -> float:
        return float(getattr(event, "self_device_time_total" if on_device else "self_cpu_time_total"))

    events.sort(key=own, reverse=True)
    total = sum(map(own, events))
    steps = ours.trainer.source.batches if ours.trainer else 1
    table = markdown(
        ["operation", "share", "times a step"],
        [
            [f"`{_shorten(event.key)}`", f"{own(event) / total:.1%}", f"{event.count / steps:.0f}"]
            for event in events[:most]
        ],
    )
    launched = sum(event.count for event in events) / steps
    return f"{table}\n\n{total / steps / 1e3:.2f} ms of work a step in {launched:.0f} operations."


def _shorten(kernel: str) -> str:
    """A kernel's name without its namespaces and the end of its template arguments.

    >>> _shorten("void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float> >(at::native::ReduceOp<float>)")
    'reduce_kernel<128, 4, ReduceOp<float> >'
    """
    short = kernel.removeprefix("void ").replace("at::native::", "").replace("(anonymous namespace)::", "")
    return short.partition("(")[0][:64]


def count_syncs(ours: Ours, rows: Examples, batch: int) -> str:
    """How often the host waits for the GPU in an epoch, and where."""
    ours.train(rows, batch)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours.train(rows, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places: dict[str, int] = {}
    for each in caught:
        if "synchroniz" in str(each.message):
            place = f"{each.filename.rsplit('/', 1)[-1]}:{each.lineno}"
            places[place] = places.get(place, 0) + 1
    told = ", ".join(f"{place} ({times})" for place, times in sorted(places.items()))
    waits, steps = sum(places.values()), ours.trainer.source.batches if ours.trainer else 1
    return f"The host waits for the GPU {waits} times in an epoch of {steps} steps: {told or 'nowhere'}."
