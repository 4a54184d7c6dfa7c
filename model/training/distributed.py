"""Several processes train one model: each reads its part of the rows, and gradients are summed.

They are started by ``torchrun``, in a process group that the caller has initialised; a single process is a group of
one. Losses are divided by the weights of the whole batch, so that their sum over processes is what a single process
would have computed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn


def count_processes() -> int:
    """Count the processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first_process() -> bool:
    """Whether this process is the first, the one that writes files."""
    return count_processes() == 1 or distributed.get_rank() == 0


def get_own_part(rows: int) -> slice:
    """Get this process's part of the rows: every row has one process, and parts differ by at most one row."""
    number = 0 if count_processes() == 1 else distributed.get_rank()
    each, over = divmod(rows, count_processes())
    start = number * each + min(number, over)
    return slice(start, start + each + (number < over))


def sum_over_processes(values: Tensor) -> Tensor:
    """Add up the values of all processes."""
    if count_processes() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def gather(values: Tensor) -> tuple[Tensor, int]:
    """Gather the values (n,) of all processes, in order, and the position where this process's begin."""
    if count_processes() == 1:
        return values, 0
    sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(count_processes())]
    distributed.all_gather(sizes, torch.tensor([len(values)], device=values.device))
    lengths = [int(size) for size in sizes]
    padded = [values.new_zeros(max(lengths)) for _ in lengths]
    distributed.all_gather(padded, nn.functional.pad(values, (0, max(lengths) - len(values))))
    parts = [part[:length] for part, length in zip(padded, lengths, strict=True)]
    return torch.cat(parts), sum(lengths[: distributed.get_rank()])


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Add up the gradients of all processes, in one exchange."""
    if count_processes() == 1:
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    flat = torch.cat([each.flatten() for each in gradients])
    distributed.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
