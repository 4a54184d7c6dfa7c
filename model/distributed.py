"""Several processes, one model: each takes its part of every batch, and gradients are summed.

Started by ``torchrun``, in a process group that the caller has initialised; a lone process is a group of one.
Losses are divided by the weights of the whole batch, so that the sum over processes is what one process would
have computed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from model.data import Examples


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return processes() == 1 or distributed.get_rank() == 0


def own_part(batch: Examples) -> Examples:
    """This process's rows of a batch that all processes drew alike."""
    if processes() == 1:
        return batch
    sizes = torch.arange(len(batch)).tensor_split(processes())[distributed.get_rank()]
    start = int(sizes[0]) if len(sizes) else 0
    return batch.rows(slice(start, start + len(sizes)))


def summed(values: Tensor) -> Tensor:
    """The sum over processes."""
    if processes() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in one exchange."""
    if processes() == 1:
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    flat = torch.cat([each.flatten() for each in gradients])
    distributed.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
