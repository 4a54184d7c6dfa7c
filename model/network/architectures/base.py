"""The interface of every architecture: one representation of each row per task."""

from __future__ import annotations

from torch import Tensor, nn


class Architecture(nn.Module):
    """Maps the input to one representation per task.

    **Shape**: (n, in), or (n, T, in) if tasks have embeddings of their own -> (n, T, ``out_features``).
    """

    out_features: int

    def penalty(self, logits: Tensor) -> Tensor:
        """The architecture's term in the loss, a scalar, given the model's logits (n, T); 0 for most."""
        return logits.new_zeros(())

    def expert_weights(self, x: Tensor) -> Tensor:
        """Each task's gate weights, (n, T, k), which sum to 1 over the k experts.

        Raises:
            ValueError: The architecture has no gates.
        """
        raise ValueError(f"{type(self).__name__} has no gates to inspect")
