"""A trained network over any number of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.inputs.encoded import Encoded
from model.inputs.lookup import PADDING
from model.network.multitask import MultiTaskModel

SCORING_ROWS = 2048


@torch.inference_mode()
def score(network: MultiTaskModel, inputs: Encoded) -> Tensor:
    """Outputs (n, T) in evaluation mode: the logit of each binary task, the standardised value of each
    regression."""
    network.eval()
    return run_in_pieces(network, inputs)


def run_in_pieces(function: Callable[..., Tensor], inputs: Encoded) -> Tensor:
    """A function of encoded rows, (n, ...), over pieces of equal size.

    Every product is over the same number of rows, the last filled up: products over a few rows round
    otherwise than those over many, and a row's score must not depend on which rows are scored with it.
    """
    fill = (0, 0, 0, -len(inputs) % SCORING_ROWS)
    sparse, dense, lists = inputs.tensors
    padded = (pad(sparse, fill), pad(dense, fill), pad(lists, fill, value=PADDING))
    pieces = zip(*(each.split(SCORING_ROWS) for each in padded), strict=True)
    return torch.cat([function(*piece) for piece in pieces])[: len(inputs)]
