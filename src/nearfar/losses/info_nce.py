"""InfoNCE: cross-entropy of the positive among all candidates, with the slab's mathematics written in place.

van den Oord, Li and Vinyals 2018, "Representation Learning with Contrastive Predictive Coding" (arXiv 1807.03748), equation 4;
as "multiple negatives ranking" in Henderson 2017 (arXiv 1705.00652), equation 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.partitions import Keep, LogPartitions, log_partitions
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

Direction = Literal["query_to_candidate", "candidate_to_query", "query_to_query", "candidate_to_candidate"]
"""What a pair is contrasted with."""


def info_nce(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.05,
    directions: Sequence[Direction] = ("query_to_candidate",),
    partition: Literal["per_direction", "joint"] = "per_direction",
    weights: Float[Tensor, " b"] | None = None,
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """Cross-entropy of each row's positive among all its candidates, in nats (van den Oord 2018, eq. 4).

    Similarity is the dot product (pass unit rows for cosine) over `temperature`, a number or a learnable scalar tensor. Row i of
    `queries` belongs to column i unless `targets` says otherwise; candidates beyond row b are hard negatives of every row;
    columns that `targets` leaves out are not below the line. `weights` [b] multiply the rows' losses. Equal to the dense
    formula at any `rows_per_slab` (default: what fits 64 MiB). Time O(b n d) in three multiplies, memory O((b + n) d) and one
    slab. Raises `BadInput` naming the argument and the row.

    `directions` says what each pair is contrasted with: its query with the candidates, its candidate with the queries, its query with
    the other queries, its candidate with the other candidates. `per_direction` is the mean of one cross-entropy each (CLIP's form,
    Radford 2021, figure 3); `joint` has one partition function over all of them (GTE, Li 2023, arXiv 2308.03281, section 3.3), where
    the positive stands once per direction between queries and candidates. The first two together cost four multiplies.
    """
    targets = targets if targets is not None else Targets()
    knob = check_problem(queries, candidates, targets, temperature=temperature, weights=weights, rows_per_slab=rows_per_slab)
    if tuple(directions) != ("query_to_candidate",):
        parts = _partitions(queries, candidates, targets, knob, directions, rows_per_slab)
        return _over_partitions(parts, queries, candidates, targets, knob, partition, weights)
    per_slab = rows_per_slab or slab_rows(len(candidates), element_size=queries.element_size())

    def run(q: Tensor, c: Tensor, t: Tensor, w: Tensor | None, needs: Needs) -> SlabGradients:
        return _run(q, c, t, w, needs, targets, min(per_slab, len(q)))

    return differentiate_slabs(run, queries, candidates, knob, weights)


def _partitions(
    queries: Tensor,
    candidates: Tensor,
    targets: Targets,
    temperature: Tensor,
    directions: Sequence[Direction],
    rows_per_slab: int | None,
) -> list[Tensor]:
    """The log-partition of each row in each direction."""
    unknown = [name for name in directions if name not in get_args(Direction)]
    if unknown or not directions or len(set(directions)) != len(directions):
        raise BadInput(
            f"directions: found {tuple(directions)}. Choose one or more, once each, of {', '.join(get_args(Direction))}."
        )
    found: list[Tensor] = []
    positive = torch.arange(len(queries), device=queries.device) if targets.positive is None else targets.positive

    def add(rows: Tensor, columns: Tensor, keep: Keep) -> LogPartitions:
        return log_partitions(rows, columns, keep, temperature=temperature, rows_per_slab=rows_per_slab)

    if "query_to_candidate" in directions or "candidate_to_query" in directions:

        def across(start: int, stop: int) -> Tensor | None:
            slab = targets.slab(start, stop)
            refuse_lonely_rows(slab.valid, start, len(candidates))
            return slab.valid

        rows, columns = add(queries, candidates, across)
        found += [rows] if "query_to_candidate" in directions else []
        found += [columns[positive]] if "candidate_to_query" in directions else []
    own_items = None if targets.column_items is None else targets.column_items[positive]
    if "query_to_query" in directions:
        found.append(
            add(
                queries, queries, _others(positive, positive, own_items, targets.row_groups, own_items, targets.row_groups)
            ).rows
        )
    if "candidate_to_candidate" in directions:
        every = torch.arange(len(candidates), device=queries.device)
        groups = None if targets.column_groups is None else targets.column_groups[positive]
        keep = _others(positive, every, own_items, groups, targets.column_items, targets.column_groups)
        found.append(add(candidates[positive], candidates, keep).rows)
    return found


def _others(
    own: Tensor,
    columns: Tensor,
    items: Tensor | None,
    groups: Tensor | None,
    column_items: Tensor | None,
    column_groups: Tensor | None,
) -> Keep:
    """All columns but the row's own and what is the same item or of the same group."""

    def keep(start: int, stop: int) -> Tensor:
        left_out = own[start:stop, None] == columns
        for rows, others in ((items, column_items), (groups, column_groups)):
            if rows is not None and others is not None:
                left_out |= (rows[start:stop, None] == others) & (rows[start:stop, None] >= 0)
        return ~left_out

    return keep


def _over_partitions(
    parts: Sequence[Tensor],
    queries: Tensor,
    candidates: Tensor,
    targets: Targets,
    temperature: Tensor,
    partition: str,
    weights: Tensor | None,
) -> Tensor:
    if partition not in ("per_direction", "joint"):
        raise BadInput(f"partition: found {partition!r}. Choose per_direction or joint.")
    positives = candidates[: len(queries)] if targets.positive is None else candidates[targets.positive]
    logits = (queries * positives).sum(dim=1) / temperature
    stacked = torch.stack(list(parts))
    empty = stacked == -torch.inf
    lonely = (empty.all(dim=0) if partition == "joint" else empty.any(dim=0)).nonzero()
    if len(lonely):
        raise BadInput(
            f"directions: row {int(lonely[0])} has nothing to be contrasted with in one of them. Use a larger batch or more groups."
        )
    losses = (stacked.logsumexp(dim=0) if partition == "joint" else stacked.mean(dim=0)) - logits
    return losses if weights is None else losses * weights


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
