"""Tasks with bottoms of their own: independent, or pulled towards each other."""

from __future__ import annotations

from torch import Tensor

from model.network.architectures.base import Architecture
from model.network.layers import StackedMLP


class SeparateBottoms(Architecture):
    """One network per task.

    With embeddings per task, these are T single-task models side by side; with shared embeddings, below the chain
    head, this is ESMM (Ma et al., "Entire Space Multi-Task Model", SIGIR 2018).

    **Shape**: (n, in) or (n, T, in) -> (n, T, ``out_features``).

    >>> import torch
    >>> SeparateBottoms(StackedMLP(3, 10, (16,)))(torch.ones(5, 10)).shape
    torch.Size([5, 3, 16])
    """

    def __init__(self, bottoms: StackedMLP) -> None:
        super().__init__()
        self.bottoms = bottoms
        self.out_features = bottoms.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.bottoms(x)


class L2Constrained(SeparateBottoms):
    """Separate bottoms whose weights are pulled together: the loss gains alpha sum_{t<u} |w_t - w_u|^2.

    Duong et al., "Low Resource Dependency Parsing", ACL 2015, as in section 5.1 of the MMoE paper (Ma et al., KDD
    2018), where there are two tasks; here any number.

    >>> import torch
    >>> model = L2Constrained(StackedMLP(2, 1, (1,)), alpha=0.5)
    >>> for weight in model.parameters():
    ...     _ = weight.data.copy_(torch.tensor([1.0, 3.0]).reshape(weight.shape))
    >>> model.penalty(torch.zeros(5, 2))  # a weight and a bias, 2 apart each
    tensor(4., grad_fn=<MulBackward0>)
    """

    def __init__(self, bottoms: StackedMLP, *, alpha: float) -> None:
        super().__init__(bottoms)
        self.alpha = alpha

    def penalty(self, logits: Tensor) -> Tensor:
        # Squared distances over all pairs sum to T times the squared distances from the mean.
        distances = [(weight - weight.mean(0)).square().sum() for weight in self.bottoms.parameters()]
        return self.alpha * self.bottoms.k * sum(distances, logits.new_zeros(()))
