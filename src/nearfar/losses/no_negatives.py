"""Losses without negatives: views agree while dimensions stay spread out. Each is one scalar (sums over the batch's statistics)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import above_zero, spoken
from nearfar.similarity.distances import refuse_bad_rows, root, unit
from nearfar.similarity.partitions import row_partitions
from nearfar.similarity.products import slab_dtype, wide_dtype


@spoken()
def vicreg(
    view1: Float[Tensor, "b d"],
    view2: Float[Tensor, "b d"],
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Float[Tensor, ""]:
    """Invariance, variance and covariance of two views (Bardes 2022, arXiv 2105.04906, eq. 1-6, its weights by default): one scalar.

    Mean squared difference; hinge of each dimension's standard deviation at 1; squared covariances off the diagonal over d, of both views.
    Not scaled, so in float32 it is finite for entries below about 1e9: squared covariances of larger ones are infinite.
    """
    b, d = _shape(view1, view2)

    def spread(rows: Tensor) -> tuple[Tensor, Tensor]:
        centred = rows - rows.mean(dim=0)
        deviation = (centred.square().sum(dim=0) / (b - 1) + 1e-4).sqrt()
        matrix = centred.T @ centred / (b - 1)
        return (1 - deviation).clamp(min=0).mean(), (matrix.square().sum() - matrix.diagonal().square().sum()) / d

    (v1, c1), (v2, c2) = spread(view1), spread(view2)
    return invariance * (view1 - view2).square().mean() + variance * (v1 + v2) + covariance * (c1 + c2)


@spoken()
def barlow_twins(view1: Float[Tensor, "b d"], view2: Float[Tensor, "b d"], *, redundancy: float = 0.005) -> Float[Tensor, ""]:
    """Distance of the cross-correlation matrix from the identity, off-diagonal entries times `redundancy` (Zbontar 2021, arXiv 2103.03230, eq. 1)."""
    b, _ = _shape(view1, view2)

    def standard(rows: Tensor) -> Tensor:
        deviation = rows.std(dim=0, correction=0)
        if bool((deviation == 0).any()):
            raise BadInput(f"dimension {int((deviation == 0).nonzero()[0])} is the same in all rows and has no correlation.")
        return (rows - rows.mean(dim=0)) / deviation

    matrix = standard(view1).T @ standard(view2) / b
    diagonal = matrix.diagonal()
    return (1 - diagonal).square().sum() + redundancy * (matrix.square().sum() - diagonal.square().sum())


@spoken()
def alignment(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], *, power: float = 2.0) -> Float[Tensor, " b"]:
    """Distance of the two rows of each pair to `power` (Wang and Isola 2020, arXiv 2005.10242, section 4.1). Pass unit rows."""
    _shape(a, b, least=1)
    above_zero("power", power)
    squared = (a - b).square().sum(dim=1)
    return squared if power == 2 else root(squared).pow(power)


@spoken()
def uniformity(rows: Float[Tensor, "b d"], *, sharpness: float = 2.0, rows_per_slab: int | None = None) -> Float[Tensor, ""]:
    """Log of the mean of exp(-sharpness x squared distance) over pairs of rows (Wang and Isola 2020, section 4.1): one scalar.

    Pass unit rows: then the squared distance is 2 - 2 cosine. Over slabs: no b x b.
    """
    refuse_bad_rows(rows=rows)
    b = len(rows)
    if b < 2:
        raise BadInput("rows: there is 1. Uniformity is of pairs: pass at least 2.")
    above_zero("sharpness", sharpness)
    every = torch.arange(b, device=rows.device)

    def others(start: int, stop: int) -> Tensor:
        return every[start:stop, None] != every

    knob = torch.tensor(1 / (2 * sharpness), dtype=wide_dtype(rows), device=rows.device)
    sums = row_partitions(rows, rows, None, others, temperature=knob, rows_per_slab=rows_per_slab, dtype=slab_dtype(rows, None))
    return sums.logsumexp(dim=0) - 2 * sharpness - torch.tensor(float(b * (b - 1)), dtype=rows.dtype, device=rows.device).log()


@spoken()
def global_orthogonal(rows: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Squared mean of the cosines of all pairs of rows, plus what their mean square exceeds 1 / d by: one scalar, to be added to a loss.

    As of uniform random directions (Zhang 2017, "Learning Spread-out Local Feature Descriptors", arXiv 1708.06320). O(b d^2): the sum of
    squared cosines is that of the squared entries of rows.T @ rows. Raises `BadInput` for a single row, and a row of zeros.
    """
    refuse_bad_rows(rows=rows)
    b, d = rows.shape
    if b < 2:
        raise BadInput("rows: there is 1. Spread is of pairs: pass at least 2.")
    z = unit(rows)
    own = z.square().sum(dim=1)  # 1, but for rounding
    mean = (z.sum(dim=0).square().sum() - own.sum()) / (b * (b - 1))
    second = ((z.T @ z).square().sum() - own.square().sum()) / (b * (b - 1))
    return mean.square() + (second - 1 / d).clamp(min=0)


def _shape(view1: Tensor, view2: Tensor, least: int = 2) -> tuple[int, int]:
    refuse_bad_rows(view1=view1, view2=view2)
    if view1.shape != view2.shape or len(view1) < least:
        raise BadInput(
            f"expected {least} rows or more of one shape on both sides, found {tuple(view1.shape)} and {tuple(view2.shape)}."
        )
    return view1.shape[0], view1.shape[1]
