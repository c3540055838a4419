"""How much of a batch is known, or thought, to be no negative: in-batch false negatives as shares, for the log of steps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.similarity import slab_ranges, slab_rows
from nearfar.types import Targets


def left_out_share(targets: Targets, rows: int, columns: int) -> float:
    """The share of (row, other column) pairs that texts and groups leave out as no negatives: in-batch false negatives that are known.

    What a guide finds besides is `guide_left_out`. O(rows x columns) booleans, a slab at a time, and nothing where no id is shared.
    """
    if columns < 2 or (targets.row_groups is None and targets.column_items is None and targets.column_owners is None):
        return 0.0
    masks = (targets.slab(a, b).valid for a, b in slab_ranges(rows, slab_rows(columns, element_size=1)))
    return sum(int((~mask).sum()) for mask in masks if mask is not None) / (rows * (columns - 1))


def guide_left_out(
    queries: Float[Tensor, "b g"], candidates: Float[Tensor, "n g"], targets: Targets, *, margin: float = 0.0
) -> float:
    """The share of (row, other column) pairs that the guide finds nearer than the row's positive less `margin`: likely false negatives, which
    `gist` leaves out (Solatorio 2024, arXiv 2402.16829, section 3). One multiply of the guide's rows, a slab at a time.
    """
    b, n = len(queries), len(candidates)
    own = torch.arange(b) if targets.positive is None else targets.positive.cpu()
    limit = (queries * candidates[own]).sum(dim=1) - margin
    above = 0
    for start, stop in slab_ranges(b, slab_rows(n)):
        nearer = queries[start:stop] @ candidates.T > limit[start:stop, None]
        nearer[torch.arange(stop - start), own[start:stop]] = False
        above += int(nearer.sum())
    return above / max(1, b * (n - 1))
