"""What every architecture is: one representation of each row per task."""

from __future__ import annotations

from torch import Tensor, nn


class Architecture(nn.Module):
    """Maps the input to one representation per task.

    **Shape**: (n, in), or (n, T, in) where tasks embed their inputs apart -> (n, T, ``out_features``).
    """

    out_features: int

    def penalty(self, logits: Tensor) -> Tensor:
        """A scalar that the architecture adds to the loss, given its model's logits (n, T); 0 for most."""
        return logits.new_zeros(())

    def expert_weights(self, x: Tensor) -> Tensor:
        """How much of each expert's output every task takes: (n, T, k), each row summing to 1.

        Raises ValueError for an architecture without gates.
        """
        raise ValueError(f"{type(self).__name__} has no gates to look at")
