"""AdamW for embedding tables, at the cost of only the rows that a step touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from model.config import TrainConfig
from model.inputs.encoded import Encoded
from model.inputs.lookup import PADDING
from model.network.embeddings import StackedEmbedding
from model.network.multitask import MultiTaskModel
from model.training.distributed import gather

BETAS = (0.9, 0.999)
EPS = 1e-8
TINY = 1e-30
FLUSH_EVERY = 4096
"""Maximum steps between two updates of the whole table, which bounds what is kept per step."""
PIECE_ROWS = 2**16
"""Rows that a flush brings up to date at a time."""
WHOLE_BELOW = 4
"""On a GPU, a table of up to this many times the batch's ids is moved as a whole: there, streaming through all rows
costs less than picking some of them."""
MOMENTUM_REACH = 256
"""Momentum older than this many steps has decayed to 2e-12 of itself and is ignored."""


class TouchedRows:
    """AdamW (Loshchilov and Hutter, ICLR 2019) for one embedding table that moves only the rows of each batch.

    Dense AdamW moves every row at every step: a row without a gradient still has momentum, and decays. Those moves
    depend only on the row, so they can be made up for when the row is next looked up. With rate r, decay d, betas b1
    and b2, and a row's moments m and v after step s, its weights after t - s steps without it are

        w_t = D_t / D_s w_s - D_t sum_{s<j<=t} c_j m / (sqrt(v) + e_j),   D_j = prod_{i<=j} (1 - r_i d),
        c_j = (b1 / sqrt(b2))^(j - s) r_j sqrt(1 - b2^j) / (1 - b1^j) / D_j,   e_j = eps sqrt((1 - b2^j) / b2^(j - s)),

    which is the recursion written out. Two sums per s, of c_j and of c_j e_j, serve all rows last moved at s, with each
    e_j replaced by their mean, which only matters for gradients as small as ``eps``.

    Where a batch has nearly as many ids as the table has rows, a GPU moves the whole table, as dense AdamW does.

    ``take`` cuts a batch's rows out of the table, ``step`` moves them and puts them back, ``flush`` brings the whole
    table up to date. Between ``take`` and ``step``, the table looks up positions among the rows taken.
    """

    rows: Tensor
    """This step's parameter: the weights (n, dim) of the rows taken."""

    def __init__(self, table: StackedEmbedding, part: Literal["sparse", "lists"], *, weight_decay: float) -> None:
        weight = table.table.weight
        self.table, self.part, self.decay, self.device = table, part, weight_decay, weight.device
        self.compact = self.device.type == "cpu"
        """Whether a row that occurs several times in a batch is taken only once. Counting distinct rows would make the
        host wait for a GPU, so there each occurrence is taken, or the whole table."""
        self.moments = torch.zeros(len(weight), 2, weight.shape[1], device=self.device)
        """Each row's moments, side by side because they are always read and written together."""
        self.last = torch.zeros(len(weight), dtype=torch.int32, device=self.device)
        """The step since the last flush up to which each row is current."""
        self._owner = torch.zeros_like(self.last)
        self._ids: Tensor | None = None
        """The rows taken; None: all."""
        missed = torch.arange(MOMENTUM_REACH, 0, -1, device=self.device).double()
        fading = (BETAS[0] / BETAS[1] ** 0.5) ** missed
        self._fading = torch.stack([fading, fading * EPS / BETAS[1] ** (missed / 2.0)])
        self.steps = 0
        self._reset_sums()

    def take(self, inputs: Encoded) -> Encoded:
        """Cut a batch's rows out of the table, up to date and ready for a gradient.

        Returns:
            The batch with the rows' positions in place of its ids.
        """
        ids = inputs.sparse if self.part == "sparse" else inputs.lists
        positions = self._take((ids.clamp(min=0) + self.table.offsets).flatten()).view_as(ids)
        if self.part == "sparse":
            return replace(inputs, sparse=positions)
        return replace(inputs, lists=positions.masked_fill(ids == PADDING, PADDING))

    def _take(self, own: Tensor) -> Tensor:
        # All processes take the rows of the whole batch: their gradients then add up row by row.
        ids, start = gather(own)
        if not self.compact and len(self.last) <= WHOLE_BELOW * len(ids):
            self._take_whole()
            return own
        order = torch.arange(len(ids), dtype=torch.int32, device=self.device)
        self._owner[ids] = order
        owner = self._owner[ids]  # one occurrence of an id stands for all; cheaper than torch.unique
        if self.compact:
            stands = owner == order
            ids, owner = ids[stands], (stands.cumsum(0) - 1)[owner]
        self._ids, self._owners = ids, owner.long()
        last, weight, moments = (
            each.index_select(0, ids) for each in (self.last, self.table.table.weight.detach(), self.moments)
        )
        self._catch_up(weight, moments, last)
        self._moments = moments
        self.rows = self.table.taken = weight.requires_grad_()
        return self._owners[start : start + len(own)]

    def _take_whole(self) -> None:
        """Take every row: the dense step, whose rows without a gradient decay and keep their momentum."""
        weight = self.table.table.weight.detach()
        if not self._is_current:
            self._catch_up(weight, self.moments, self.last)
        self._ids, self._moments = None, self.moments
        self.rows = self.table.taken = weight.requires_grad_()

    def _catch_up(self, weight: Tensor, moments: Tensor, last: Tensor) -> None:
        """Apply the moves that rows (n, dim) have missed since their ``last`` one (n,), in place."""
        product, total, weighted = self.kept[:, : self.since + 1]
        missed = torch.arange(self.since, -1, -1, device=self.device).double()
        fading = [torch.as_tensor(beta) ** missed for beta in BETAS]
        sums = [self.product / product, self.product * total, weighted / total.clamp(min=TINY), *fading]
        # Computed once per step, of which there are few, and looked up per row.
        decay, shift, eps, first, second = torch.stack(sums, 1).float().index_select(0, last).unsqueeze(2).unbind(1)
        mean, square = moments.unbind(1)
        weight.mul_(decay).addcdiv_(mean * shift, square.sqrt().add_(eps).clamp_(min=TINY), value=-1.0)
        mean.mul_(first)
        square.mul_(second)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the rows taken by their gradient and put them back."""
        gradient, moments, rows = self.rows.grad, self._moments, self.rows.detach()
        mean, square = moments.unbind(1)
        assert gradient is not None
        self.steps += 1
        self.since += 1
        unbias = 1.0 - BETAS[0] ** self.steps, (1.0 - BETAS[1] ** self.steps) ** 0.5
        mean.lerp_(gradient, 1.0 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1.0 - BETAS[1])
        rows.mul_(1.0 - rate * self.decay)
        rows.addcdiv_(mean, square.sqrt().div_(unbias[1]).add_(EPS), value=-rate / unbias[0])
        if self._ids is None:  # the rows and moments moved are the table's own
            self.last.fill_(self.since)
        else:
            self._put_back(self._ids, rows, moments)
        self._is_current = self._ids is None
        self.product *= 1.0 - rate * self.decay
        first = max(self.since - MOMENTUM_REACH, 0)
        newest = self._fading[:, first - self.since :] * (rate * unbias[1] / unbias[0] / self.product)
        newest[1] *= unbias[1]
        self.kept[1:, first : self.since] += newest
        self.table.taken = None
        self.kept[0, self.since].fill_(self.product)  # the sums over the steps that follow begin
        if self.since == FLUSH_EVERY:
            self.flush()

    def _put_back(self, ids: Tensor, rows: Tensor, moments: Tensor) -> None:
        if not self.compact:  # copies of a row hold the same values, so any of them may be written
            rows, moments = (each.index_select(0, self._owners) for each in (rows, moments))
        self.table.table.weight.index_copy_(0, ids, rows)
        self.moments.index_copy_(0, ids, moments)
        self.last.index_fill_(0, ids, self.since)

    @torch.no_grad()
    def flush(self) -> None:
        """Bring every row up to date, in the table itself."""
        for start in range(0, len(self.last), PIECE_ROWS) if not self._is_current else ():
            rows = slice(start, start + PIECE_ROWS)
            self._catch_up(self.table.table.weight[rows], self.moments[rows], self.last[rows])
        self.last.zero_()
        self._reset_sums()

    def _reset_sums(self) -> None:
        """Restart the count of steps, with no row behind."""
        self.since, self.product, self._is_current = 0, 1.0, True
        self.kept = torch.zeros(3, FLUSH_EVERY + 1, dtype=torch.float64, device=self.device)
        """Per step s since the last flush: D_s, and the sums so far of c_j and of c_j e_j."""
        self.kept[0, 0].fill_(self.product)

    def get_state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, apart from the table's weights."""
        counts = torch.tensor([self.steps, self.since, self.product], dtype=torch.float64)
        return {"moments": self.moments, "last": self.last, "kept": self.kept, "counts": counts}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``get_state`` returned."""
        for name in ("moments", "last", "kept"):
            getattr(self, name).copy_(state[name])
        steps, since, self.product = state["counts"].tolist()
        self.steps, self.since, self._is_current = int(steps), int(since), False


def build_touched_rows(network: MultiTaskModel, config: TrainConfig) -> list[TouchedRows]:
    """Build one for each embedding table of ids and of lists."""
    tables = []
    if network.inputs.ids is not None:
        tables.append(TouchedRows(network.inputs.ids, "sparse", weight_decay=config.weight_decay))
    if network.inputs.lists is not None:
        tables.append(TouchedRows(network.inputs.lists.lookup, "lists", weight_decay=config.weight_decay))
    return tables
