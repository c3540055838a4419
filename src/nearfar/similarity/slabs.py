"""One loop over slabs: r rows of the similarity matrix at a time, each against all columns, differentiated while in cache.

Decisions. The gradient is computed in the forward pass, slab by slab, for the usual case that every row has the same upstream
weight (`.mean()`, `.sum()`), and kept as O((b + n) d); where backward finds other weights the slabs run again with them. So b x n
never exists whole, one direction costs three multiplies, and a side that needs no gradient costs none. With r = b this is the
dense loss: the specification and the fast path are the same code. (Gao 2021, arXiv 2101.06983, caches gradients of the
representations; Cheng 2024, arXiv 2410.17243, tiles the InfoNCE; this is the same idea for any row loss.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from nearfar.errors import BadInput
from nearfar.similarity.multiplies import LARGEST_RESULT, has_onednn
from nearfar.similarity.products import FAR, Precision, Products, slab_dtype, wide_dtype
from nearfar.types import RowLoss, Targets

SLAB_BYTES = 64 << 20
"""Memory of one slab unless told otherwise: 64 MiB, and never more than 1,024 rows (beyond that a multiply gains nothing)."""
CACHED_BYTES = 16 << 20
"""The same where float32 is multiplied by oneDNN, which does as well with few rows: what stays in the cache."""
FEWEST_ROWS = 128
"""Slabs of fewer rows are not made to stay in the cache: the candidates' gradients pass through memory once a slab."""
ROW_LOSS_COPIES = 4
"""How many copies of a slab a row loss is reckoned to make: autograd keeps what it needs of the row loss while it is inside it."""


class SlabOptions(TypedDict, total=False):
    """What every loss over slabs can be told besides its own arguments; none of it changes what is computed."""

    weights: Tensor | None
    """[b], multiply the rows' losses; they get no gradient."""
    rows_per_slab: int | None
    """Rows of the similarity matrix at a time (default: what fits 64 MiB; on a GPU, an eighth of the free memory)."""
    precision: Precision | None
    """Of the multiplies: "float32" or "bfloat16" (sums stay in float32). Default: autocast's where it is on, else the rows' own."""


class SlabGradients(NamedTuple):
    """What one run over all slabs gives. `rows` [b] the losses; the rest are gradients of sum(weights * rows), None where not asked."""

    rows: Tensor
    queries: Tensor | None
    candidates: Tensor | None
    temperature: Tensor | None


Needs = tuple[bool, bool, bool]
"""Which of queries, candidates and temperature need a gradient."""

Run = Callable[[Tensor, Tensor, Tensor, Tensor | None, Needs], SlabGradients]
"""One run over all slabs: (queries, candidates, temperature, weights [b] or None for ones, needs) -> SlabGradients."""


def slab_rows(
    columns: int, *, budget_bytes: int | None = None, element_size: int = 4, device: torch.device | None = None
) -> int:
    """How many rows of `columns` numbers fit into `budget_bytes` (default 64 MiB, or less where that stays in the cache and is as fast): at least 1, at most 1,024.

    On a CUDA device the default is an eighth of what is free there, 1 GiB at most, and up to 8,192 rows: its multiplies want more at once.
    """
    row_bytes = max(1, columns * element_size)
    is_cuda = device is not None and device.type == "cuda"
    if budget_bytes is None:
        if is_cuda:
            budget_bytes = min(1 << 30, torch.cuda.mem_get_info(device)[0] // 8)
        elif element_size == 4 and has_onednn():
            smaller = (budget for budget in (CACHED_BYTES, LARGEST_RESULT) if budget // row_bytes >= FEWEST_ROWS)
            budget_bytes = next(smaller, SLAB_BYTES)
        else:
            budget_bytes = SLAB_BYTES
    return max(1, min(8192 if is_cuda else 1024, budget_bytes // row_bytes))


def slab_ranges(rows: int, rows_per_slab: int) -> Iterator[tuple[int, int]]:
    """The half-open ranges that cut `rows` into slabs."""
    for start in range(0, rows, rows_per_slab):
        yield start, min(rows, start + rows_per_slab)


def differentiate_slabs(
    run: Run,
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    temperature: Tensor,
    weights: Float[Tensor, " b"] | None,
) -> Float[Tensor, " b"]:
    """Make a run over slabs differentiable: row losses [b], times `weights` where given.

    Without gradients the run is made once, with one multiply. A second derivative is refused, and one in forward mode (`BadInput`).
    """
    if weights is not None and weights.requires_grad:
        raise BadInput(
            "weights: row weights must not need a gradient. Pass `weights.detach()`, or multiply the row losses yourself."
        )
    if any(forward_ad.unpack_dual(t).tangent is not None for t in (queries, candidates, temperature)):
        raise BadInput(
            "forward mode: losses over slabs have no derivative by torch.func.jvp or dual numbers. Use backward(), or write the loss densely for this use."
        )
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in (queries, candidates, temperature)):
        with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
            rows = run(queries.detach(), candidates.detach(), temperature.detach(), None, (False, False, False)).rows
        return rows if weights is None else rows * weights.to(rows)
    return _Slabs.apply(run, queries, candidates, temperature, weights)  # type: ignore[no-any-return]


class _Slabs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, queries: Tensor, candidates: Tensor, temperature: Tensor, weights: Tensor | None) -> Tensor:
        needs = (ctx.needs_input_grad[1], ctx.needs_input_grad[2], ctx.needs_input_grad[3])
        with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
            done = run(queries, candidates, temperature, weights, needs)
        ctx.run, ctx.needs = run, needs
        ctx.save_for_backward(queries, candidates, temperature, weights, *done[1:])
        return done.rows if weights is None else done.rows * weights.to(done.rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = grad_outputs
        if torch.is_grad_enabled():  # only under create_graph=True
            raise BadInput(
                "create_graph: losses over slabs have no second derivative (the first is computed slab by slab and the slabs are gone). "
                "Drop create_graph=True, or write the loss densely for this use."
            )
        queries, candidates, temperature, weights, *kept = ctx.saved_tensors
        scale = upstream[0]
        if bool((upstream == scale).all()):
            gradients = [None if g is None else g * scale for g in kept]
        else:
            actual = upstream if weights is None else upstream * weights.to(upstream)
            with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
                gradients = list(ctx.run(queries, candidates, temperature, actual, ctx.needs)[1:])
        owners = (queries, candidates, temperature)
        return None, *(None if g is None else g.to(of.dtype) for g, of in zip(gradients, owners, strict=True)), None


def row_losses(
    row_loss: RowLoss,
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 1.0,
    memory: Float[Tensor, "m d"] | None = None,
    weights: Float[Tensor, " b"] | None = None,
    rows_per_slab: int | None = None,
    precision: Precision | None = None,
    copies: int = ROW_LOSS_COPIES,
    far: float = FAR,
) -> Float[Tensor, " b"]:
    """Any row loss, exact at any batch size: `row_loss(logits [r, n + m], targets of these rows) -> [r]`, run over slabs.

    `logits` are dot products over `temperature`, a scalar or one number per row. `memory` are further columns that take no gradient (a queue, a
    locked side). `weights` multiply the rows' losses; `copies` is how many slabs `row_loss` is reckoned to keep, `far` how far
    apart logits may lie in bfloat16 (see `slab_dtype`). See `SlabOptions` for the rest. Time
    O(b n d), memory O((b + n) d) and one slab (with what autograd keeps of the row loss inside it). Raises `BadInput` for shapes, dtypes, rows that
    are not finite, a temperature that is not above zero, and a row without a negative.
    """
    targets = targets if targets is not None else Targets()
    queries, temperature = per_row(queries, temperature)
    knob = check_problem(
        queries, candidates, targets, temperature=temperature, memory=memory, weights=weights, rows_per_slab=rows_per_slab
    )
    dtype = slab_dtype(queries, precision, (candidates, memory), knob, far)
    n = len(candidates) + (0 if memory is None else len(memory))
    per_slab = rows_per_slab or slab_rows(n * max(1, copies), element_size=knob.element_size(), device=queries.device)

    def run(q: Tensor, c: Tensor, t: Tensor, w: Tensor | None, needs: Needs) -> SlabGradients:
        wide, scale = knob.dtype, 1.0 / float(t)
        columns = c if memory is None else torch.cat([c, memory.detach().to(c)])
        products = Products(q, columns, dtype, grad_columns=len(c))
        rows = q.new_empty(len(q), dtype=wide)
        grad_q = torch.zeros_like(q, dtype=wide) if needs[0] else None
        grad_c = torch.zeros_like(c, dtype=wide) if needs[1] else None
        grad_t = torch.zeros_like(t) if needs[2] else None
        for start, stop in slab_ranges(len(q), per_slab):
            slab = targets.slab(start, stop)
            refuse_lonely_rows(slab.valid, start, n)
            logits = products.logits(start, stop, scale).to(wide)
            if not any(needs):
                rows[start:stop] = row_loss(logits, slab)
                continue
            with torch.enable_grad():
                leaf = logits.requires_grad_()
                value = row_loss(leaf, slab)
                (pull,) = torch.autograd.grad(value, leaf, torch.ones_like(value) if w is None else w[start:stop].to(value))
            rows[start:stop] = value.detach()
            if grad_t is not None:  # d logit / d t = -logit / t
                grad_t -= torch.where(pull == 0, 0.0, pull * logits.detach()).sum() * scale
            pull = pull.to(dtype)
            if grad_q is not None:
                grad_q[start:stop] = products.to_queries(pull).mul_(scale)
            if grad_c is not None:
                products.to_candidates(pull, q[start:stop].to(wide) * scale, grad_c)
        return SlabGradients(rows, grad_q, grad_c, grad_t)

    return differentiate_slabs(run, queries, candidates, knob, weights)


def per_row(queries: Float[Tensor, "b d"], temperature: float | Tensor) -> tuple[Tensor, float | Tensor]:
    """Where there is one temperature per row [b], queries divided by theirs and the temperature 1: the same logits. Otherwise both as they are."""
    if not isinstance(temperature, Tensor) or temperature.ndim != 1 or temperature.numel() == 1:
        return queries, temperature
    if temperature.shape != queries.shape[:1]:
        raise BadInput(
            f"temperature: expected one number, or one per row ({len(queries)}), found shape {tuple(temperature.shape)}."
        )
    wrong = (~((temperature.detach() > 0) & torch.isfinite(temperature.detach()))).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise BadInput(f"temperature: row {row} has {float(temperature[row])}; expected a number above 0.")
    return queries / temperature[:, None].to(queries), 1.0


def refuse_lonely_rows(valid: Tensor | None, start: int, columns: int) -> None:
    """Raise `BadInput` for a row that has nothing but its own positive to be compared with: its loss would be a silent zero."""
    if columns < 2:
        raise BadInput(
            f"candidates: row {start} has no negative (there is 1 candidate). Use a batch of at least 2, or add hard negatives."
        )
    if valid is not None:
        lonely = (valid.sum(dim=1) < 2).nonzero()
        if len(lonely):
            raise BadInput(
                f"targets: row {start + int(lonely[0])} has no negative: every other column is in its group or is the same item. "
                "Use a larger batch, more groups, or add hard negatives."
            )


def check_problem(
    queries: Tensor,
    candidates: Tensor,
    targets: Targets,
    *,
    temperature: float | Tensor,
    memory: Tensor | None = None,
    weights: Tensor | None = None,
    rows_per_slab: int | None = None,
) -> Tensor:
    """Refuse what no similarity loss can use, naming argument and row; return the temperature as a scalar tensor (float32, or float64 like the rows)."""
    for name, rows in (("queries", queries), ("candidates", candidates), ("memory", memory)):
        if rows is None:
            continue
        if rows.ndim != 2:
            raise BadInput(
                f"{name}: expected a matrix [rows, dimensions], found shape {tuple(rows.shape)}. Pass one row per item."
            )
        if not rows.is_floating_point():
            raise BadInput(f"{name}: expected floating point rows, found {rows.dtype}. Convert with `.float()`.")
        if len(rows) == 0 and name == "memory":
            continue
        if len(rows) == 0:
            raise BadInput(f"{name}: there is no row. Skip empty batches.")
        finite = torch.isfinite(rows).all(dim=1)
        if not bool(finite.all()):
            raise BadInput(
                f"{name}: row {int((~finite).nonzero()[0])} holds NaN or infinity. Find out which input gave this row."
            )
    if queries.shape[1] != candidates.shape[1]:
        raise BadInput(
            f"candidates: rows of {candidates.shape[1]} dimensions against queries of {queries.shape[1]}. Use one encoder or one head width."
        )
    if memory is not None and memory.shape[1] != queries.shape[1]:
        raise BadInput(
            f"memory: rows of {memory.shape[1]} dimensions against queries of {queries.shape[1]}. Empty it when the encoder changes."
        )
    if queries.dtype != candidates.dtype:
        raise BadInput(f"candidates: {candidates.dtype} against queries of {queries.dtype}. Convert one of them.")
    b, n = len(queries), len(candidates)
    all_columns = n + (0 if memory is None else len(memory))
    if targets.positive is None and b > n:
        raise BadInput(
            f"candidates: {n} columns for {b} rows; without targets row i belongs to column i. Pass `targets`, or one positive per query."
        )
    for one, other in (("row_groups", "column_groups"), ("column_groups", "row_groups"), ("row_items", "column_items")):
        if getattr(targets, one) is not None and getattr(targets, other) is None:
            raise BadInput(f"targets.{one}: found without {other}, so it would leave nothing out. Pass both.")
    for name, ids, length in (
        ("positive", targets.positive, b),
        ("row_groups", targets.row_groups, b),
        ("row_items", targets.row_items, b),
        ("column_groups", targets.column_groups, all_columns),
        ("column_items", targets.column_items, all_columns),
        ("column_owners", targets.column_owners, all_columns),
    ):
        if ids is not None and (ids.dtype != torch.int64 or ids.shape != (length,)):
            raise BadInput(f"targets.{name}: expected {length} int64 ids, found {tuple(ids.shape)} of {ids.dtype}.")
    if targets.positive is not None:
        outside = ((targets.positive < 0) | (targets.positive >= n)).nonzero()
        if len(outside):
            row = int(outside[0])
            raise BadInput(
                f"targets.positive: row {row} points at column {int(targets.positive[row])} of {n}. Every row needs a positive among the candidates."
            )
    if weights is not None and weights.shape != (b,):
        raise BadInput(f"weights: expected one per row ({b}), found shape {tuple(weights.shape)}.")
    if rows_per_slab is not None and rows_per_slab <= 0:
        raise BadInput(
            f"rows_per_slab: expected at least 1, found {rows_per_slab}. Leave it out to let the memory budget decide."
        )
    knob = (
        temperature
        if isinstance(temperature, Tensor)
        else torch.tensor(float(temperature), dtype=wide_dtype(queries), device=queries.device)
    )
    if knob.numel() != 1 or not 0 < float(knob.detach()) < float("inf"):
        raise BadInput(
            f"temperature: expected one number above 0, found {temperature}. Usual values are 0.01 to 0.1 for unit rows."
        )
    return knob.reshape(()).to(device=queries.device, dtype=wide_dtype(queries))
