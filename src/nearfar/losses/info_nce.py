"""InfoNCE: cross-entropy of the positive among all candidates, with the slab's mathematics written in place.

van den Oord, Li and Vinyals 2018, "Representation Learning with Contrastive Predictive Coding" (arXiv 1807.03748), equation 4;
as "multiple negatives ranking" in Henderson 2017 (arXiv 1705.00652), equation 5.

Decisions. Exponentials are taken of logit less the positive's logit, which the multiply itself subtracts: no pass for the row's maximum, and a
sum that cannot vanish. The positive stands apart, in the wide dtype: with x the log-odds of all negatives against it, the loss is
log(1 + e^x) and its pull 1 / (1 + e^-x), exact where the loss is tiny. What remains of a slab is one exponential and one sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.similarity.exponentials import exponentials
from nearfar.similarity.partitions import Keep, log_odds, log_total, row_partitions
from nearfar.similarity.products import Precision, Products, slab_dtype
from nearfar.similarity.slabs import (
    Needs,
    SlabGradients,
    check_problem,
    differentiate_slabs,
    per_row,
    refuse_lonely_rows,
    slab_ranges,
    slab_rows,
)
from nearfar.types import Targets

Direction = Literal["query_to_candidate", "candidate_to_query", "query_to_query", "candidate_to_candidate"]
"""What a pair is contrasted with."""


@spoken()
def info_nce(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.05,
    directions: Sequence[Direction] = ("query_to_candidate",),
    partition: Literal["per_direction", "joint"] = "per_direction",
    memory: Float[Tensor, "m d"] | None = None,
    weights: Float[Tensor, " b"] | None = None,
    rows_per_slab: int | None = None,
    precision: Precision | None = None,
) -> Float[Tensor, " b"]:
    """Cross-entropy of each row's positive among all its candidates, in nats (van den Oord 2018, eq. 4).

    Similarity is the dot product (pass unit rows for cosine) over `temperature`: a number, a learnable scalar tensor, or one per row [b]. Row i
    of `queries` belongs to column i unless `targets` says otherwise; candidates beyond row b are hard negatives of every row, and `memory` holds
    further negatives that take no gradient (a queue); columns that `targets` leaves out are not below the line. `weights` [b] multiply the rows'
    losses. Equal to the dense formula at any `rows_per_slab` (default: what fits 64 MiB). `precision` "bfloat16" multiplies in bfloat16 and
    sums in float32, as it does by default for bfloat16 rows and under autocast. Time O(b n d) in three multiplies, memory O((b + n) d) and
    one slab. Raises `BadInput` naming the argument and the row.

    `directions` says what each pair is contrasted with: its query with the candidates, its candidate with the queries, its query with
    the other queries, its candidate with the other candidates. `per_direction` is the mean of one cross-entropy each (CLIP's form,
    Radford 2021, figure 3); `joint` has one partition function over all of them (GTE, Li 2023, arXiv 2308.03281, section 3.3), where
    the positive stands once per direction between queries and candidates. The first two together cost four multiplies.
    """
    targets = targets if targets is not None else Targets()
    one_way = tuple(directions) == ("query_to_candidate",)
    if one_way:
        queries, temperature = per_row(queries, temperature)
    knob = check_problem(
        queries, candidates, targets, temperature=temperature, memory=memory, weights=weights, rows_per_slab=rows_per_slab
    )
    dtype = slab_dtype(queries, precision, (queries, candidates, memory), knob)
    if not one_way:
        if memory is not None:
            raise BadInput(f"memory: found with directions {tuple(directions)}. A memory serves query_to_candidate alone.")
        across, alike = _partitions(queries, candidates, targets, knob, directions, rows_per_slab, dtype)
        return _over_partitions(across, alike, queries, candidates, targets, knob, partition, weights)
    n = len(candidates) + (0 if memory is None else len(memory))
    per_slab = rows_per_slab or slab_rows(n, element_size=dtype.itemsize, device=queries.device)

    def run(q: Tensor, c: Tensor, t: Tensor, w: Tensor | None, needs: Needs) -> SlabGradients:
        columns = c if memory is None else torch.cat([c, memory.detach().to(c)])
        return _run(q, Products(q, columns, dtype, grad_columns=len(c)), c, t, w, needs, targets, min(per_slab, len(q)))

    return differentiate_slabs(run, queries, candidates, knob, weights)


def _run(
    q: Tensor, products: Products, c: Tensor, t: Tensor, w: Tensor | None, needs: Needs, targets: Targets, per_slab: int
) -> SlabGradients:
    """All slabs, with one buffer for every slab's exponentials in turn."""
    scale, wide, n = 1.0 / float(t), products.wide, products.columns
    buffer = torch.empty(per_slab, n, dtype=products.dtype, device=q.device)
    reach = products.reach(scale)
    rows = q.new_empty(len(q), dtype=wide)
    grad_q = torch.empty_like(q, dtype=wide) if needs[0] else None
    grad_c = torch.zeros_like(c, dtype=wide) if needs[1] else None
    grad_t = torch.zeros_like(t) if needs[2] else None
    for start, stop in slab_ranges(len(q), per_slab):
        slab = targets.slab(start, stop)
        refuse_lonely_rows(slab.valid, start, n)
        own = slab.positive.to(q.device)
        queries, positives = q[start:stop].to(wide), c[own].to(wide)
        positive = (queries * positives).sum(dim=1).mul_(scale)
        e = exponentials(products, start, stop, scale, positive, own, slab.valid, reach, out=buffer[: stop - start])
        odds = e.shift - positive + e.total.log()  # log of the negatives' sum over the positive's exponential
        rows[start:stop] = torch.logaddexp(odds, torch.zeros_like(odds))
        if not any(needs):
            continue
        share = odds.sigmoid()
        # the softmax of a negative is its exponential times this; where none is left there is nothing to multiply
        each = torch.where(e.total > 0, share / e.total, 0.0)
        if w is not None:
            share, each = share * w[start:stop], each * w[start:stop]
        if grad_q is not None or grad_t is not None:
            pull = products.to_queries(e.matrix).mul_(each[:, None]).addcmul_(share[:, None], positives, value=-1).mul_(scale)
            if grad_t is not None:  # a logit is q . c / t, so d loss / d t = -q . (d loss / d q) / t
                grad_t -= (pull * queries).sum() * scale
            if grad_q is not None:
                grad_q[start:stop] = pull
        if grad_c is not None:
            products.to_candidates(e.matrix, queries * (each * scale)[:, None], grad_c)
            grad_c.index_add_(0, own, queries * (share * -scale)[:, None])
    return SlabGradients(rows, grad_q, grad_c, grad_t)


def _partitions(
    queries: Tensor,
    candidates: Tensor,
    targets: Targets,
    temperature: Tensor,
    directions: Sequence[Direction],
    rows_per_slab: int | None,
    dtype: torch.dtype,
) -> tuple[list[Tensor], list[Tensor]]:
    """The log-odds of each row against its positive in the directions between queries and candidates, and its log-partition in the others."""
    if isinstance(directions, str):
        raise BadInput(f"directions: found the text {directions!r}. Give a tuple of names: ({directions!r},).")
    unknown = [name for name in directions if name not in get_args(Direction)]
    if unknown or not directions or len(set(directions)) != len(directions):
        raise BadInput(
            f"directions: found {tuple(directions)}. Choose one or more, once each, of {', '.join(get_args(Direction))}."
        )
    found: list[Tensor] = []
    likes: list[Tensor] = []
    positive = torch.arange(len(queries), device=queries.device) if targets.positive is None else targets.positive

    def across(start: int, stop: int) -> Tensor | None:
        slab = targets.slab(start, stop)
        refuse_lonely_rows(slab.valid, start, len(candidates))
        return slab.valid

    def alike(rows: Tensor, columns: Tensor, keep: Keep) -> Tensor:
        return row_partitions(rows, columns, None, keep, temperature=temperature, rows_per_slab=rows_per_slab, dtype=dtype)

    if "candidate_to_query" in directions:
        rows, columns = log_odds(
            queries, candidates, positive, across, temperature=temperature, rows_per_slab=rows_per_slab, dtype=dtype
        )
        found += [rows, columns] if "query_to_candidate" in directions else [columns]
    elif "query_to_candidate" in directions:
        found.append(
            row_partitions(
                queries, candidates, positive, across, temperature=temperature, rows_per_slab=rows_per_slab, dtype=dtype
            )
        )
    own_items = None if targets.column_items is None else targets.column_items[positive]
    if "query_to_query" in directions:
        keep = _others(positive, positive, own_items, targets.row_groups, own_items, targets.row_groups)
        likes.append(alike(queries, queries, keep))
    if "candidate_to_candidate" in directions:
        every = torch.arange(len(candidates), device=queries.device)
        groups = None if targets.column_groups is None else targets.column_groups[positive]
        keep = _others(positive, every, own_items, groups, targets.column_items, targets.column_groups, targets.column_owners)
        likes.append(alike(candidates[positive], candidates, keep))
    return found, likes


def _others(
    own: Tensor,
    columns: Tensor,
    items: Tensor | None,
    groups: Tensor | None,
    column_items: Tensor | None,
    column_groups: Tensor | None,
    owners: Tensor | None = None,
) -> Keep:
    """All columns but the row's own, what is the same item or of the same group, and other rows' own negatives."""

    def keep(start: int, stop: int) -> Tensor:
        left_out = own[start:stop, None] == columns
        for rows, others in ((items, column_items), (groups, column_groups)):
            if rows is not None and others is not None:
                left_out |= (rows[start:stop, None] == others) & (rows[start:stop, None] >= 0)
        if owners is not None:
            left_out |= (owners != torch.arange(start, stop, device=owners.device)[:, None]) & (owners >= 0)
        return ~left_out

    return keep


def _over_partitions(
    across: Sequence[Tensor],
    alike: Sequence[Tensor],
    queries: Tensor,
    candidates: Tensor,
    targets: Targets,
    temperature: Tensor,
    partition: str,
    weights: Tensor | None,
) -> Tensor:
    """Of log-odds x against the positive, and log-partitions without it: the mean of log(1 + e^x) and the partitions' own, or one partition over all."""
    if partition not in ("per_direction", "joint"):
        raise BadInput(f"partition: found {partition!r}. Choose per_direction or joint.")
    odds = list(alike)
    if alike:
        positives = candidates[: len(queries)] if targets.positive is None else candidates[targets.positive]
        wide = temperature.dtype
        logits = (queries.to(wide) * positives.to(wide)).sum(dim=1) / temperature
        empty = torch.stack(list(alike)) == -torch.inf
        lonely = (empty.all(dim=0) & (not across) if partition == "joint" else empty.any(dim=0)).nonzero()
        if len(lonely):
            raise BadInput(
                f"directions: row {int(lonely[0])} has nothing to be contrasted with in one of them. Use a larger batch or more groups."
            )
        odds = [part - logits for part in alike]
    one = torch.zeros(len(queries), dtype=temperature.dtype, device=queries.device)
    if partition == "joint":
        losses = log_total([*across, *odds])
        if across:  # the positive stands once a direction
            losses = torch.logaddexp(losses, one + math.log(len(across)))
    else:
        losses = torch.stack([*(torch.logaddexp(x, one) for x in across), *odds]).mean(dim=0)
    return losses if weights is None else losses * weights
