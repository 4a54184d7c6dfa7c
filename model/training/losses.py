"""The masked losses of all tasks, and how they are combined into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from model.labels import Task


def task_losses(
    outputs: Tensor, targets: Tensor, weight: Tensor, *, binary: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """Each task's weighted mean loss: log loss or, for tasks that are not ``binary`` (T,), squared error.

    A target of weight 0 has no influence, whatever its value. ``total`` (T,) is the weight to divide by, if these rows
    are only part of a batch.

    **Shape**: ``outputs``, ``targets`` and ``weight`` (n, T) -> (T,).

    >>> task_losses(torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    losses = binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    if binary is not None:
        losses = torch.where(binary, losses, (outputs - targets).square())
    if total is None:
        total = weight.sum(0)
    return (losses * weight).masked_fill(weight == 0, 0.0).sum(0) / torch.where(total > 0, total, 1.0)


class TaskWeights(nn.Module):
    """Combines the tasks' losses into the one that is minimised: a weighted sum.

    With ``learned``, each task is also weighted by its own noise: Kendall, Gal and Cipolla, "Multi-task Learning Using
    Uncertainty to Weigh Losses", CVPR 2018, equations 7 and 10. With s = log sigma^2, the loss becomes
    exp(-s) L + s / 2 for a log loss and exp(-s) L / 2 + s / 2 for a squared error.

    **Shape**: (T,) -> a scalar.

    >>> TaskWeights([Task("click"), Task("register", loss_weight=0.5)], learned=False)(torch.tensor([1.0, 2.0]))
    tensor(2.)
    """

    fixed: Tensor
    scale: Tensor

    def __init__(self, tasks: Sequence[Task], *, learned: bool) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.tensor([task.loss_weight for task in tasks]), persistent=False)
        scale = torch.tensor([1.0 if task.kind == "binary" else 0.5 for task in tasks])
        self.register_buffer("scale", scale, persistent=False)
        self.log_variance = nn.Parameter(torch.zeros(len(tasks))) if learned else None

    def forward(self, losses: Tensor, *, share: float = 1.0) -> Tensor:
        """``share`` is this process's share of the batch, by which terms added once per step are scaled."""
        if self.log_variance is None:
            return (self.fixed * losses).sum()
        weighed = self.scale * (-self.log_variance).exp() * losses + share * self.log_variance / 2
        return (self.fixed * weighed).sum()
