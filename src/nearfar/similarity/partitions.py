"""Log-partition functions of one similarity matrix, by row and by column, from one pass over slabs; beside an own column, log-odds against it.

Decisions. Forward makes one multiply and keeps two vectors; backward multiplies the slabs again and pulls both vectors' gradients
through at once, so rows and columns together cost four multiplies where each direction alone would cost three. Whatever is built of
log-partitions (CLIP's two directions, a joint partition over several blocks) is then ordinary algebra of vectors of length b.

One exponential serves rows and columns: exp(logit - shift of the row), whose column sums are weighted by exp(shift - largest shift). That is exact
while no sum leaves the range, which is checked on the b + n sums afterwards; where one does (very low temperatures), the slabs are made again
with a maximum per row and one per column. A row's own column is kept apart in the wide dtype: what is returned is the log-odds x of all others against it, so that a
loss log(1 + e^x) and its gradient are exact where they are tiny, and the own column's pull is minus the upstream. Rows of one own column (two captions of a picture) are no negatives of
it: each has that column's odds against its own entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.exponentials import column_sums, exponentials_about, largest, lowest, weigh_logits
from nearfar.similarity.products import Products
from nearfar.similarity.slabs import slab_ranges, slab_rows

Keep = Callable[[int, int], Tensor | None]
"""Rows start:stop -> [r, n], True where a column counts for a row, or how much it counts (0 or more, taken as a constant); None where all do, once.
A row's own column always counts, once."""


NOTHING = -1e30
"""Its exponential is 0 in every precision."""


class LogOdds(NamedTuple):
    """Log of the sum of exp(logit - own logit) over the kept entries of each row, and of each row's own column, but for the own one; minus infinity where there is none."""

    rows: Float[Tensor, " b"]
    columns: Float[Tensor, " b"]


class _Plan(NamedTuple):
    """What both passes share."""

    keep: Keep
    own: Tensor | None
    both: bool
    reference: Tensor
    per_slab: int
    dtype: torch.dtype


def keep_all(start: int, stop: int) -> None:
    """Every column counts for every row."""


def log_odds(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    own: Int[Tensor, " b"],
    keep: Keep = keep_all,
    *,
    temperature: Tensor,
    rows_per_slab: int | None = None,
    dtype: torch.dtype,
) -> LogOdds:
    """The log-odds of a row's other columns, and of its own column's other rows, against its own entry of queries @ candidates.T / temperature, differentiable in all three.

    Rows whose own column it is, too, do not count. The upstream gradient may not exceed e^x, as that of log(1 + e^x) does not.
    Time O(b n d): one multiply forward, three backward (two where a side needs no gradient). Memory O((b + n) d) and two slabs.
    """
    plan = _plan(queries, candidates, own, keep, temperature, None, rows_per_slab, dtype, both=True)
    return LogOdds(*_Partitions.apply(queries, candidates, temperature, plan))


def row_partitions(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    own: Int[Tensor, " b"] | None = None,
    keep: Keep = keep_all,
    *,
    temperature: Tensor,
    reference: Float[Tensor, " b"] | None = None,
    rows_per_slab: int | None = None,
    dtype: torch.dtype,
) -> Float[Tensor, " b"]:
    """As `log_odds`, the rows alone. Without `own` no column stands apart: log-partitions, and `reference` is a guess of each row's
    result (default 0): a good one is faster."""
    plan = _plan(queries, candidates, own, keep, temperature, reference, rows_per_slab, dtype, both=False)
    return _Partitions.apply(queries, candidates, temperature, plan)[0]


def log_total(parts: Sequence[Float[Tensor, " b"]]) -> Float[Tensor, " b"]:
    """Log of the sum of exp of all parts, where a part may be minus infinity, and all of them: that is then far below any number that counts, and has no gradient."""
    return torch.stack(list(parts)).clamp(min=NOTHING).logsumexp(dim=0)


def _plan(
    queries: Tensor,
    candidates: Tensor,
    own: Tensor | None,
    keep: Keep,
    temperature: Tensor,
    reference: Tensor | None,
    rows_per_slab: int | None,
    dtype: torch.dtype,
    *,
    both: bool,
) -> _Plan:
    per_slab = rows_per_slab or slab_rows(2 * len(candidates), element_size=dtype.itemsize, device=queries.device)
    with torch.no_grad():
        if own is not None:
            reference = _own_logits(queries, candidates, own, 1.0 / float(temperature), temperature.dtype)
        elif reference is None:
            reference = torch.zeros(len(queries), dtype=temperature.dtype, device=queries.device)
    return _Plan(keep, own, both, reference.detach(), per_slab, dtype)


def _own_logits(q: Tensor, c: Tensor, own: Tensor, scale: float, wide: torch.dtype) -> Tensor:
    return (q.to(wide) * c[own].to(wide)).sum(dim=1) * scale


class _Partitions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, c: Tensor, t: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            found = _one_exponential(q, c, t, plan)
            ctx.fast = found is not None
            rows, columns = found if found is not None else _maxima(q, c, t, plan)
        ctx.plan = plan
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
        plan: _Plan = ctx.plan
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            scale, needs = 1.0 / float(t), ctx.needs_input_grad
            products = Products(q, c, plan.dtype)
            pulls = (_fast_pulls if ctx.fast else _slow_pulls)(products, scale, rows, columns, upstream[0], upstream[1], plan)
            grad_q = torch.zeros_like(q, dtype=t.dtype) if needs[0] else None
            grad_c = torch.zeros_like(c, dtype=t.dtype) if needs[1] else None
            grad_t = torch.zeros_like(t) if needs[2] else None
            for start, stop in slab_ranges(len(q), plan.per_slab):
                pull, each, of_own = pulls(start, stop)
                queries = q[start:stop].to(t.dtype)
                own = None if plan.own is None else plan.own[start:stop]
                if grad_q is not None or grad_t is not None:
                    back = products.to_queries(pull)
                    if each is not None:
                        back *= each[:, None]
                    if own is not None:
                        back.addcmul_(of_own[:, None], c[own].to(t.dtype))
                    back *= scale
                    if grad_t is not None:  # a logit is q . c / t
                        grad_t -= (back * queries).sum() * scale
                    if grad_q is not None:
                        grad_q[start:stop] = back
                if grad_c is not None:
                    scaled = queries * scale if each is None else queries * (each * scale)[:, None]
                    products.to_candidates(pull, scaled, grad_c)
                    if own is not None:
                        grad_c.index_add_(0, own, queries * (of_own * scale)[:, None])
        grads = (grad_q, grad_c, grad_t)
        return *(None if g is None else g.to(of.dtype) for g, of in zip(grads, (q, c, t), strict=True)), None


Pulls = Callable[[int, int], tuple[Tensor, Tensor | None, Tensor]]
"""Rows start:stop -> (gradients of the logits [r, n] but for a factor per row, that factor [r] or None for 1, the own column's [r])."""


def _own(plan: _Plan, start: int, stop: int) -> Tensor | None:
    return None if plan.own is None else plan.own[start:stop]


def _one_exponential(q: Tensor, c: Tensor, t: Tensor, plan: _Plan) -> tuple[Tensor, Tensor] | None:
    """Rows and own columns by one exponential per entry; None where a sum left the range in which that is exact."""
    scale, wide = 1.0 / float(t), t.dtype
    products = Products(q, c, plan.dtype)
    reach = products.reach(scale)
    shift = products.shift_near(plan.reference, reach)
    least, most = _least(len(q), len(c), reach, plan.dtype), largest(plan.dtype)
    top = shift.max()
    rows = torch.empty(len(q), dtype=wide, device=q.device)
    total = torch.zeros(len(c), dtype=wide, device=q.device)
    buffer = torch.empty(min(plan.per_slab, len(q)), len(c), dtype=plan.dtype, device=q.device)
    for start, stop in slab_ranges(len(q), plan.per_slab):
        here, own, out = shift[start:stop], _own(plan, start, stop), buffer[: stop - start]
        e = exponentials_about(products, start, stop, scale, here, own, plan.keep(start, stop), reach, out)
        if not bool((e.total < most).all()) or (own is None and not bool((e.total > least).all())):
            return None
        if own is None:
            rows[start:stop] = here + e.total.log()
        else:
            rows[start:stop] = here - plan.reference[start:stop] + e.total.log()
        if plan.both:
            total += column_sums(e.matrix, (here - top).exp())
    if not plan.both or plan.own is None:
        return rows, rows.new_empty(0)
    others = total[plan.own]
    beside = others + (plan.reference - top).exp()
    if not bool((beside > least).all()) or not bool((beside < most).all()):
        return None
    return rows, others.log() + (top - plan.reference)


def _least(rows: int, columns: int, reach: float, dtype: torch.dtype) -> float:
    """A sum above this has lost nothing that counts: what is too small for the range, or clamped, is below rounding beside it."""
    info = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
    smallest = math.exp(-lowest(dtype)) if reach > lowest(dtype) else info.tiny
    return max(rows, columns) * smallest / info.eps


def _fast_pulls(
    products: Products, scale: float, rows: Tensor, columns: Tensor, of_rows: Tensor, of_columns: Tensor, plan: _Plan
) -> Pulls:
    """Both gradients out of one exponential e: e x (a per row + b per row x one per column)."""
    reach = products.reach(scale)
    shift = products.shift_near(plan.reference, reach)
    a = of_rows * _inverse(shift - _sums(rows, plan))
    size = (min(plan.per_slab, len(rows)), products.columns)
    buffer = torch.empty(size, dtype=plan.dtype, device=rows.device)
    both = plan.both and bool(of_columns.any())
    b = narrow = factor = torch.empty(0)
    if both and plan.own is not None:
        top = shift.max()
        b = (shift - top).exp()
        pulled = torch.zeros(products.columns, dtype=rows.dtype, device=rows.device)
        narrow = pulled.index_add_(0, plan.own, of_columns * _inverse(top - _sums(columns, plan))).to(plan.dtype)
        factor = torch.empty_like(buffer)

    def pulls(start: int, stop: int) -> tuple[Tensor, Tensor | None, Tensor]:
        own, here = _own(plan, start, stop), slice(start, stop)
        e = exponentials_about(
            products, start, stop, scale, shift[here], own, plan.keep(start, stop), reach, buffer[: stop - start]
        )
        if not both:
            return e.matrix, a[here], -of_rows[here]
        out = factor[: stop - start]
        torch.mul(b[here, None].to(out), narrow, out=out).add_(a[here, None].to(out))
        return e.matrix.mul_(out), None, -(of_rows[here] + of_columns[here])

    return pulls


def _sums(found: Tensor, plan: _Plan) -> Tensor:
    """The log-sums of which these are the odds against the own column, where there is one."""
    return found if plan.own is None else found + plan.reference


def _inverse(exponent: Tensor) -> Tensor:
    """exp, of what is no larger than can be: beyond that, and where a sum is empty, its upstream is nothing beside it."""
    furthest = math.log(torch.finfo(exponent.dtype).max) - 1
    return torch.where(exponent.isinf(), 0.0, exponent.clamp(max=furthest).exp())


def _maxima(q: Tensor, c: Tensor, t: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Rows and own columns with a maximum for each: exact at any temperature."""
    scale, wide = 1.0 / float(t), t.dtype
    products = Products(q, c, plan.dtype)
    rows = torch.empty(len(q), dtype=wide, device=q.device)
    top = torch.full((len(c),), -torch.inf, dtype=wide, device=q.device)
    total = torch.zeros(len(c), dtype=wide, device=q.device)
    for start, stop in slab_ranges(len(q), plan.per_slab):
        logits = _plain_logits(products, start, stop, scale, plan)
        rows[start:stop] = logits.logsumexp(dim=1)
        if plan.own is not None:
            rows[start:stop] -= plan.reference[start:stop]
        if plan.both:
            above = torch.maximum(top, logits.amax(dim=0))
            shift = above.masked_fill(above == -torch.inf, 0.0)
            total = total * (top - shift).exp_() + logits.sub_(shift).exp_().sum(dim=0)
            top = above
    if not plan.both or plan.own is None:
        return rows, rows.new_empty(0)
    return rows, (total[plan.own].log() + top[plan.own]) - plan.reference


def _slow_pulls(
    products: Products, scale: float, rows: Tensor, columns: Tensor, of_rows: Tensor, of_columns: Tensor, plan: _Plan
) -> Pulls:
    # an empty partition has no gradient: exp(logit - inf) is 0
    rows, columns = (
        _sums(found, plan).masked_fill(found == -torch.inf, torch.inf) if len(found) else found for found in (rows, columns)
    )
    both = plan.both and bool(of_columns.any())
    partition = pulled = torch.empty(0)
    if both and plan.own is not None:
        # of the rows of a column the least partition, which no entry of another row exceeds, and what their gradients are beside it
        partition = torch.full((products.columns,), torch.inf, dtype=rows.dtype, device=rows.device)
        partition.scatter_reduce_(0, plan.own, columns, "amin")
        # a column without other rows pulls nothing
        beside = torch.where(columns.isinf(), 0.0, (partition[plan.own] - columns).exp())
        pulled = torch.zeros_like(partition).index_add_(0, plan.own, of_columns * beside)

    def pulls(start: int, stop: int) -> tuple[Tensor, Tensor | None, Tensor]:
        own, here = _own(plan, start, stop), slice(start, stop)
        logits = _plain_logits(products, start, stop, scale, plan)
        of_own = -of_rows[here]
        pull = (logits - rows[here, None]).exp_().mul_(of_rows[here, None])
        if both and own is not None:
            pull += logits.sub_(partition).exp_().mul_(pulled)
            of_own = of_own - of_columns[here]
        return pull.to(plan.dtype), None, of_own

    return pulls


def _plain_logits(products: Products, start: int, stop: int, scale: float, plan: _Plan) -> Tensor:
    """Logits in the wide dtype, minus infinity where left out and in the own column."""
    own, shift = _own(plan, start, stop), products.round_shift(plan.reference[start:stop])
    logits = products.logits(start, stop, scale, shift).to(products.wide).add_(shift[:, None])
    weigh_logits(logits, None, plan.keep(start, stop))
    if own is not None:
        logits.scatter_(1, own[:, None], -torch.inf)
    return logits
