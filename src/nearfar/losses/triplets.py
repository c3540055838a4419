"""Triplets: the positive nearer than the negative by a margin; given ones, or found in the batch without ever listing them.

Schroff, Kalenichenko and Philbin 2015, "FaceNet" (arXiv 1503.03832); Hermans, Beyer and Leibe 2017 (arXiv 1703.07737).

Decisions. Each row's distances to its negatives are sorted once; which negatives a positive violates, and by how much together, are then a place in
that order and a difference of prefix sums. So all triplets of a row cost n log n, whatever their number.
"""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import spoken
from nearfar.losses.labels import NEAR, LabelOptions, Pairs, label_losses, negative_distances
from nearfar.similarity.distances import Distance, from_logits, pair_distances, unit

Mining = Literal["all", "hardest", "semi_hard", "distance_weighted"]

COPIES = 12
"""Slabs that the row losses below keep while they are differentiated: distances, masks, the order and its sums."""
NEAREST, FARTHEST = 0.5, 1.4
"""Wu 2017: weights of distances below the first are those of it; negatives beyond the second are not drawn."""


@spoken()
def triplet(
    anchor: Float[Tensor, "b d"],
    positive: Float[Tensor, "b d"],
    negative: Float[Tensor, "b d"],
    *,
    margin: float | None = 1.0,
    distance: Distance = "euclidean",
) -> Float[Tensor, " b"]:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) (Schroff 2015, eq. 3); `margin` None: softplus of the difference."""
    near = pair_distances(anchor, positive, distance, ("anchor", "positive"))
    return _hinge(near - pair_distances(anchor, negative, distance, ("anchor", "negative")), margin)


@spoken()
def batch_triplet(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    margin: float | None = 1.0,
    mining: Mining = "hardest",
    distance: Distance = "euclidean",
    generator: torch.Generator | None = None,
    **options: Unpack[LabelOptions],
) -> Float[Tensor, " b"]:
    """One loss per anchor, over triplets found in the batch: rows of its label are positives, all others negatives.

    `hardest`: the farthest positive against the nearest negative (Hermans 2017, eq. 5). `semi_hard`: the mean over its positives, each
    against the nearest negative that is farther than it, or where none is, the farthest one. `all`: the mean over all its triplets (eq. 6).
    `distance_weighted`: the mean over its positives, each against one negative drawn by `generator` with weight 1 / q(D), q the density of distances
    between random unit rows (Wu 2017, arXiv 1706.07567, eq. 4, bounded as there at 0.5, none beyond 1.4 unless all are); rows are made unit.
    `margin` None is the soft margin. Memory O(b d) and slabs, never b x b x b.

    Raises `BadInput` for an anchor without a positive or without a negative.
    """
    if mining not in get_args(Mining):
        raise BadInput(f"mining: found {mining!r}. Choose {', '.join(get_args(Mining))}.")
    seed, d = 0, embeddings.shape[1]
    if mining == "distance_weighted":
        if generator is None:
            raise BadInput("generator: distance_weighted mining draws negatives. Pass a torch.Generator.")
        # one number of the generator seeds every row: the draw does not depend on slabs
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        embeddings = unit(embeddings)

    def loss(logits: Tensor, pairs: Pairs) -> Tensor:
        apart = from_logits(logits, distance)
        if mining == "hardest":
            farthest = pairs.positives(apart, -torch.inf).amax(dim=1)
            return _hinge(farthest - pairs.negatives(apart, torch.inf).amin(dim=1), margin)
        to_positive = pairs.positives(apart, 0.0)
        if mining == "distance_weighted":
            chosen = _drawn(pairs.negatives(apart, torch.inf), distance, to_positive.shape[1], pairs.own, seed, d)
            each = _hinge(to_positive - chosen, margin)
        elif mining == "semi_hard":
            each = _hinge(to_positive - _semi_hard(pairs.negatives(apart, torch.inf), to_positive, pairs), margin)
        elif margin is None:
            each = _every_softplus(pairs.negatives(apart, torch.inf), to_positive) / pairs.negative_count()[:, None]
        else:
            each = _every_hinge(pairs.negatives(apart, torch.inf), to_positive + margin) / pairs.negative_count()[:, None]
        return torch.where(pairs.is_positive, each, 0.0).sum(dim=1) / pairs.positive_count()

    return label_losses(loss, embeddings, labels, geometry=negative_distances(distance), copies=COPIES, far=NEAR, **options)


def _hinge(difference: Tensor, margin: float | None) -> Tensor:
    return F.softplus(difference) if margin is None else (difference + margin).clamp(min=0)


def _every_hinge(negatives: Float[Tensor, "r n"], limit: Float[Tensor, "r p"]) -> Float[Tensor, "r p"]:
    """Sum over negatives of max(0, limit - distance): how many lie below the limit, times it, less their sum. Others are infinitely far."""
    ordered = negatives.sort(dim=1).values
    sums = F.pad(torch.where(torch.isinf(ordered), 0.0, ordered).cumsum(dim=1), (1, 0))
    below = torch.searchsorted(ordered.detach(), limit.detach().contiguous())
    return below * limit - sums.gather(1, below)


def _every_softplus(negatives: Float[Tensor, "r n"], to_positive: Float[Tensor, "r p"]) -> Float[Tensor, "r p"]:
    """Sum over negatives of softplus(positive - negative), one positive of each row after another, each slab made again for its gradient."""
    from torch.utils.checkpoint import checkpoint

    def one(negatives: Tensor, near: Tensor) -> Tensor:
        return F.softplus(near[:, None] - negatives).sum(dim=1)

    each = [checkpoint(one, negatives, near, use_reentrant=False) for near in to_positive.unbind(dim=1)]
    return torch.stack([x for x in each if isinstance(x, Tensor)], dim=1)


def _semi_hard(negatives: Float[Tensor, "r n"], to_positive: Float[Tensor, "r p"], pairs: Pairs) -> Float[Tensor, "r p"]:
    """The nearest negative farther than each positive, or the farthest one."""
    ordered = negatives.sort(dim=1).values
    place = torch.searchsorted(ordered.detach(), to_positive.detach().contiguous(), right=True)
    return ordered.gather(1, torch.minimum(place, pairs.negative_count()[:, None] - 1))


def _drawn(
    negatives: Float[Tensor, "r n"], distance: Distance, count: int, rows: Int[Tensor, " r"], seed: int, d: int
) -> Float[Tensor, "r p"]:
    """`count` negatives of each row, drawn with replacement by the inverse density of their distances (Wu 2017, eq. 4)."""
    with torch.no_grad():
        plain = {"euclidean": negatives, "squared_euclidean": negatives.sqrt(), "cosine": (2 * negatives).sqrt()}[distance]
        inside = plain.clamp(NEAREST, FARTHEST)
        # q(D) is proportional to D^(d - 2) (1 - D^2 / 4)^((d - 3) / 2)
        logs = -(d - 2) * inside.log() - (d - 3) / 2 * (1 - inside.square() / 4).log()
        far = plain > FARTHEST
        is_negative = ~torch.isinf(negatives)
        any_near = (is_negative & ~far).any(dim=1, keepdim=True)
        logs = logs.masked_fill((far & any_near) | ~is_negative, -torch.inf)
        ends = (logs - logs.amax(dim=1, keepdim=True)).exp().double().cumsum(dim=1)
        draws = torch.stack([_uniform(seed, int(row), count) for row in rows]).to(ends.device)
        place = torch.searchsorted(ends, (draws * ends[:, -1:]).contiguous(), right=True)
        # a draw at the very end of the range must not fall beyond the last column that can be drawn
        last = (logs > -torch.inf).long().cumsum(dim=1).argmax(dim=1, keepdim=True)
    return negatives.gather(1, torch.minimum(place, last))


def _uniform(seed: int, row: int, count: int) -> Float[Tensor, " p"]:
    """Numbers in [0, 1) that depend on seed and row alone, the first ones the same whatever the count."""
    own = torch.Generator().manual_seed((seed + row * 0x9E3779B97F4A7C15) % 2**63)
    return torch.rand(count, generator=own, dtype=torch.float64)
