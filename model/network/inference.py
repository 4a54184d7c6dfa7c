"""Inference: a trained network applied to any number of rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.inputs.encoded import Encoded
from model.inputs.lookup import PADDING
from model.network.multitask import MultiTaskModel

SCORING_ROWS = {"cpu": 2048, "cuda": 65_536}
"""Rows per forward pass, by the kind of device: what fits a processor's caches leaves a GPU idle."""


@torch.inference_mode()
def score(network: MultiTaskModel, inputs: Encoded) -> Tensor:
    """Score rows in evaluation mode.

    **Shape**: n rows -> (n, T), the logit of each binary task and the standardised value of each regression.
    """
    network.eval()
    return run_in_pieces(network, inputs)


def run_in_pieces(function: Callable[..., Tensor], inputs: Encoded) -> Tensor:
    """Apply a function to encoded rows in pieces of equal size, and join the results, (n, ...).

    The last piece is padded, so that every matrix product has the same number of rows. Rounding depends on that number,
    and a row's score must not depend on which rows are scored with it.
    """
    sparse, dense, lists = inputs.tensors
    rows = SCORING_ROWS.get(sparse.device.type, SCORING_ROWS["cpu"])
    fill = (0, 0, 0, -len(inputs) % rows)
    padded = (pad(sparse, fill), pad(dense, fill), pad(lists, fill, value=PADDING))
    pieces = zip(*(each.split(rows) for each in padded), strict=True)
    return torch.cat([function(*piece) for piece in pieces])[: len(inputs)]
