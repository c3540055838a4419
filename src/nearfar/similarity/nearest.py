"""The k nearest columns of every row, exactly, over slabs: what search, mining and evaluation share.

Decisions. A scan in a fast precision finds every column that could be among the k nearest: those whose score is within twice a proven error bound of
the k-th best. They alone are scored again, in float64, and ordered by that. So the answer is the same whatever the slab, the precision of
the scan or the number of threads, and equals a stable sort of the exact scores, rounded to float32.
The bound (Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1, and Cauchy-Schwarz): with q', c' the rows as rounded for the scan,
|fl(q' . c') - q . c| <= |q' - q| |c'| + |q| |c' - c| + gamma_d |q'| |c'| + u |fl(q' . c')|, where u is the rounding of the result.
The largest of a slab are found through groups of columns: the m largest numbers lie in the m groups of largest maximum.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearfar.errors import BadInput, Mismatch
from nearfar.similarity.products import multiplies_bfloat16
from nearfar.similarity.slabs import slab_ranges, slab_rows
from nearfar.types import Hits

PANEL = 1 << 17
"""Columns scanned at a time in bfloat16, fewer of wider numbers: bounds the copy that is made of them for the scan."""
MEASURED_ROWS = 4096
"""Rows whose lengths are taken at a time: they stay in the cache."""
RESCORED_BYTES = 32 << 20
"""Memory of the candidates that are scored again at a time."""
WORTH_BFLOAT16 = 1 << 30
"""Multiplications below which a scan in bfloat16 saves nothing."""


def topk(
    queries: np.ndarray | Tensor,
    candidates: np.ndarray | Tensor,
    k: int,
    *,
    rows_per_slab: int | None = None,
    exclude: np.ndarray | Tensor | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
) -> Hits:
    """The `k` candidates [n, d] of largest dot product with each query [b, d], best first, ties by ascending column.

    `exclude` [b] int64 names one column per row to leave out (-1: none). Where fewer than k candidates are left the ids are -1 and
    the scores minus infinity. `precision` is what the scan multiplies in (None: bfloat16 where the device multiplies it itself and there is much to do); it
    changes the time, never the answer. Time O(b n d), memory one slab and, for a scan in bfloat16, a copy of 131,072 columns. Raises `BadInput` for k < 1
    and rows that are not finite, `Mismatch` for unequal widths.
    """
    if k < 1:
        raise BadInput(f"k: expected at least 1, found {k}.")
    q, c = _floats(queries), _floats(candidates)
    if q.ndim != 2 or c.ndim != 2 or q.shape[1] != c.shape[1]:
        raise Mismatch(
            f"queries of shape {tuple(q.shape)} cannot be compared with candidates of shape {tuple(c.shape)}: the widths must be equal."
        )
    b, n = len(q), len(c)
    ids = np.full((b, k), -1, dtype=np.int64)
    scores = np.full((b, k), -np.inf, dtype=np.float32)
    if not b or not n:
        return Hits(ids, scores)
    kept = min(k, n)
    left_out = None if exclude is None else torch.as_tensor(exclude, device=q.device)
    with torch.inference_mode():
        scan = _Scan(q, c, _scan_dtype(q, c, precision), left_out, rows_per_slab)
        room = 4 * kept + 32 if scan.is_rounded else kept + 8
        best, where = _settled(scan, torch.arange(b, device=q.device), kept, min(room, n))
    scores[:, :kept], ids[:, :kept] = best.float().cpu().numpy(), where.cpu().numpy()
    ids[np.isneginf(scores)] = -1
    return Hits(ids, scores)


def _floats(rows: np.ndarray | Tensor) -> Tensor:
    found = torch.as_tensor(rows)
    return found if found.dtype in (torch.float32, torch.float64) else found.float()


def _scan_dtype(q: Tensor, c: Tensor, precision: str | None) -> torch.dtype:
    if precision not in (None, "float32", "bfloat16"):
        raise BadInput(f"precision: found {precision!r}. Choose float32 or bfloat16, or leave it out.")
    own = _own_dtype(q, c)
    if precision is None:
        is_worth = own == torch.float32 and q.numel() * len(c) >= WORTH_BFLOAT16
        return torch.bfloat16 if is_worth and multiplies_bfloat16(q.device) else own
    return torch.bfloat16 if precision == "bfloat16" else own


def _own_dtype(q: Tensor, c: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, c.dtype)


class _Largest(NamedTuple):
    """The m largest scanned scores of each row, best first, and their columns."""

    values: Tensor
    columns: Tensor


class _Scan:
    """Scores of rows against all columns in the scan's dtype, and how far they may be from exact."""

    def __init__(
        self, queries: Tensor, candidates: Tensor, dtype: torch.dtype, left_out: Tensor | None, rows_per_slab: int | None
    ) -> None:
        self.queries, self.candidates, self.dtype, self.left_out = queries, candidates, dtype, left_out
        self.is_rounded = dtype == torch.bfloat16
        self._rows_per_slab = rows_per_slab
        self._rounded = queries.to(dtype)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        length, error = _lengths("queries", queries, dtype, wide)
        lengths, errors = _lengths("candidates", candidates, dtype, wide)
        longest, farthest = float(lengths.max()), float(errors.max())
        # gamma_d of sums kept in `wide`, doubled for the rounding of these norms themselves
        summing = 2 * (queries.shape[1] + 2) * torch.finfo(wide).eps
        self._bound = error * (longest + farthest) + length * farthest + summing * (length + error) * (longest + farthest)

    def finer(self, rows: Tensor) -> _Scan | None:
        """The scan of these rows [r] alone in the next finer precision: after bfloat16 the rows' own, after float32 float64; None where there is none."""
        if self.dtype == torch.float64:
            return None
        dtype = _own_dtype(self.queries, self.candidates) if self.is_rounded else torch.float64
        left_out = None if self.left_out is None else self.left_out[rows]
        return _Scan(self.queries[rows], self.candidates, dtype, left_out, self._rows_per_slab)

    def bound(self, rows: Tensor, near: Tensor) -> Tensor:
        """No exact score of these rows [r] that was scanned as `near` [r, 1] is farther from it than this [r, 1].

        The 2 % are for scores a little farther from zero than `near`, whose own rounding is larger by the same little.
        """
        return 1.02 * (self._bound[rows][:, None] + torch.finfo(self.dtype).eps / 2 * near.abs())

    def largest(self, rows: Tensor, m: int) -> _Largest:
        """The m largest of these rows [r], panel after panel of columns, slab after slab of rows."""
        found: _Largest | None = None
        n = len(self.candidates)
        for first, last in slab_ranges(n, PANEL * 2 // max(2, self._rounded.element_size())):
            panel = self.candidates[first:last].to(self.dtype).T
            parts = []
            height = self._rows_per_slab or slab_rows(last - first, element_size=panel.element_size(), device=panel.device)
            out = torch.empty(min(height, len(rows)), last - first, dtype=self.dtype, device=panel.device)
            for start, stop in slab_ranges(len(rows), height):
                chosen = rows[start:stop]
                slab = torch.mm(self._rounded[chosen], panel, out=out[: stop - start])
                if self.left_out is not None:
                    own = self.left_out[chosen]
                    there = ((own >= first) & (own < last)).nonzero()[:, 0]
                    slab[there, own[there] - first] = -torch.inf
                parts.append(_largest(slab, min(m, last - first)))
            here = _Largest(*(torch.cat(list(part)) for part in zip(*parts, strict=True)))
            here = here._replace(columns=here.columns + first)
            found = here if found is None else _merged(found, here, m)
        assert found is not None
        return found


def _lengths(name: str, rows: Tensor, dtype: torch.dtype, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """The length of each row and of what rounding to `dtype` takes from it. Raises `BadInput` naming a row that is not finite."""
    length = torch.empty(len(rows), dtype=wide, device=rows.device)
    error = torch.zeros_like(length)
    for start, stop in slab_ranges(len(rows), MEASURED_ROWS):
        part = rows[start:stop]
        torch.linalg.vector_norm(part.to(wide), dim=1, out=length[start:stop])
        if dtype != rows.dtype:
            torch.linalg.vector_norm(part.to(dtype).to(wide) - part, dim=1, out=error[start:stop])
    if not bool(length.isfinite().all()):
        wrong = (~rows.isfinite().all(dim=1)).nonzero()[:, 0]
        if len(wrong):
            raise BadInput(
                f"{name}: row {int(wrong[0])} is not finite ({len(wrong):,} such). A model that gives such rows has diverged or is damaged."
            )
    return length, error


def _largest(slab: Tensor, m: int) -> _Largest:
    """The m largest numbers of each row of a slab [r, n], through the maxima of groups of columns."""
    r, n = slab.shape
    size = math.isqrt(n // m)
    if size < 4:
        return _Largest(*torch.topk(slab.float() if slab.dtype == torch.bfloat16 else slab, m, dim=1))
    groups = n // size
    # group j is columns j, j + groups, j + 2 groups...: its maximum is taken over whole rows of numbers at once
    maxima = slab[:, : groups * size].unflatten(1, (size, groups)).amax(dim=1)
    chosen = torch.topk(maxima.float(), m, dim=1).indices
    columns = (chosen[:, :, None] + groups * torch.arange(size, device=slab.device)).flatten(1)
    rest = torch.arange(groups * size, n, device=slab.device).expand(r, -1)
    columns = torch.cat([columns, rest], dim=1)
    values, where = torch.topk(slab.gather(1, columns).float(), m, dim=1)
    return _Largest(values, columns.gather(1, where))


def _merged(a: _Largest, b: _Largest, m: int) -> _Largest:
    values, where = torch.topk(torch.cat([a.values, b.values], dim=1), min(m, a.values.shape[1] + b.values.shape[1]), dim=1)
    return _Largest(values, torch.cat([a.columns, b.columns], dim=1).gather(1, where))


def _settled(scan: _Scan, rows: Tensor, k: int, m: int) -> tuple[Tensor, Tensor]:
    """The k best columns of these rows by exact score, from the m largest of the scan, or more where those do not settle it."""
    found = scan.largest(rows, m)
    bar = found.values[:, k - 1 : k]
    floor = bar - 2 * scan.bound(rows, bar)
    could = (found.values >= floor) & ~found.values.isneginf()
    best, where = _ordered(scan, rows, found.columns, could, k)
    unsettled = could[:, -1].nonzero()[:, 0]
    if m < len(scan.candidates) and len(unsettled):
        # what one precision cannot tell apart (rows that nearly fall together) the next does, with far fewer to score again
        again, room, finer = rows[unsettled], 8 * m, scan.finer(rows[unsettled])
        if finer is not None:
            scan, again, room = finer, torch.arange(len(again), device=again.device), k + 8
        best[unsettled], where[unsettled] = _settled(scan, again, k, min(room, len(scan.candidates)))
    return best, where


def _ordered(scan: _Scan, rows: Tensor, columns: Tensor, could: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of the columns [r, m] that could be among them, by exact score, then by column."""
    exact = torch.full(columns.shape, -torch.inf, dtype=torch.float64, device=columns.device)
    at_once = max(1, RESCORED_BYTES // (8 * scan.queries.shape[1] * columns.shape[1]))
    for start, stop in slab_ranges(len(rows), at_once):
        row, place = could[start:stop].nonzero(as_tuple=True)
        asked = scan.queries[rows[start:stop]].double()
        given = scan.candidates[columns[start:stop][row, place]].double()
        exact[start:stop][row, place] = torch.einsum("pd,pd->p", asked[row], given)
    exact = exact.float()
    by_column = columns.argsort(dim=1)
    exact, columns = exact.gather(1, by_column), columns.gather(1, by_column)
    by_score = exact.argsort(dim=1, descending=True, stable=True)[:, :k]
    return exact.gather(1, by_score), columns.gather(1, by_score)
