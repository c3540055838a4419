"""The multiplies of one run over slabs, in one precision: similarities of some rows, and both gradients out of their pull.

Decisions. Sums are kept in float32 (float64 for float64 rows) whatever the multiplies run in. In bfloat16 a slab's logits are rounded once, on the
way out of the multiply; the `shift` is subtracted before that, by one more dimension, so that the rounding error of a logit near the top
of its row is small where it counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.multiplies import LARGEST_RESULT, linear, multiplies_better

Precision = Literal["float32", "bfloat16"]
"""What the multiplies of a slab run in."""


FAR = 8192.0
"""Logits that may lie this far apart are not multiplied in bfloat16: its rounding, 1 in 256 of a logit, would decide between them."""
NEAR = 60.0
"""Logits that lie no farther apart than this are at most half of it, and their exponentials and sums far from the ends of float32's range: no shift is needed."""


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 multiplies are faster than float32 on this device: AVX-512 BF16 or AMX on a CPU, compute capability 8 on CUDA."""
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported()) or has_tiles()
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def has_tiles() -> bool:
    """Whether this processor multiplies bfloat16 by tiles: Intel's AMX."""
    return bool(torch.cpu._is_amx_tile_supported())


def slab_dtype(
    rows: Tensor,
    precision: Precision | None,
    columns: Sequence[Tensor | None] = (),
    temperature: Tensor | None = None,
    far: float = FAR,
) -> torch.dtype:
    """What the multiplies run in: as asked, else autocast's bfloat16 where it is on, else the rows' own dtype.

    Where logits of these rows and `columns` over `temperature` may lie further apart than `far`, bfloat16 gives way to float32. float16 is multiplied as float32: its range ends at 65,504, and exponentials leave it. Raises `BadInput` for an unknown precision.
    """
    if precision is not None:
        if precision not in get_args(Precision):
            raise BadInput(f"precision: found {precision!r}. Choose float32 or bfloat16, or leave it out.")
        found = torch.float32 if precision == "float32" else torch.bfloat16
    else:
        kind = rows.device.type
        is_cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        found = torch.bfloat16 if is_cast and rows.dtype != torch.float64 else rows.dtype
        found = torch.float32 if found == torch.float16 else found
    if found == torch.bfloat16 and temperature is not None:
        longest = max((_longest(part) for part in columns if part is not None and len(part)), default=0.0)
        if 2 * _longest(rows) * longest > far * float(temperature):
            return wide_dtype(rows)
    return found


def _longest(rows: Tensor) -> float:
    return float(rows.detach().to(wide_dtype(rows)).norm(dim=1).max())


def wide_dtype(rows: Tensor) -> torch.dtype:
    """What sums, losses and row statistics are kept in: float64 for float64 rows, else float32."""
    return torch.float64 if rows.dtype == torch.float64 else torch.float32


class Products:
    """Multiplies of queries [b, d] and candidates [n, d] in `dtype`; the first `grad_columns` candidates (default all) take gradients."""

    def __init__(self, queries: Tensor, candidates: Tensor, dtype: torch.dtype, *, grad_columns: int | None = None) -> None:
        self.dtype, self.wide = dtype, wide_dtype(queries)
        self.grad_columns = len(candidates) if grad_columns is None else grad_columns
        self.columns, self.d = len(candidates), queries.shape[1]
        self._queries = queries
        self.is_narrow = dtype != self.wide
        if self.is_narrow:
            # the last dimension carries the shift
            self._candidates = torch.ones(len(candidates), self.d + 1, dtype=dtype, device=candidates.device)
            self._candidates[:, : self.d] = candidates
        else:
            # in one piece: some columns of wider rows would be copied for every slab
            self._candidates = candidates.to(dtype).contiguous()
        self._by_onednn = multiplies_better(self._candidates)

    def logits(
        self, start: int, stop: int, scale: float, shift: Float[Tensor, " r"] | None = None, out: Tensor | None = None
    ) -> Float[Tensor, "r n"]:
        """Dot products of rows start:stop with all candidates, times `scale`, less each row's `shift` (a number that `round_shift` gave).

        They are in `out` where that is the faster way, else in memory of their own.
        """
        rows = self._queries[start:stop]
        if self.is_narrow:
            left = torch.empty(len(rows), self.d + 1, dtype=self.dtype, device=rows.device)
            left[:, : self.d] = rows * scale
            left[:, self.d] = 0 if shift is None else -shift
            return torch.mm(left, self._candidates.T, out=out)
        scaled = rows.to(self.wide) * scale
        shift = None if shift is None or not bool(shift.any()) else shift
        if self._by_onednn and len(rows) * self.columns * scaled.element_size() <= LARGEST_RESULT:
            found = linear(scaled, self._candidates)
            return found if shift is None else found.sub_(shift[:, None])
        if shift is None:
            return torch.mm(scaled, self._candidates.T, out=out)
        return torch.addmm(-shift[:, None], scaled, self._candidates.T, out=out)

    def reach(self, scale: float) -> float:
        """No logit is farther than this from another of its row: twice the longest query times the longest candidate times `scale`."""
        longest = [float(rows.to(self.wide).norm(dim=1).max()) for rows in (self._queries, self._candidates[:, : self.d])]
        return 2 * longest[0] * longest[1] * scale

    def shift_near(self, reference: Tensor, reach: float) -> Tensor:
        """The shift to subtract from logits that lie about `reference` [r] and within `reach` of it: none (zeros) where none is needed."""
        return torch.zeros_like(reference) if reach <= NEAR and not self.is_narrow else self.round_shift(reference)

    def round_shift(self, shift: Tensor) -> Tensor:
        """The nearest numbers that a shift can be in this precision, in the wide dtype."""
        return shift.to(self.dtype).to(self.wide)

    def to_queries(self, pull: Float[Tensor, "r n"]) -> Float[Tensor, "r d"]:
        """Sum over columns of pull x candidate, in the wide dtype."""
        if self._by_onednn:
            return linear(pull, self._candidates.T)
        return torch.mm(pull, self._candidates)[:, : self.d].to(self.wide)

    def to_candidates(self, pull: Float[Tensor, "r n"], rows: Float[Tensor, "r d"], into: Float[Tensor, "g d"]) -> None:
        """Add the sum over rows of pull x row to `into`, the gradient of the first columns."""
        left = pull[:, : self.grad_columns].T
        if self.is_narrow:
            into.add_(torch.mm(left, rows.to(self.dtype)))
        else:
            into.addmm_(left, rows)
