"""The k nearest columns of every row, exactly, over slabs: what search, mining and evaluation share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import BadInput, Mismatch
from nearfar.similarity.slabs import slab_ranges, slab_rows
from nearfar.types import Hits


def topk(
    queries: np.ndarray | Tensor,
    candidates: np.ndarray | Tensor,
    k: int,
    *,
    rows_per_slab: int | None = None,
    exclude: np.ndarray | Tensor | None = None,
) -> Hits:
    """The `k` candidates [n, d] of largest dot product with each query [b, d], best first, ties by ascending column.

    `exclude` [b] int64 names one column per row to leave out (-1: none). Where fewer than k candidates are left the ids are -1 and
    the scores minus infinity. Time O(b n d), memory one slab. Raises `BadInput` for k < 1, `Mismatch` for unequal widths.
    """
    if k < 1:
        raise BadInput(f"k: expected at least 1, found {k}.")
    q, c = torch.as_tensor(queries), torch.as_tensor(candidates)
    if q.ndim != 2 or c.ndim != 2 or q.shape[1] != c.shape[1]:
        raise Mismatch(
            f"queries of shape {tuple(q.shape)} cannot be compared with candidates of shape {tuple(c.shape)}: the widths must be equal."
        )
    b, n = len(q), len(c)
    ids = np.full((b, k), -1, dtype=np.int64)
    scores = np.full((b, k), -np.inf, dtype=np.float32)
    left_out = None if exclude is None else torch.as_tensor(exclude)
    kept = min(k, n)
    for start, stop in slab_ranges(b if n else 0, rows_per_slab or slab_rows(n, element_size=c.element_size())):
        with torch.inference_mode():
            slab = q[start:stop] @ c.T
            if left_out is not None:
                rows = (left_out[start:stop] >= 0).nonzero()[:, 0]
                slab[rows, left_out[start:stop][rows]] = -torch.inf
            best, where = _stable_topk(slab, kept)
        scores[start:stop, :kept] = best.float().cpu().numpy()
        ids[start:stop, :kept] = where.cpu().numpy()
    ids[np.isneginf(scores)] = -1
    return Hits(ids, scores)


def _stable_topk(slab: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk with ties in order of column: where the k-th value has equals beyond the chosen, those rows are sorted whole."""
    best, where = torch.topk(slab, k, dim=1)
    unsettled = (slab >= best[:, -1:]).sum(dim=1) > k
    if bool(unsettled.any()):
        order = torch.sort(slab[unsettled], dim=1, descending=True, stable=True)
        best[unsettled], where[unsettled] = order.values[:, :k], order.indices[:, :k]
    # within the chosen, equal scores by ascending column: sort by column, then stably by score
    by_column = where.argsort(dim=1)
    best, where = best.gather(1, by_column), where.gather(1, by_column)
    by_score = best.argsort(dim=1, descending=True, stable=True)
    return best.gather(1, by_score), where.gather(1, by_score)
