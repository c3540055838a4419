"""Losses of single pairs: similar ones near, the others apart; graded ones as near as they are graded; classified ones told apart.

Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import finite_numbers, spoken
from nearfar.similarity.distances import Distance, pair_distances, refuse_bad_rows

PairFeature = Literal["rows", "difference", "product"]
"""What is known of a pair (u, v): u and v themselves, |u - v|, u x v."""


@spoken()
def contrastive(
    a: Float[Tensor, "b d"],
    b: Float[Tensor, "b d"],
    similar: Bool[Tensor, " b"],
    *,
    margin: float = 0.5,
    distance: Distance = "cosine",
    power: Literal[1, 2] = 2,
) -> Float[Tensor, " b"]:
    """Half the squared distance of similar pairs, half the squared violation of the margin of others (Hadsell 2006, eq. 4).

    The paper writes Y = 0 for similar; here `similar` is True for similar (0 and 1 are taken too). With `power` 1 neither is squared or halved.
    """
    if power not in (1, 2):
        raise BadInput(f"power: found {power}. Choose 1 or 2.")
    between = pair_distances(a, b, distance)
    return torch.where(_claims(similar, a), between, (margin - between).clamp(min=0)).pow(power) / power


@spoken()
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


@spoken()
def cosine_regression(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], scores: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Squared difference of the cosine similarity from `scores` (Reimers and Gurevych 2019, arXiv 1908.10084, section 3)."""
    finite_numbers("scores", scores, (len(a),), "pair")
    return (1 - pair_distances(a, b, "cosine") - scores).square()


@spoken()
def contrastive_tension(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], similar: Bool[Tensor, " b"]) -> Float[Tensor, " b"]:
    """-log sigmoid(u . v) of similar pairs, -log(1 - sigmoid(u . v)) of others (Carlsson 2021, "Semantic Re-tuning with Contrastive Tension").

    There `a` and `b` are rows of two models that started as one, and similar is what is the same sentence: 1 of 8 pairs. Rows as they are.
    """
    refuse_bad_rows(a=a, b=b)
    if len(a) != len(b):
        raise BadInput(f"b: expected {len(a)} rows, one per row of `a`, found {len(b)}.")
    logits = (a * b).sum(dim=1)
    return F.softplus(torch.where(_claims(similar, a), -logits, logits))


@spoken()
def pair_classes(
    a: Float[Tensor, "b d"],
    b: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    weight: Float[Tensor, "c f"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    features: Sequence[PairFeature] = ("rows", "difference"),
) -> Float[Tensor, " b"]:
    """Cross-entropy of each pair's class by a linear layer over (u, v, |u - v|) (Reimers and Gurevych 2019, arXiv 1908.10084, section 3).

    `weight` has one row per class, as wide as the chosen `features` side by side. Raises `BadInput` for another width, and labels that are
    no class.
    """
    refuse_bad_rows(a=a, b=b)
    refuse_bad_rows(weight=weight)
    if a.shape != b.shape:
        raise BadInput(f"b: expected {tuple(a.shape)}, as `a`, found {tuple(b.shape)}.")
    if not features or set(features) - set(get_args(PairFeature)) or len(set(features)) != len(features):
        raise BadInput(
            f"features: found {tuple(features)}. Choose one or more, once each, of {', '.join(get_args(PairFeature))}."
        )
    parts = {"rows": [a, b], "difference": [(a - b).abs()], "product": [a * b]}
    known = torch.cat([part for name in features for part in parts[name]], dim=1)
    if weight.shape[1] != known.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise BadInput(
            f"weight: expected [classes, {known.shape[1]}] for {tuple(features)} and one bias per class, found {tuple(weight.shape)}"
            f"{'' if bias is None else f' and {tuple(bias.shape)}'}."
        )
    return F.cross_entropy(F.linear(known, weight, bias), _classes(labels, a, weight), reduction="none")


def _classes(labels: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    if labels.shape != (len(a),) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise BadInput(f"labels: expected {len(a)} integers, found {tuple(labels.shape)} of {labels.dtype}.")
    outside = ((labels < 0) | (labels >= len(weight))).nonzero()
    if len(outside):
        row = int(outside[0])
        raise BadInput(f"labels: row {row} has the class {int(labels[row])}; `weight` has {len(weight)}, from 0.")
    return labels.to(device=a.device, dtype=torch.int64)


def _claims(similar: Tensor, a: Tensor) -> Tensor:
    if similar.shape != (len(a),):
        raise BadInput(f"similar: expected {len(a)} values True or False, found shape {tuple(similar.shape)}.")
    unclear = ((similar != 0) & (similar != 1)).nonzero()
    if len(unclear):
        row = int(unclear[0])
        raise BadInput(
            f"similar: row {row} is {similar[row].item()}; expected True or False. For grades use `cosine_regression` or `cosent`."
        )
    return similar.to(device=a.device, dtype=torch.bool)
