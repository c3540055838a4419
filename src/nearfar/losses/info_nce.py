"""InfoNCE: cross-entropy of the positive among all candidates, with the slab's mathematics written in place.

van den Oord, Li and Vinyals 2018, "Representation Learning with Contrastive Predictive Coding" (arXiv 1807.03748), equation 4;
as "multiple negatives ranking" in Henderson 2017 (arXiv 1705.00652), equation 5.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.similarity.slabs import (
    Needs,
    SlabGradients,
    check_problem,
    differentiate_slabs,
    refuse_lonely_rows,
    slab_ranges,
    slab_rows,
)
from nearfar.types import Targets


def info_nce(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.05,
    weights: Float[Tensor, " b"] | None = None,
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """Cross-entropy of each row's positive among all its candidates, in nats (van den Oord 2018, eq. 4).

    Similarity is the dot product (pass unit rows for cosine) over `temperature`, a number or a learnable scalar tensor. Row i of
    `queries` belongs to column i unless `targets` says otherwise; candidates beyond row b are hard negatives of every row;
    columns that `targets` leaves out are not below the line. `weights` [b] multiply the rows' losses. Equal to the dense
    formula at any `rows_per_slab` (default: what fits 64 MiB). Time O(b n d) in three multiplies, memory O((b + n) d) and one
    slab. Raises `BadInput` naming the argument and the row.
    """
    targets = targets if targets is not None else Targets()
    knob = check_problem(queries, candidates, targets, temperature=temperature, weights=weights, rows_per_slab=rows_per_slab)
    per_slab = rows_per_slab or slab_rows(len(candidates), element_size=queries.element_size())

    def run(q: Tensor, c: Tensor, t: Tensor, w: Tensor | None, needs: Needs) -> SlabGradients:
        return _run(q, c, t, w, needs, targets, min(per_slab, len(q)))

    return differentiate_slabs(run, queries, candidates, knob, weights)


def _run(q: Tensor, c: Tensor, t: Tensor, w: Tensor | None, needs: Needs, targets: Targets, per_slab: int) -> SlabGradients:
    """All slabs, with one buffer for every slab's logits, exponentials and gradient in turn."""
    n, inverse = len(c), 1.0 / float(t.detach())
    buffer = q.new_empty(per_slab, n)
    rows = q.new_empty(len(q))
    grad_q = torch.empty_like(q) if needs[0] else None
    grad_c = torch.zeros_like(c) if needs[1] else None
    grad_t = torch.zeros_like(t) if needs[2] else None
    for start, stop in slab_ranges(len(q), per_slab):
        slab = targets.slab(start, stop)
        refuse_lonely_rows(slab.valid, start, n)
        own = slab.positive.to(q.device)[:, None]
        p = torch.mm(q[start:stop] * inverse, c.T, out=buffer[: stop - start])  # logits [r, n]
        if slab.valid is not None:
            p.masked_fill_(~slab.valid, -torch.inf)
        positive = p.gather(1, own)[:, 0]
        top = p.amax(dim=1, keepdim=True)
        total = p.sub_(top).exp_().sum(dim=1)  # the buffer holds exponentials from here
        rows[start:stop] = total.log() + top[:, 0] - positive
        if not any(needs):
            continue
        upstream = 1.0 if w is None else w[start:stop]
        p.mul_((upstream / total)[:, None])
        p.scatter_add_(1, own, (-torch.ones_like(total) * upstream)[:, None])  # softmax - one-hot, times the upstream weight
        if grad_q is not None or grad_t is not None:
            pull = torch.mm(p, c).mul_(inverse)
            if grad_t is not None:  # a logit is q . c / t, so d loss / d t = -q . (d loss / d q) / t
                grad_t -= (pull * q[start:stop]).sum() * inverse
            if grad_q is not None:
                grad_q[start:stop] = pull
        if grad_c is not None:
            grad_c.addmm_(p.T, q[start:stop], alpha=inverse)
    return SlabGradients(rows, grad_q, grad_c, grad_t)
