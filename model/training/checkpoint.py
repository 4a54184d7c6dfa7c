"""The state of a training as one file, from which a killed run resumes and ends in the same weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.training.touched_rows import TouchedRows

FILE = "checkpoint.safetensors"
FORMAT = 2
"""Increase when the state's tensors change, so that a checkpoint of older code is rejected, not half read."""


@dataclass
class TrainingState:
    """Everything a step depends on. ``epoch`` counts from 1; ``batch`` is the number of its batches done."""

    network: nn.Module
    weights: nn.Module
    optimiser: torch.optim.Optimizer
    device: torch.device
    tables: Sequence[TouchedRows] = ()
    epoch: int = 1
    batch: int = 0
    best: float = float("inf")
    stale: int = 0
    best_weights: dict[str, Tensor] | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        kept = {f"network/{name}": each for name, each in self.network.state_dict().items()}
        kept |= {f"weights/{name}": each for name, each in self.weights.state_dict().items()}
        kept |= {f"best/{name}": each for name, each in (self.best_weights or {}).items()}
        for index, values in self.optimiser.state_dict()["state"].items():
            kept |= {f"optimiser/{index}/{name}": each for name, each in values.items()}
        for index, table in enumerate(self.tables):
            kept |= {f"tables/{index}/{name}": each for name, each in table.get_state().items()}
        kept["random/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            kept["random/cuda"] = torch.cuda.get_rng_state(self.device)
        return {name: each.detach().contiguous().clone() for name, each in kept.items()}

    def restore(self, kept: dict[str, Tensor]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): each for name, each in kept.items() if name.startswith(prefix)}

        self.network.load_state_dict(under("network/"))
        self.weights.load_state_dict(under("weights/"))
        self.best_weights = {name: each.to(self.device) for name, each in under("best/").items()} or None
        moments: dict[int, dict[str, Tensor]] = {}
        for name, each in under("optimiser/").items():
            index, value = name.split("/")
            moments.setdefault(int(index), {})[value] = each
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        for number, table in enumerate(self.tables):
            table.restore(under(f"tables/{number}/"))
        torch.set_rng_state(kept["random/cpu"])
        if "random/cuda" in kept:
            torch.cuda.set_rng_state(kept["random/cuda"], self.device)


class Checkpoint:
    """A folder that holds the last saved state. ``training`` identifies the training it belongs to."""

    def __init__(self, folder: str | Path, *, training: str) -> None:
        self.path = Path(folder) / FILE
        self.training = f"{FORMAT} {training}"

    def save(self, state: TrainingState) -> None:
        """Replace the saved state, completely or not at all."""
        standing = {"epoch": state.epoch, "batch": state.batch, "best": state.best, "stale": state.stale}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".unfinished")
        safetensors.torch.save_file(
            state.to_tensors(), draft, metadata={"training": self.training, "standing": json.dumps(standing)}
        )
        draft.replace(self.path)

    def load(self, state: TrainingState) -> bool:
        """Restore the saved state; return whether there was one.

        Raises:
            ValueError: The file is damaged, or belongs to another training.
        """
        if not self.path.exists():
            return False
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} is damaged ({error}): delete it to train from the start") from error
        if metadata.get("training") != self.training:
            raise ValueError(
                f"{self.path} belongs to a training with other data, options or code: delete it, or name another folder"
            )
        for name, value in json.loads(metadata["standing"]).items():
            setattr(state, name, value)
        state.restore(kept)
        return True
