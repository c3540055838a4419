"""Losses of losses: both directions of any loss, a weighted sum, and nested dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.similarity.nested import check_dims, nested_row_losses
from nearfar.similarity.slabs import SlabOptions
from nearfar.types import Loss, SlabTargets, Targets


def symmetric(loss: Loss) -> Loss:
    """Half of `loss(a, b)` and half of `loss(b, a)`, per pair; both sides have as many rows. For InfoNCE itself `clip` is cheaper."""

    def both(queries: Tensor, candidates: Tensor, targets: Targets | None = None) -> Tensor:
        if targets is not None and targets.positive is not None:
            raise BadInput("targets.positive: in both directions row i belongs to row i. Leave it out.")
        if len(queries) != len(candidates):
            raise BadInput(f"candidates: expected {len(queries)} rows, one per query, found {len(candidates)}.")
        back = None
        if targets is not None:
            if targets.column_owners is not None:
                raise BadInput("targets.column_owners: in both directions every column is a row. Leave it out.")
            back = _turned(targets)
        return (loss(queries, candidates, targets) + loss(candidates, queries, back)) / 2

    return both


def _turned(targets: Targets) -> Targets:
    """The same columns left out, seen from the candidates: candidate i against query j, where query j left candidate i out.

    That query j has the same positive, or is itself the same text, is said by the items; the groups' place serves for the second where it is free.
    """
    if targets.row_items is None:
        return Targets(None, targets.column_groups, targets.row_groups, None, targets.column_items)
    if targets.row_groups is not None:
        raise BadInput(
            "targets.row_items: beside groups it cannot be turned round. Leave one of the two out, or for InfoNCE use `clip`, which takes both."
        )
    return Targets(None, targets.column_items, targets.row_items, None, targets.column_items)


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

    arXiv 2205.13147, eq. 1. For any loss, one run each; `matryoshka_info_nce` runs all dimensions in the same slabs. Raises `BadInput` for a
    dimension the rows do not have.
    """
    nest = check_dims(dims, weights)

    def nested(
        queries: Float[Tensor, "b d"], candidates: Float[Tensor, "n d"], targets: Targets | None = None
    ) -> Float[Tensor, " b"]:
        check_dims(dims, weights, queries.shape[1])
        cut = [(factor, F.normalize(queries[:, :k], dim=1), F.normalize(candidates[:, :k], dim=1)) for k, factor in nest]
        first, *rest = [factor * loss(q, c, targets) for factor, q, c in cut]
        return sum(rest, first)

    return nested


@spoken()
def matryoshka_info_nce(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    dims: Sequence[int],
    factors: Sequence[float] | None = None,
    temperature: float | Tensor = 0.05,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """`matryoshka(info_nce, dims, factors)` with the multiplies of one: all dimensions share those of a slab (`similarity/nested.py`).

    Rows need not be unit: each prefix is made so. Raises `BadInput` as `info_nce`, and for dimensions the rows do not have.
    """
    return nested_row_losses(
        _cross_entropy, queries, candidates, targets, dims=dims, factors=factors, temperature=temperature, **slabs
    )


def _cross_entropy(logits: Tensor, slab: SlabTargets) -> Tensor:
    kept = logits if slab.valid is None else logits.masked_fill(~slab.valid, -torch.inf)
    return F.cross_entropy(kept, slab.positive.to(logits.device), reduction="none")
