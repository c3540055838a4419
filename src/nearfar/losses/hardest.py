"""The batch's hardest negative alone, against a margin: no temperature, and a gradient from one negative per row.

Wieting and Gimpel 2018, "ParaNMT-50M" (arXiv 1711.05732), whose mega-batches make that negative hard; Faghri 2018, "VSE++" (arXiv 1707.05612).
"""

from __future__ import annotations

import math
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.similarity.distances import refuse_bad_rows, unit
from nearfar.similarity.slabs import SlabOptions, row_losses
from nearfar.types import RowLoss, SlabTargets, Targets


@spoken()
def hardest_negative(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    margin: float = 0.2,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """max(0, margin - cos(query, positive) + cos(query, its nearest negative)) (Faghri 2018, max of hinges, one direction; `symmetric` makes it both).

    Rows are made unit. What temperature x InfoNCE tends to, at margin 0, as temperature goes to 0. Raises `BadInput` as `info_nce`.
    """
    _refuse_infinite(margin=margin)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        positive, hardest = _two(logits, slab)
        return (margin - positive + hardest).clamp(min=0)

    return _run(loss, queries, candidates, targets, slabs)


@spoken()
def mega_batch_margin(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    positive_margin: float = 0.8,
    negative_margin: float = 0.3,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """What the positive's cosine lacks of `positive_margin`, plus what the nearest negative's exceeds `negative_margin` by.

    Wieting and Gimpel 2018's mega-batching, but with a margin for each side: a positive that is near enough pulls no more. Rows are made unit.
    Raises `BadInput` as `info_nce`.
    """
    _refuse_infinite(positive_margin=positive_margin, negative_margin=negative_margin)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        positive, hardest = _two(logits, slab)
        return (positive_margin - positive).clamp(min=0) + (hardest - negative_margin).clamp(min=0)

    return _run(loss, queries, candidates, targets, slabs)


def _two(logits: Tensor, slab: SlabTargets) -> tuple[Tensor, Tensor]:
    """Each row's cosine with its positive and with the nearest negative."""
    own = slab.positive[:, None].to(logits.device)
    kept = logits if slab.valid is None else logits.masked_fill(~slab.valid, -torch.inf)
    return logits.gather(1, own)[:, 0], kept.scatter(1, own, -torch.inf).amax(dim=1)


def _run(loss: RowLoss, queries: Tensor, candidates: Tensor, targets: Targets | None, slabs: SlabOptions) -> Tensor:
    refuse_bad_rows(queries=queries, candidates=candidates)
    return row_losses(loss, unit(queries), unit(candidates), targets, **slabs)


def _refuse_infinite(**margins: float) -> None:
    for name, margin in margins.items():
        if not math.isfinite(margin):
            raise BadInput(f"{name}: expected a finite number, found {margin}.")
