"""Rows of a table as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Encoded:
    """n rows as tensors.

    **Shape**:

    - ``sparse`` int32 (n, S): one id per categorical.
    - ``dense`` float32 (n, D): one value per numeric, then one missing indicator per numeric that has one.
    - ``lists`` int32 (n, P): the ids of all categorical lists side by side, each padded with ``PADDING`` to its
      ``max_length`` columns.
    """

    sparse: Tensor
    dense: Tensor
    lists: Tensor

    def __len__(self) -> int:
        return len(self.sparse)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The network's arguments: ``network(*encoded.tensors)``."""
        return self.sparse, self.dense, self.lists

    def select(self, index: Tensor | slice) -> Encoded:
        return Encoded(*(tensor[index] for tensor in self.tensors))

    def to(self, device: torch.device, non_blocking: bool = False) -> Encoded:
        return Encoded(*(tensor.to(device, non_blocking=non_blocking) for tensor in self.tensors))

    @staticmethod
    def concatenate(parts: Sequence[Encoded]) -> Encoded:
        """Join the rows of all parts, in order."""
        return Encoded(*map(torch.cat, zip(*(part.tensors for part in parts), strict=True)))


class FeatureColumns(NamedTuple):
    """The columns of ``Encoded`` that belong to one feature; a numeric has its value and, perhaps, its indicator."""

    sparse: tuple[int, ...] = ()
    dense: tuple[int, ...] = ()
    lists: tuple[int, ...] = ()
