"""Log-partition functions of one similarity matrix, by row and by column, from one pass over slabs.

Decisions. Forward makes one multiply and keeps two vectors; backward multiplies the slabs again and pulls both vectors' gradients
through at once, so rows and columns together cost four multiplies where each direction alone would cost three. Whatever is built of
log-partitions (CLIP's two directions, a joint partition over several blocks) is then ordinary algebra of vectors of length b.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.slabs import slab_ranges, slab_rows

Keep = Callable[[int, int], Tensor | None]
"""Rows start:stop -> boolean [r, n], True where a column counts for a row; None where all do."""


class LogPartitions(NamedTuple):
    """Log of the sum of exp(logit) over the kept entries; minus infinity where a row or column keeps none."""

    rows: Float[Tensor, " b"]
    columns: Float[Tensor, " n"]


def keep_all(start: int, stop: int) -> None:
    """Every column counts for every row."""


def log_partitions(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    keep: Keep = keep_all,
    *,
    temperature: Tensor,
    rows_per_slab: int | None = None,
) -> LogPartitions:
    """Both log-partition vectors of queries @ candidates.T / temperature, differentiable in all three.

    Time O(b n d): one multiply forward, three backward (two where a side needs no gradient). Memory O((b + n) d) and one slab.
    """
    per_slab = rows_per_slab or slab_rows(len(candidates), element_size=queries.element_size())
    return LogPartitions(*_Partitions.apply(queries, candidates, temperature, keep, per_slab))


class _Partitions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, c: Tensor, t: Tensor, keep: Keep, per_slab: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            rows = q.new_empty(len(q))
            top = q.new_full((len(c),), -torch.inf)
            total = q.new_zeros(len(c))
            for start, stop in slab_ranges(len(q), per_slab):
                logits = _logits(q, c, t, keep, start, stop)
                rows[start:stop] = logits.logsumexp(dim=1)
                above = torch.maximum(top, logits.amax(dim=0))
                shift = above.masked_fill(above == -torch.inf, 0.0)
                total = total * (top - shift).exp_() + logits.sub_(shift).exp_().sum(dim=0)
                top = above
            columns = total.log() + top.masked_fill(top == -torch.inf, 0.0)
        ctx.keep, ctx.per_slab = keep, per_slab
        ctx.save_for_backward(q, c, t, rows, columns)
        return rows, columns

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # only under create_graph=True
            raise BadInput(
                "create_graph: losses over slabs have no second derivative (the slabs are gone). Drop create_graph=True, or write the "
                "loss densely for this use."
            )
        q, c, t, rows, columns = ctx.saved_tensors
        of_rows, of_columns = upstream
        by_rows, by_columns = bool(of_rows.any()), bool(of_columns.any())
        # an empty partition has no gradient: exp(logit - inf) is 0
        rows, columns = (x.masked_fill(x == -torch.inf, torch.inf) for x in (rows, columns))
        grad_q = torch.zeros_like(q) if ctx.needs_input_grad[0] else None
        grad_c = torch.zeros_like(c) if ctx.needs_input_grad[1] else None
        grad_t = torch.zeros_like(t) if ctx.needs_input_grad[2] else None
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            for start, stop in slab_ranges(len(q), ctx.per_slab):
                logits = _logits(q, c, t, ctx.keep, start, stop)
                pull = torch.zeros_like(logits)
                if by_rows:
                    pull += (logits - rows[start:stop, None]).exp_().mul_(of_rows[start:stop, None])
                if by_columns:
                    pull += (logits - columns).exp_().mul_(of_columns)
                if grad_t is not None:
                    grad_t -= torch.where(pull == 0, 0.0, pull * logits).sum() / t
                pull /= t
                if grad_q is not None:
                    grad_q[start:stop] = pull @ c
                if grad_c is not None:
                    grad_c.addmm_(pull.T, q[start:stop])
        return grad_q, grad_c, grad_t, None, None


def _logits(q: Tensor, c: Tensor, t: Tensor, keep: Keep, start: int, stop: int) -> Tensor:
    logits = (q[start:stop] / t) @ c.T
    kept = keep(start, stop)
    return logits if kept is None else logits.masked_fill_(~kept, -torch.inf)
