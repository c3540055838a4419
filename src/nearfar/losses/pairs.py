"""Losses of single pairs: similar ones near, the others at least a margin apart.

Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping".
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.distances import Distance, pair_distances


def contrastive(
    a: Float[Tensor, "b d"],
    b: Float[Tensor, "b d"],
    similar: Bool[Tensor, " b"],
    *,
    margin: float = 0.5,
    distance: Distance = "cosine",
) -> Float[Tensor, " b"]:
    """Half the squared distance of similar pairs, half the squared violation of the margin of others (Hadsell 2006, eq. 4).

    The paper writes Y = 0 for similar; here `similar` is True for similar (0 and 1 are taken too).
    """
    between = pair_distances(a, b, distance)
    return 0.5 * torch.where(_claims(similar, a), between.square(), (margin - between).clamp(min=0).square())


def online_contrastive(
    a: Float[Tensor, "b d"],
    b: Float[Tensor, "b d"],
    similar: Bool[Tensor, " b"],
    *,
    margin: float = 0.5,
    distance: Distance = "cosine",
) -> Float[Tensor, " b"]:
    """Squared distances of the hard pairs only, zero for the others: sum them.

    Hard are similar pairs farther apart than the nearest dissimilar one, and dissimilar pairs nearer than the farthest similar one;
    where a batch has only one kind, its mean distance stands for the missing bound.
    """
    between, claims = pair_distances(a, b, distance), _claims(similar, a)
    near, far = between[claims].detach(), between[~claims].detach()
    highest = near.max() if len(near) else far.mean()
    lowest = far.min() if len(far) else near.mean()
    pull = torch.where(between > lowest, between.square(), 0.0)
    push = torch.where(between < highest, (margin - between).clamp(min=0).square(), 0.0)
    return torch.where(claims, pull, push)


def cosine_regression(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], scores: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Squared difference of the cosine similarity from `scores` (Reimers and Gurevych 2019, arXiv 1908.10084, section 3)."""
    if scores.shape != (len(a),):
        raise BadInput(f"scores: expected {len(a)} numbers, found shape {tuple(scores.shape)}.")
    return (1 - pair_distances(a, b, "cosine") - scores).square()


def _claims(similar: Tensor, a: Tensor) -> Tensor:
    if similar.shape != (len(a),) or not bool(((similar == 0) | (similar == 1)).all()):
        raise BadInput(f"similar: expected {len(a)} values True or False, found {tuple(similar.shape)} of {similar.dtype}.")
    return similar.to(device=a.device, dtype=torch.bool)
