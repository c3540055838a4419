"""Distances, of pairs of rows and as a similarity the slab engine can multiply: one more dimension or two carry the norms."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput

Distance = Literal["euclidean", "squared_euclidean", "cosine"]
"""`cosine` is 1 - cosine similarity, from 0 to 2."""


def pair_distances(
    a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], distance: Distance, names: tuple[str, str] = ("a", "b")
) -> Float[Tensor, " b"]:
    """The distance of each row of `a` to the same row of `b`, which refusals call by `names`. The gradient of a Euclidean distance of zero is zero."""
    check_distance(distance)
    refuse_bad_rows(**dict(zip(names, (a, b), strict=True)))
    if a.shape != b.shape:
        raise BadInput(
            f"{' and '.join(names)}: expected rows of one shape on both sides, found {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if distance == "cosine":
        return 1 - (unit(a) * unit(b)).sum(dim=1)
    squared = (a - b).square().sum(dim=1)
    return squared if distance == "squared_euclidean" else root(squared)


def negative_distance_rows(a: Float[Tensor, "b d"], b: Float[Tensor, "n d"], distance: Distance) -> tuple[Tensor, Tensor]:
    """Rows whose dot products are minus the distance (minus its square for `euclidean`: take `from_logits`), differentiable."""
    check_distance(distance)
    if distance == "cosine":
        a, b = unit(a), unit(b)
        return torch.cat([a, a.new_ones(len(a), 1)], dim=1), torch.cat([b, b.new_full((len(b), 1), -1.0)], dim=1)
    left = [2 * a, -a.square().sum(dim=1, keepdim=True), a.new_full((len(a), 1), -1.0)]
    return torch.cat(left, dim=1), torch.cat([b, b.new_ones(len(b), 1), b.square().sum(dim=1, keepdim=True)], dim=1)


def from_logits(logits: Tensor, distance: Distance) -> Tensor:
    """Distances out of the dot products of `negative_distance_rows`; what rounding makes negative is zero."""
    if distance == "cosine":
        return -logits
    return root(-logits) if distance == "euclidean" else (-logits).clamp(min=0)


def root(squared: Tensor) -> Tensor:
    """The square root, with gradient zero at zero (instead of infinity)."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


def unit(rows: Tensor) -> Tensor:
    """Rows of length one. Raises `BadInput` for a row of zeros, which has no direction."""
    zero = (rows == 0).all(dim=1)
    if bool(zero.any()):
        raise BadInput(f"row {int(zero.nonzero()[0])} is all zeros and has no cosine. Find out which input gave this row.")
    return F.normalize(rows, dim=1)


def check_distance(distance: str) -> None:
    """Raise `BadInput` for an unknown distance."""
    if distance not in get_args(Distance):
        raise BadInput(f"distance: found {distance!r}. Choose {', '.join(get_args(Distance))}.")


def refuse_bad_rows(**named: Tensor) -> None:
    """Raise `BadInput`, naming argument and row, for what is no matrix of finite floating point rows of one width."""
    width = None
    for name, rows in named.items():
        if rows.ndim != 2 or not rows.is_floating_point() or len(rows) == 0:
            raise BadInput(f"{name}: expected floating point rows [b, d], found {tuple(rows.shape)} of {rows.dtype}.")
        finite = torch.isfinite(rows).all(dim=1)
        if not bool(finite.all()):
            raise BadInput(
                f"{name}: row {int((~finite).nonzero()[0])} holds NaN or infinity. Find out which input gave this row."
            )
        if width not in (None, rows.shape[1]):
            raise BadInput(
                f"{name}: rows of {rows.shape[1]} dimensions beside rows of {width}. Use one encoder or one head width."
            )
        width = rows.shape[1]
