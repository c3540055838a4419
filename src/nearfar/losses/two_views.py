"""Two views of the same things, each the other's positive: CLIP's two directions, NT-Xent over both views, SigLIP pair by pair."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.losses.info_nce import info_nce
from nearfar.similarity.slabs import SlabOptions, check_problem, row_losses
from nearfar.types import SlabTargets, Targets


@spoken(queries="a", candidates="b")
def clip(
    a: Float[Tensor, "b d"],
    b: Float[Tensor, "b d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.07,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Mean of the cross-entropies of both directions, per pair, in nats (Radford 2021, arXiv 2103.00020, figure 3).

    Rows are used as they are: pass unit rows. Four multiplies. Raises `BadInput` as `info_nce`, and where a and b differ in length.
    """
    _refuse_unequal(a, b)
    both = ("query_to_candidate", "candidate_to_query")
    return info_nce(a, b, targets, temperature=temperature, directions=both, **slabs)


@spoken(queries="view1, then view2", candidates="view1, then view2")
def nt_xent(
    view1: Float[Tensor, "b d"],
    view2: Float[Tensor, "b d"],
    *,
    temperature: float | Tensor = 0.5,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " 2*b"]:
    """Cross-entropy of the other view among the 2b - 1 other rows (Chen 2020, SimCLR, arXiv 2002.05709, eq. 1): 2b losses in nats.

    First those of `view1`, then those of `view2`; their mean is the paper's loss. Pass unit rows. Raises `BadInput` as `info_nce`.
    """
    _refuse_unequal(view1, view2)
    rows, b = torch.cat([view1, view2]), len(view1)
    every = torch.arange(2 * b, device=rows.device)
    # a row is the same item as its own column, so it is left out
    targets = Targets(every.roll(b), row_items=every, column_items=every)
    return info_nce(rows, rows, targets, temperature=temperature, **slabs)


@spoken(queries="a", candidates="b")
def siglip(
    a: Float[Tensor, "b d"],
    b: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.1,
    bias: float | Tensor = -10.0,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Sum over columns of -log sigmoid(y (a . b / temperature + bias)), y = 1 for the positive, else -1 (Zhai 2023, arXiv 2303.15343).

    Algorithm 1 with its scale t' as 1 / temperature; its mean over rows is the mean of these. Both knobs may be learnable scalars.
    Pass unit rows. Columns that `targets` leaves out do not count.
    """
    knob = check_problem(a, b, targets or Targets(), temperature=temperature)
    shift = bias if isinstance(bias, Tensor) else torch.tensor(float(bias), dtype=a.dtype, device=a.device)
    if shift.numel() != 1:
        raise BadInput(f"bias: expected one number, found shape {tuple(shift.shape)}.")
    # the bias is two more dimensions, times one: the engine needs to know nothing of it, and no precision rounds it
    shift = shift.reshape(1, 1).to(a.device, knob.dtype)
    coarse = shift.detach().to(torch.bfloat16).to(shift)
    rows = torch.cat([a / knob, *(x.expand(len(a), 1) for x in (coarse, shift - coarse))], dim=1).to(a.dtype)
    columns = torch.cat([b, b.new_ones(len(b), 2)], dim=1)
    return row_losses(_sigmoid_rows, rows, columns, targets, **slabs)


def _sigmoid_rows(logits: Tensor, targets: SlabTargets) -> Tensor:
    own = targets.positive[:, None].to(logits.device)
    losses = F.softplus(logits.scatter(1, own, -logits.gather(1, own)))
    return (losses if targets.valid is None else losses.masked_fill(~targets.valid, 0.0)).sum(dim=1)


def _refuse_unequal(a: Tensor, b: Tensor) -> None:
    if len(a) != len(b):
        raise BadInput(
            f"expected as many rows on both sides, found {len(a)} and {len(b)}. Row i of one belongs to row i of the other."
        )
