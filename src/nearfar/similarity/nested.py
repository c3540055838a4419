"""A row loss of several nested dimensions at once (Kusupati 2022, arXiv 2205.13147): the dimensions share the multiplies of a slab.

Decisions. The dot product of the first k numbers is that of the first j < k plus the block between, so all dimensions together cost one multiply
forward, and backward too: the pulls on the logits of all dimensions that contain a block are added up before they are multiplied with it. That
each prefix is made unit again is a factor per row and per column of the logits, and in the gradient a term along the row itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.products import Precision, Products, slab_dtype
from nearfar.similarity.slabs import (
    ROW_LOSS_COPIES,
    Needs,
    SlabGradients,
    check_problem,
    differentiate_slabs,
    per_row,
    refuse_lonely_rows,
    slab_ranges,
    slab_rows,
)
from nearfar.types import RowLoss, SlabTargets, Targets


def check_dims(dims: Sequence[int], factors: Sequence[float] | None, width: int | None = None) -> list[tuple[int, float]]:
    """(dimension, factor) in ascending order of dimension, or `BadInput` for what cannot be: none, below 1, twice, beyond `width`."""
    weights = [1.0] * len(dims) if factors is None else list(factors)
    if not dims or len(weights) != len(dims) or min(dims) < 1 or len(set(dims)) != len(dims):
        raise BadInput(
            f"dims: found {tuple(dims)} with weights {tuple(weights)}. Give each dimension once, 1 or more, and one weight for each."
        )
    if width is not None and max(dims) > width:
        raise BadInput(f"dims: {max(dims)} asked for, and rows have {width}. Leave the larger ones out.")
    return sorted(zip(dims, weights, strict=True))


def nested_row_losses(
    row_loss: RowLoss,
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    dims: Sequence[int],
    factors: Sequence[float] | None = None,
    temperature: float | Tensor = 1.0,
    weights: Float[Tensor, " b"] | None = None,
    rows_per_slab: int | None = None,
    precision: Precision | None = None,
) -> Float[Tensor, " b"]:
    """The sum over `dims` of factor (default 1) x `row_loss` of the first so many numbers of each row, made unit again.

    As `row_losses` in all else. Time as one loss of the largest dimension, but for the passes over a slab. Raises `BadInput` also for a
    dimension rows do not have, and a row whose first numbers are all zero.
    """
    targets = targets if targets is not None else Targets()
    queries, temperature = per_row(queries, temperature)
    knob = check_problem(queries, candidates, targets, temperature=temperature, weights=weights, rows_per_slab=rows_per_slab)
    nest = check_dims(dims, factors, queries.shape[1])
    dtype, n = slab_dtype(queries, precision), len(candidates)
    copies = len(nest) + ROW_LOSS_COPIES
    per_slab = rows_per_slab or slab_rows(n * copies, element_size=knob.element_size(), device=queries.device)

    def run(q: Tensor, c: Tensor, t: Tensor, w: Tensor | None, needs: Needs) -> SlabGradients:
        return _run(row_loss, q, c, t, w, needs, targets, nest, per_slab, dtype)

    return differentiate_slabs(run, queries, candidates, knob, weights)


class _Side(NamedTuple):
    """One side's inverse norms per nested dimension, and the pull along each row through them (sum of pull x logit)."""

    inverse: list[Tensor]
    along: list[Tensor]


def _side(name: str, rows: Tensor, nest: Sequence[tuple[int, float]], wide: torch.dtype) -> _Side:
    inverse = []
    for k, _ in nest:
        norm = rows[:, :k].to(wide).norm(dim=1)
        zero = (norm == 0).nonzero()
        if len(zero):
            raise BadInput(f"{name}: the first {k} numbers of row {int(zero[0])} are all zero and have no direction.")
        inverse.append(1 / norm)
    return _Side(inverse, [torch.zeros(len(rows), dtype=wide, device=rows.device) for _ in nest])


def _run(
    row_loss: RowLoss,
    q: Tensor,
    c: Tensor,
    t: Tensor,
    w: Tensor | None,
    needs: Needs,
    targets: Targets,
    nest: Sequence[tuple[int, float]],
    per_slab: int,
    dtype: torch.dtype,
) -> SlabGradients:
    wide, scale = t.dtype, 1.0 / float(t)
    left, right = _side("queries", q, nest, wide), _side("candidates", c, nest, wide)
    blocks = list(pairwise([0, *(k for k, _ in nest)]))
    products = [Products(q[:, a:b], c[:, a:b], dtype) for a, b in blocks]
    rows = torch.zeros(len(q), dtype=wide, device=q.device)
    grad_q = torch.zeros_like(q, dtype=wide) if needs[0] else None
    grad_c = torch.zeros_like(c, dtype=wide) if needs[1] else None
    by_block = [None if grad_c is None else torch.zeros(len(c), b - a, dtype=wide, device=c.device) for a, b in blocks]
    grad_t = torch.zeros_like(t) if needs[2] else None
    for start, stop in slab_ranges(len(q), per_slab):
        slab = targets.slab(start, stop)
        refuse_lonely_rows(slab.valid, start, len(c))
        upstream = None if w is None else w[start:stop]
        pulls = []
        dots: Tensor | None = None
        for k, (_, factor) in enumerate(nest):
            block = products[k].logits(start, stop, 1.0).to(wide)
            dots = block if dots is None else dots.add_(block)
            factors = left.inverse[k][start:stop, None] * scale, right.inverse[k]
            value, pull = _one(row_loss, dots, factors, slab, factor, upstream, any(needs))
            rows[start:stop] += value
            if pull is None:
                continue
            along = pull * dots  # pull x logit
            left.along[k][start:stop] = along.sum(dim=1)
            right.along[k] += along.sum(dim=0)
            pulls.append(pull)
        total: Tensor | None = None
        for k in reversed(range(len(pulls))):
            total = pulls[k] if total is None else total.add_(pulls[k])
            narrow, (a, b), into = total.to(dtype), blocks[k], by_block[k]
            if grad_q is not None:
                grad_q[start:stop, a:b] = products[k].to_queries(narrow)
            if into is not None:
                products[k].to_candidates(narrow, q[start:stop, a:b].to(wide), into)
    if grad_c is not None:
        grad_c[:, : blocks[-1][1]] = torch.cat([into for into in by_block if into is not None], dim=1)
    if grad_t is not None:  # d logit / d t = -logit / t
        grad_t -= torch.stack([along.sum() for along in left.along]).sum() * scale
    for side, own, grad in ((left, q, grad_q), (right, c, grad_c)):
        if grad is not None:
            for (k, _), inverse, along in zip(nest, *side, strict=True):
                grad[:, :k].addcmul_(own[:, :k].to(wide), (along * inverse.square())[:, None], value=-1)
    return SlabGradients(rows, grad_q, grad_c, grad_t)


def _one(
    row_loss: RowLoss,
    dots: Tensor,
    factors: tuple[Tensor, Tensor],
    slab: SlabTargets,
    factor: float,
    upstream: Tensor | None,
    differentiate: bool,
) -> tuple[Tensor, Tensor | None]:
    """The loss of one nested dimension times its factor, and its gradient for the dot products."""
    logits = (dots * factors[0]).mul_(factors[1])
    if not differentiate:
        return row_loss(logits, slab) * factor, None
    with torch.enable_grad():
        leaf = logits.requires_grad_()
        value = row_loss(leaf, slab) * factor
        (pull,) = torch.autograd.grad(value, leaf, torch.ones_like(value) if upstream is None else upstream.to(value))
    return value.detach(), pull.mul_(factors[0]).mul_(factors[1])
