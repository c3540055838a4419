"""A guide model says which negatives are none: columns it finds nearer than the positive are left out, or count less.

Solatorio 2024, "GISTEmbed: Guided In-sample Selection of Training Negatives" (arXiv 2402.16829).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.similarity.partitions import Keep, log_total, row_partitions
from nearfar.similarity.products import slab_dtype
from nearfar.similarity.slabs import SlabOptions, check_problem
from nearfar.types import Targets

Contrast = Literal["candidates", "queries", "positives"]
"""What a query's positive competes with: the candidates, the other queries, and (the positive itself) the other positives."""


_check_guide = spoken(queries="guide_queries", candidates="guide_candidates")(check_problem)


@spoken()
def gist(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    guide_queries: Float[Tensor, "b g"],
    guide_candidates: Float[Tensor, "n g"],
    *,
    targets: Targets | None = None,
    temperature: float | Tensor = 0.01,
    margin: float = 0.0,
    relative: bool = False,
    softness: float = 0.0,
    contrast: Sequence[Contrast] = get_args(Contrast),
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """InfoNCE over candidates, other queries and other positives, less what the guide finds too near (Solatorio 2024, section 3).

    Row i belongs to column i; candidates beyond row b are hard negatives. A column is left out where the guide's similarity exceeds its
    similarity of query i and positive i less `margin` (times that similarity's absolute value where `relative`). With a `softness` above 0 it
    is not left out but counts sigmoid((threshold - similarity) / softness) instead of once: the mask is the limit of softness 0. The positive counts
    once whatever the guide says. What `targets` know to be no negative, by group or item, is left out besides (row i still belongs to column i).
    Pass unit rows of both models; the guide's get no gradient. The guide's similarities exist a slab at a time.
    """
    if unknown := set(slabs) - set(SlabOptions.__annotations__):
        raise TypeError(f"gist() got an unexpected keyword argument {min(unknown)!r}")
    weights, precision = slabs.get("weights"), slabs.get("precision")
    rows_per_slab = slabs.get("rows_per_slab")
    knob = check_problem(queries, candidates, Targets(), temperature=temperature, weights=weights, rows_per_slab=rows_per_slab)
    _check_guide(guide_queries, guide_candidates, Targets(), temperature=1.0)
    if len(guide_queries) != len(queries) or len(guide_candidates) != len(candidates):
        raise BadInput(
            f"guide: {len(guide_queries)} queries and {len(guide_candidates)} candidates beside {len(queries)} and {len(candidates)}. "
            "The guide embeds the same texts in the same order."
        )
    if not contrast or set(contrast) - set(get_args(Contrast)):
        raise BadInput(f"contrast: found {tuple(contrast)}. Choose one or more of {', '.join(get_args(Contrast))}.")
    if not 0 <= softness < float("inf"):
        raise BadInput(f"softness: expected 0 (a mask) or more, in units of the guide's similarity, found {softness}.")
    b = len(queries)
    if b < 2 and (len(candidates) < 2 or "candidates" not in contrast):
        raise BadInput("queries: row 0 has no negative (a batch of 1). Use a batch of at least 2, or add hard negatives.")
    if targets is not None and targets.positive is not None:
        raise BadInput("targets.positive: here row i belongs to column i. Leave it out.")
    own = torch.arange(b, device=queries.device)
    guide_q, guide_c = guide_queries.detach(), guide_candidates.detach()
    positives = (guide_q * guide_c[:b]).sum(dim=1)
    threshold = positives - (positives.abs() * margin if relative else margin)

    def guided(rows: Tensor, columns: Tensor, known: Targets, *, keeps_own: bool) -> Keep:
        def keep(start: int, stop: int) -> Tensor:
            above = rows[start:stop] @ columns.T - threshold[start:stop, None]
            kept = torch.sigmoid(-above / softness) if softness else above <= 0
            valid = known.slab(start, stop).valid
            if valid is not None:
                kept = kept * valid if softness else kept & valid
            kept[torch.arange(stop - start, device=kept.device), own[start:stop]] = keeps_own
            return kept

        return keep

    known = targets if targets is not None else Targets()
    asks = Targets(None, known.row_groups, known.row_groups, column_items=known.row_items)
    groups, items = known.column_groups, known.column_items
    answers = Targets(
        None, known.row_groups, None if groups is None else groups[:b], None, None if items is None else items[:b]
    )
    blocks = {
        "candidates": (queries, candidates, own, guided(guide_q, guide_c, known, keeps_own=True)),
        "queries": (queries, queries, None, guided(guide_q, guide_q, asks, keeps_own=False)),
        "positives": (candidates[:b], candidates[:b], None, guided(guide_c[:b], guide_c[:b], answers, keeps_own=False)),
    }
    wide = knob.dtype
    logits = (queries.to(wide) * candidates[:b].to(wide)).sum(dim=1) / knob
    dtype = slab_dtype(queries, precision, (queries, candidates), knob)
    odds: list[Tensor] = []
    for name, (rows, columns, of_own, keep) in blocks.items():
        if name in contrast:
            part = row_partitions(rows, columns, of_own, keep, temperature=knob, rows_per_slab=rows_per_slab, dtype=dtype)
            odds.append(part if of_own is not None else part - logits)
    # the positive stands below the line once, whatever is contrasted
    losses = torch.logaddexp(log_total(odds), torch.zeros_like(logits))
    return losses if weights is None else losses * weights.to(losses)
