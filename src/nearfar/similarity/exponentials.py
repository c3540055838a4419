"""One slab as exponentials: exp(logit - shift) with a shift per row that the multiply itself subtracts.

Decisions. With a shift near the top of the row (the positive's logit) no pass for the row's maximum is needed: the sum cannot vanish beside the
positive, and where a column stands so far above that it would overflow, the slab is made again with the row's maximum as the shift.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.similarity.products import Products

CHUNK_ROWS = 64
"""Rows of a bfloat16 slab that are summed at a time: their float32 copy stays in cache."""


class Exponentials(NamedTuple):
    """`matrix` [r, n] exp(logit - shift), zero where left out and at the own column; `total` [r] its row sums, in the wide dtype."""

    matrix: Tensor
    total: Tensor
    shift: Tensor


def lowest(dtype: torch.dtype) -> float:
    """Below minus this an exponential is taken as exp of minus this: nothing beside 1, and no slow denormal number."""
    return 700.0 if dtype == torch.float64 else 80.0


def largest(dtype: torch.dtype) -> float:
    """A row sum above this is near the end of the range."""
    return 1e200 if dtype == torch.float64 else 1e20


def exponentials(
    products: Products,
    start: int,
    stop: int,
    scale: float,
    reference: Float[Tensor, " r"],
    own: Int[Tensor, " r"] | None,
    kept: Tensor | None,
    reach: float,
    out: Tensor,
) -> Exponentials:
    """The slab of rows start:stop about `reference`, or about its rows' maxima where it would overflow. `reach` as `Products.reach` gives.

    `kept` [r, n] is True where a column counts, or how much it counts (0 or more, a constant); None where all do, once.
    """
    made = exponentials_about(products, start, stop, scale, products.shift_near(reference, reach), own, kept, reach, out)
    if bool((made.total < largest(products.dtype)).all()):
        return made
    logits = products.logits(start, stop, scale, made.shift, out=out)
    weigh_logits(logits, own, kept)
    top = logits.amax(dim=1).to(products.wide)
    shift = products.round_shift(made.shift + top.masked_fill(top == -torch.inf, 0.0))
    return exponentials_about(products, start, stop, scale, shift, own, kept, reach, out)


def exponentials_about(
    products: Products,
    start: int,
    stop: int,
    scale: float,
    shift: Tensor,
    own: Tensor | None,
    kept: Tensor | None,
    reach: float,
    out: Tensor,
) -> Exponentials:
    """The slab about exactly this shift, overflowing or not."""
    matrix = products.logits(start, stop, scale, shift, out=out)
    floor = lowest(products.dtype)
    if reach > floor:
        matrix.clamp_(min=-floor)
    matrix.exp_()
    if kept is not None:
        matrix.mul_(kept) if kept.is_floating_point() else matrix.masked_fill_(~kept, 0.0)
    if own is not None:
        fill_own(matrix, own, 0.0)
    return Exponentials(matrix, row_sums(matrix, products.wide), shift)


def weigh_logits(logits: Tensor, own: Tensor | None, kept: Tensor | None) -> None:
    """In place: minus infinity where a column does not count and at the own one, the log of its weight more where it counts by weight."""
    if kept is not None:
        logits.add_(kept.log()) if kept.is_floating_point() else logits.masked_fill_(~kept, -torch.inf)
    if own is not None:
        fill_own(logits, own, -torch.inf)


def fill_own(matrix: Float[Tensor, "r n"], own: Int[Tensor, " r"], value: float) -> None:
    """In place: this value at each row's own column. (As numbers of a flat view: `scatter_` passes over the whole matrix.)"""
    rows, columns = matrix.shape
    matrix.view(-1).index_fill_(0, own + torch.arange(0, rows * columns, columns, device=own.device), value)


def row_sums(matrix: Float[Tensor, "r n"], wide: torch.dtype) -> Float[Tensor, " r"]:
    """Sums over columns, added up in the wide dtype."""
    if matrix.dtype == wide:
        return matrix.sum(dim=1)
    return torch.cat([part.to(wide).sum(dim=1) for part in matrix.split(CHUNK_ROWS)])


def column_sums(matrix: Float[Tensor, "r n"], weights: Float[Tensor, " r"]) -> Float[Tensor, " n"]:
    """Sums over rows of weight x entry, added up in the weights' dtype."""
    if matrix.dtype == weights.dtype:
        return matrix.T.mv(weights)
    total = torch.zeros(matrix.shape[1], dtype=weights.dtype, device=weights.device)
    for part, of_part in zip(matrix.split(CHUNK_ROWS), weights.split(CHUNK_ROWS), strict=True):
        total += part.to(weights.dtype).T.mv(of_part)
    return total
