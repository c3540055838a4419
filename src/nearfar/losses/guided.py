"""A guide model says which negatives are none: columns it finds nearer than the positive are left out.

Solatorio 2024, "GISTEmbed: Guided In-sample Selection of Training Negatives" (arXiv 2402.16829).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.partitions import Keep, log_partitions
from nearfar.similarity.slabs import check_problem
from nearfar.types import Targets

Contrast = Literal["candidates", "queries", "positives"]
"""What a query's positive competes with: the candidates, the other queries, and (the positive itself) the other positives."""


def gist(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    guide_queries: Float[Tensor, "b g"],
    guide_candidates: Float[Tensor, "n g"],
    *,
    temperature: float | Tensor = 0.01,
    margin: float = 0.0,
    relative: bool = False,
    contrast: Sequence[Contrast] = get_args(Contrast),
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """InfoNCE over candidates, other queries and other positives, less what the guide finds too near (Solatorio 2024, section 3).

    Row i belongs to column i; candidates beyond row b are hard negatives. A column is left out where the guide's similarity exceeds its
    similarity of query i and positive i less `margin` (times that similarity's absolute value where `relative`). The positive never is.
    Pass unit rows of both models; the guide's get no gradient. The guide's similarities exist a slab at a time.
    """
    knob = check_problem(queries, candidates, Targets(), temperature=temperature, rows_per_slab=rows_per_slab)
    check_problem(guide_queries, guide_candidates, Targets(), temperature=1.0)
    if len(guide_queries) != len(queries) or len(guide_candidates) != len(candidates):
        raise BadInput(
            f"guide: {len(guide_queries)} queries and {len(guide_candidates)} candidates beside {len(queries)} and {len(candidates)}. "
            "The guide embeds the same texts in the same order."
        )
    if not contrast or set(contrast) - set(get_args(Contrast)):
        raise BadInput(f"contrast: found {tuple(contrast)}. Choose one or more of {', '.join(get_args(Contrast))}.")
    b = len(queries)
    own = torch.arange(b, device=queries.device)
    guide_q, guide_c = guide_queries.detach(), guide_candidates.detach()
    positives = (guide_q * guide_c[:b]).sum(dim=1)
    threshold = positives - (positives.abs() * margin if relative else margin)

    def guided(rows: Tensor, columns: Tensor, *, keeps_own: bool) -> Keep:
        def keep(start: int, stop: int) -> Tensor:
            kept = rows[start:stop] @ columns.T <= threshold[start:stop, None]
            kept[torch.arange(stop - start, device=kept.device), own[start:stop]] = keeps_own
            return kept

        return keep

    blocks = {
        "candidates": (queries, candidates, guided(guide_q, guide_c, keeps_own=True)),
        "queries": (queries, queries, guided(guide_q, guide_q, keeps_own=False)),
        "positives": (candidates[:b], candidates[:b], guided(guide_c[:b], guide_c[:b], keeps_own=False)),
    }
    logits = (queries * candidates[:b]).sum(dim=1) / knob
    parts = [
        log_partitions(rows, columns, keep, temperature=knob, rows_per_slab=rows_per_slab).rows
        for name, (rows, columns, keep) in blocks.items()
        if name in contrast
    ]
    # the positive stands below the line once, whatever is contrasted
    if "candidates" not in contrast:
        parts.append(logits)
    return torch.stack(parts).logsumexp(dim=0) - logits
