"""One problem and three implementations of MMoE for it: ours, DeepCTR-Torch's and torch-rechub's.

20 sparse features of 16 dimensions and 30 dense ones, 3 binary tasks, 8 experts of (256, 128), gates of (64), towers
of (64). Rows are tensors in memory, in the form each package takes, so that only models and optimisers are compared.

- DeepCTR-Torch: its `MMOE` without batch normalisation, dropout and L2, and the step of its `fit`: log losses summed
  over a batch, its Adam.
- torch-rechub: its `MMOE` and the step of its trainer: mean log losses, Adam. Its gates have no hidden layer, and the
  batch normalisation of its experts and towers cannot be turned off.
- Ours: `Trainer` with its defaults, on batches drawn from resident rows, including reading and hiding; `score`.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model import FeatureSpec, ModelConfig, Task, TrainConfig
from model.inputs.categorical import Categorical, Vocabulary
from model.inputs.encoded import Encoded
from model.inputs.lookup import SPECIAL_IDS
from model.inputs.numeric import FittedNumeric, Numeric, Standardiser
from model.network.inference import score
from model.network.multitask import MultiTaskModel, build_model
from model.training.examples import Examples
from model.training.sources import ResidentSource
from model.training.trainer import Trainer

SPARSE, DENSE, DIM, EXPERTS = 20, 30, 16, 8
TASKS = ("click", "register", "complete")
EXPERT_UNITS, GATE_UNITS, TOWER_UNITS = (256, 128), (64,), (64,)


def flop_per_row() -> float:
    """Floating-point operations of one row's forward pass: two per weight of every product, plus the mixing."""
    width = SPARSE * DIM + DENSE
    hidden, out = EXPERT_UNITS
    experts = EXPERTS * (width * hidden + hidden * out)
    gates = len(TASKS) * (width * GATE_UNITS[0] + GATE_UNITS[0] * EXPERTS)
    towers = len(TASKS) * (out * TOWER_UNITS[0] + TOWER_UNITS[0])
    return 2.0 * (experts + gates + towers + len(TASKS) * EXPERTS * out)


def make_spec(vocabulary: int) -> FeatureSpec:
    """The problem's features, with this many ids per sparse one, including those for missing and unseen values."""
    values = tuple(map(str, range(vocabulary - SPECIAL_IDS)))
    return FeatureSpec(
        tuple(Vocabulary(Categorical(f"sparse_{each}", max_vocabulary=vocabulary), values) for each in range(SPARSE)),
        (),
        tuple(
            FittedNumeric(Numeric(f"dense_{each}"), Standardiser(0.0, 1.0), False, (0.0, 1.0)) for each in range(DENSE)
        ),
    )


def make_examples(rows: int, vocabulary: int, *, seed: int = 0, device: str = "cpu") -> Examples:
    """Rows with uniform ids and normal numbers, and three chained outcomes, each rarer than the last, that depend on
    both.

    The effect of an id is drawn from the id alone, so that rows of all seeds share one world.
    """
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(SPECIAL_IDS, vocabulary, (rows, SPARSE), generator=draw)
    numbers = torch.randn(rows, DENSE, generator=draw)
    world = torch.Generator().manual_seed(20180819)
    weights = torch.randn(DENSE + SPARSE, len(TASKS), generator=world) / (DENSE + SPARSE) ** 0.5
    worth = torch.sin(ids.double() * 12.9898 + torch.arange(SPARSE)).float() * 1.4  # of unit variance
    logits = 1.5 * torch.cat([numbers, worth], 1) @ weights - 1.0
    went_on = torch.rand(rows, len(TASKS), generator=draw) < logits.sigmoid()
    labels = went_on.cumprod(1).float()
    lists = torch.zeros(rows, 0, dtype=torch.int64)
    return Examples(Encoded(ids, numbers, lists), labels, torch.ones(rows, len(TASKS))).to(torch.device(device))


class Contender(Protocol):
    """A model with an optimiser that trains on rows and infers them, one batch per step."""

    def train(self, rows: Examples, batch: int) -> None: ...

    def infer(self, rows: Examples, batch: int) -> Tensor:
        """Infer probabilities (n, T)."""
        ...


class Ours:
    """This project's model, with options of `TrainConfig`."""

    def __init__(self, spec: FeatureSpec, *, device: str = "cpu", **training: Any) -> None:
        self.spec, self.training, self.device = spec, training, device
        self.tasks = tuple(map(Task, TASKS))
        torch.manual_seed(0)
        config = ModelConfig(
            head="independent",
            embedding_dim=DIM,
            experts=EXPERTS,
            expert_units=EXPERT_UNITS,
            gate_units=GATE_UNITS,
            tower_units=TOWER_UNITS,
        )
        self.network: MultiTaskModel = build_model(spec, self.tasks, config).to(device)
        self.trainer: Trainer | None = None

    def train(self, rows: Examples, batch: int) -> None:
        if self.trainer is None or self.trainer.source.examples is not rows:  # type: ignore[attr-defined]
            source = ResidentSource(rows, batch_size=batch)
            source.batches = math.ceil(len(rows) / batch)  # few rows are not cut into smaller batches: peers do not
            self.trainer = Trainer(
                self.network,
                self.spec,
                source,
                None,
                tasks=self.tasks,
                base=torch.ones(len(TASKS), device=self.device),
                config=TrainConfig(batch_size=batch, epochs=1, device=self.device, **self.training),
                on_progress=None,
            )
        self.trainer.state.epoch = 1
        self.trainer.run(None)

    def infer(self, rows: Examples, batch: int) -> Tensor:
        pieces = (rows.inputs.select(piece) for piece in _pieces(len(rows), batch))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.training.get("precision") == "bfloat16"):
            scores = [score(self.network, piece) for piece in pieces]
        return torch.cat(scores).float().sigmoid()


class DeepCTR:
    """DeepCTR-Torch 0.3.0."""

    def __init__(self, vocabulary: int, *, device: str = "cpu") -> None:
        from deepctr_torch.inputs import DenseFeat, SparseFeat
        from deepctr_torch.models import MMOE

        torch.manual_seed(0)
        columns = [SparseFeat(f"sparse_{each}", vocabulary, embedding_dim=DIM) for each in range(SPARSE)]
        columns += [DenseFeat(f"dense_{each}", 1) for each in range(DENSE)]
        self.model = MMOE(
            columns,
            num_experts=EXPERTS,
            expert_dnn_hidden_units=EXPERT_UNITS,
            gate_dnn_hidden_units=GATE_UNITS,
            tower_dnn_hidden_units=TOWER_UNITS,
            l2_reg_linear=0,
            l2_reg_embedding=0,
            l2_reg_dnn=0,
            task_types=["binary"] * len(TASKS),
            task_names=TASKS,
            device=device,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self.model.compile("adam", loss=["binary_crossentropy"] * len(TASKS))

    def train(self, rows: Examples, batch: int) -> None:
        model = self.model.train()
        inputs = self._inputs(rows)
        for index in _shuffled(len(rows), batch, inputs.device):
            predicted, labels = model(inputs[index]), rows.targets[index]
            model.optim.zero_grad()
            losses = [
                loss(predicted[:, task], labels[:, task], reduction="sum") for task, loss in enumerate(model.loss_func)
            ]
            (sum(losses) + model.get_regularization_loss() + model.aux_loss).backward()
            model.optim.step()

    @torch.no_grad()
    def infer(self, rows: Examples, batch: int) -> Tensor:
        model, inputs = self.model.eval(), self._inputs(rows)
        return torch.cat([model(inputs[piece]) for piece in _pieces(len(rows), batch)])

    def _inputs(self, rows: Examples) -> Tensor:
        """It takes ids as floats, next to the numbers; cached, so that the conversion is not timed."""
        if getattr(self, "rows", None) is not rows:
            self.rows, self.floats = rows, torch.cat([rows.inputs.sparse.float(), rows.inputs.dense], 1)
        return self.floats


class Rechub:
    """torch-rechub 0.9.0."""

    def __init__(self, vocabulary: int, *, device: str = "cpu") -> None:
        from torch_rechub.basic.features import DenseFeature, SparseFeature
        from torch_rechub.models.multi_task import MMOE

        torch.manual_seed(0)
        features = [SparseFeature(f"sparse_{each}", vocabulary, embed_dim=DIM) for each in range(SPARSE)]
        features += [DenseFeature(f"dense_{each}") for each in range(DENSE)]
        self.model = MMOE(
            features,
            ["classification"] * len(TASKS),
            EXPERTS,
            {"dims": list(EXPERT_UNITS)},
            [{"dims": list(TOWER_UNITS)} for _ in TASKS],
        ).to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters())
        self.loss = nn.BCELoss()

    def train(self, rows: Examples, batch: int) -> None:
        model = self.model.train()
        columns = self._columns(rows)
        for index in _shuffled(len(rows), batch, rows.targets.device):
            predicted = model({name: column[index] for name, column in columns.items()})
            labels = rows.targets[index]
            losses = [self.loss(predicted[:, task], labels[:, task]) for task in range(len(TASKS))]
            loss = sum(losses) / len(losses)
            model.zero_grad()
            loss.backward()
            self.optimiser.step()

    @torch.no_grad()
    def infer(self, rows: Examples, batch: int) -> Tensor:
        model, columns = self.model.eval(), self._columns(rows)
        return torch.cat(
            [model({name: each[piece] for name, each in columns.items()}) for piece in _pieces(len(rows), batch)]
        )

    def _columns(self, rows: Examples) -> dict[str, Tensor]:
        """It takes one tensor per column; cached, so that the conversion is not timed."""
        if getattr(self, "rows", None) is not rows:
            sparse = {f"sparse_{each}": column.contiguous() for each, column in enumerate(rows.inputs.sparse.t())}
            dense = {f"dense_{each}": column.contiguous() for each, column in enumerate(rows.inputs.dense.t())}
            self.rows, self.columns = rows, sparse | dense
        return self.columns


def _pieces(rows: int, batch: int) -> Iterator[slice]:
    return (slice(start, start + batch) for start in range(0, rows, batch))


def _shuffled(rows: int, batch: int, device: torch.device) -> Iterator[Tensor]:
    return iter(torch.randperm(rows, device=device).split(batch))
