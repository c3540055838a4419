"""Losses over labels that weigh a row's positives and negatives by how hard they are, softly: a log-sum-exp of each against the other."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import above_zero, fixed, spoken
from nearfar.losses.labels import NEAR, LabelOptions, Pairs, cosines, label_losses, negative_distances
from nearfar.similarity.distances import Distance, from_logits


@spoken()
def circle(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    margin: float = 0.4,
    temperature: float = 1 / 80,
    **options: Unpack[LabelOptions],
) -> Float[Tensor, " b"]:
    """log(1 + Σ_n exp(α_n (s_n − m) / t) Σ_p exp(−α_p (s_p − 1 + m) / t)), s cosines (Sun 2020, arXiv 2002.10857, eq. 4 with 5 and 8).

    α_n = max(0, s_n + m) and α_p = max(0, 1 + m − s_p) are constants: what is far from its optimum is pulled harder. Rows are made unit.
    """
    if not 0 <= margin < 1:
        raise BadInput(f"margin: expected a number from 0 to below 1, found {margin}.")
    scale = 1 / fixed("temperature", temperature)

    def loss(cosine: Tensor, pairs: Pairs) -> Tensor:
        far = (cosine.detach() + margin).clamp(min=0) * (cosine - margin) * scale
        near = (cosine.detach() - 1 - margin).clamp(max=0) * (cosine - 1 + margin) * scale
        return F.softplus(
            pairs.negatives(far, -torch.inf).logsumexp(dim=1) + pairs.positives(near, -torch.inf).logsumexp(dim=1)
        )

    return label_losses(loss, embeddings, labels, geometry=cosines, copies=10, **options)


@spoken()
def multi_similarity(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    base: float = 0.5,
    positive_scale: float = 2.0,
    negative_scale: float = 50.0,
    **options: Unpack[LabelOptions],
) -> Float[Tensor, " b"]:
    """log(1 + Σ_p exp(−α (s_p − λ))) / α + log(1 + Σ_n exp(β (s_n − λ))) / β, s cosines (Wang 2019, arXiv 1904.06627, eq. 15, unmined).

    λ is `base`, α and β the scales. Rows are made unit.
    """
    alpha = float(above_zero("positive_scale", positive_scale))
    beta = float(above_zero("negative_scale", negative_scale))

    def loss(cosine: Tensor, pairs: Pairs) -> Tensor:
        near = pairs.positives(-alpha * (cosine - base), -torch.inf).logsumexp(dim=1)
        far = pairs.negatives(beta * (cosine - base), -torch.inf).logsumexp(dim=1)
        return F.softplus(near) / alpha + F.softplus(far) / beta

    return label_losses(loss, embeddings, labels, geometry=cosines, copies=8, **options)


@spoken()
def lifted_structure(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    margin: float = 1.0,
    distance: Distance = "euclidean",
    **options: Unpack[LabelOptions],
) -> Float[Tensor, " b"]:
    """max(0, log Σ_p exp(d_p) + log Σ_n exp(m − d_n)), each row an anchor (Hermans 2017, arXiv 1703.07737, eq. 8, generalizing Song 2016)."""

    def loss(logits: Tensor, pairs: Pairs) -> Tensor:
        apart = from_logits(logits, distance)
        near = pairs.positives(apart, -torch.inf).logsumexp(dim=1)
        return (near + pairs.negatives(margin - apart, -torch.inf).logsumexp(dim=1)).clamp(min=0)

    return label_losses(loss, embeddings, labels, geometry=negative_distances(distance), copies=10, far=NEAR, **options)
