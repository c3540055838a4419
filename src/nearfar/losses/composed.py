"""Losses of losses: both directions of any loss, a weighted sum, and nested dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.types import Loss, Targets


def symmetric(loss: Loss) -> Loss:
    """Half of `loss(a, b)` and half of `loss(b, a)`, per pair; both sides have as many rows. For InfoNCE itself `clip` is cheaper."""

    def both(queries: Tensor, candidates: Tensor, targets: Targets | None = None) -> Tensor:
        if targets is not None and targets.positive is not None:
            raise BadInput("targets.positive: in both directions row i belongs to row i. Leave it out.")
        if len(queries) != len(candidates):
            raise BadInput(f"candidates: expected {len(queries)} rows, one per query, found {len(candidates)}.")
        back = None
        if targets is not None:
            back = Targets(None, targets.column_groups, targets.row_groups, targets.column_items, targets.row_items)
        return (loss(queries, candidates, targets) + loss(candidates, queries, back)) / 2

    return both


def weighted(parts: Sequence[tuple[float, Loss]]) -> Loss:
    """The sum of weight x loss, row by row."""
    if not parts:
        raise BadInput("parts: there is no loss. Give (weight, loss), ...")

    def total(queries: Tensor, candidates: Tensor, targets: Targets | None = None) -> Tensor:
        first, *rest = [weight * loss(queries, candidates, targets) for weight, loss in parts]
        return sum(rest, first)

    return total


def matryoshka(loss: Loss, dims: Sequence[int], weights: Sequence[float] | None = None) -> Loss:
    """`loss` of the first `dims[k]` numbers of each row, made unit again, times `weights` (default 1 each), summed (Kusupati 2022).

    arXiv 2205.13147, eq. 1. Raises `BadInput` for a dimension the rows do not have.
    """
    factors = [1.0] * len(dims) if weights is None else list(weights)
    if not dims or len(factors) != len(dims) or min(dims) < 1:
        raise BadInput(
            f"dims: found {tuple(dims)} with weights {tuple(factors)}. Give one weight per dimension, each 1 or more."
        )

    def nested(
        queries: Float[Tensor, "b d"], candidates: Float[Tensor, "n d"], targets: Targets | None = None
    ) -> Float[Tensor, " b"]:
        if max(dims) > queries.shape[1]:
            raise BadInput(f"dims: {max(dims)} asked for, and rows have {queries.shape[1]}. Leave the larger ones out.")
        cut = [(F.normalize(queries[:, :k], dim=1), F.normalize(candidates[:, :k], dim=1)) for k in dims]
        first, *rest = [factor * loss(q, c, targets) for factor, (q, c) in zip(factors, cut, strict=True)]
        return sum(rest, first)

    return nested
