"""Triplets: the positive nearer than the negative by a margin; given ones, or found in the batch without ever listing them.

Schroff, Kalenichenko and Philbin 2015, "FaceNet" (arXiv 1503.03832); Hermans, Beyer and Leibe 2017 (arXiv 1703.07737).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.distances import Distance, from_logits, negative_distance_rows, pair_distances, refuse_bad_rows
from nearfar.similarity.slabs import row_losses, slab_rows
from nearfar.types import SlabTargets

Mining = Literal["all", "hardest", "semi_hard"]


def triplet(
    anchor: Float[Tensor, "b d"],
    positive: Float[Tensor, "b d"],
    negative: Float[Tensor, "b d"],
    *,
    margin: float | None = 1.0,
    distance: Distance = "euclidean",
) -> Float[Tensor, " b"]:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) (Schroff 2015, eq. 3); `margin` None: softplus of the difference."""
    return _hinge(pair_distances(anchor, positive, distance) - pair_distances(anchor, negative, distance), margin)


def batch_triplet(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    margin: float | None = 1.0,
    mining: Mining = "hardest",
    distance: Distance = "euclidean",
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """One loss per anchor, over triplets found in the batch: rows of its label are positives, all others negatives.

    `hardest`: the farthest positive against the nearest negative (Hermans 2017, eq. 5). `semi_hard`: the mean over its positives, each
    against the nearest negative that is farther than it, or where none is, the farthest one. `all`: the mean over all its triplets (eq. 6).
    `margin` None is the soft margin. Memory O(b d) and slabs, never b x b x b.

    Raises `BadInput` for an anchor without a positive or without a negative.
    """
    if mining not in ("all", "hardest", "semi_hard"):
        raise BadInput(f"mining: found {mining!r}. Choose all, hardest or semi_hard.")
    refuse_bad_rows(embeddings=embeddings)
    counts = _label_counts(labels, embeddings)
    most = int(counts.max())
    rows, columns = negative_distance_rows(embeddings, embeddings, distance)
    # what autograd keeps of a slab grows with the positives of a row, which are gone through one by one
    copies = 4 if mining == "hardest" else 3 * most
    per_slab = rows_per_slab or max(1, slab_rows(len(embeddings) * copies, element_size=rows.element_size()))
    every = torch.arange(len(embeddings), device=embeddings.device)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = every[slab.start : slab.start + len(logits)]
        same = labels[own][:, None] == labels
        positives = same & (own[:, None] != every)
        apart = from_logits(logits, distance)
        if mining == "hardest":
            farthest = apart.masked_fill(~positives, -torch.inf).amax(dim=1)
            return _hinge(farthest - apart.masked_fill(same, torch.inf).amin(dim=1), margin)
        count = positives.sum(dim=1)
        # the k-th positive of every row; rows with fewer repeat one and do not count it
        order = positives.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        total = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
        for k in range(most - 1):
            to_positive = apart.gather(1, order[:, k : k + 1])
            if mining == "semi_hard":
                farther = apart.masked_fill(same | (apart <= to_positive), torch.inf).amin(dim=1)
                fallback = apart.masked_fill(same, -torch.inf).amax(dim=1)
                each = _hinge(to_positive[:, 0] - torch.where(torch.isinf(farther), fallback, farther), margin)
            else:
                each = torch.where(same, 0.0, _hinge(to_positive - apart, margin)).sum(dim=1) / (~same).sum(dim=1)
            total = total + torch.where(k < count, each, 0.0)
        return total / count

    return row_losses(loss, rows, columns, rows_per_slab=per_slab)


def _hinge(difference: Tensor, margin: float | None) -> Tensor:
    return F.softplus(difference) if margin is None else (difference + margin).clamp(min=0)


def _label_counts(labels: Tensor, embeddings: Tensor) -> Tensor:
    """How often each label occurs; every row must have a row of its label and one of another."""
    if labels.shape != (len(embeddings),) or labels.is_floating_point():
        raise BadInput(f"labels: expected {len(embeddings)} integers, found {tuple(labels.shape)} of {labels.dtype}.")
    _, which, counts = labels.unique(return_inverse=True, return_counts=True)
    alone = (counts[which] < 2).nonzero()
    if len(alone):
        row = int(alone[0])
        raise BadInput(
            f"labels: row {row} has no positive: no other row has the label {int(labels[row])}. "
            "Sample at least two of each label, or leave the row out."
        )
    if len(counts) < 2:
        raise BadInput(f"labels: all rows have the label {int(labels[0])}, so none has a negative. Sample at least two labels.")
    return counts
