"""Classification as a baseline: each row against one prototype per class (the columns), the margins of the face-recognition literature."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import fixed, spoken
from nearfar.losses.info_nce import info_nce
from nearfar.losses.labels import check_labels
from nearfar.losses.softmax import decoupled
from nearfar.similarity.distances import unit
from nearfar.similarity.slabs import SlabOptions, row_losses
from nearfar.types import SlabTargets, Targets


@spoken(queries="embeddings", candidates="prototypes")
def softmax_classes(
    embeddings: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
    *,
    temperature: float | Tensor = 1.0,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Cross-entropy over the classes, logits embeddings @ prototypes.T / temperature: InfoNCE whose candidates are the prototypes."""
    return info_nce(embeddings, prototypes, _classes(labels, embeddings, prototypes), temperature=temperature, **slabs)


@spoken(queries="embeddings", candidates="prototypes")
def cos_face(
    embeddings: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
    *,
    margin: float = 0.35,
    temperature: float = 1 / 64,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Cross-entropy with `margin` taken off the own class's cosine (Wang 2018, arXiv 1801.09414). Rows are made unit; scale 64."""
    temperature = fixed("temperature", temperature)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = slab.positive[:, None]
        shifted = logits.scatter_add(1, own, torch.full_like(logits[:, :1], -margin / temperature))
        return shifted.logsumexp(dim=1) - shifted.gather(1, own)[:, 0]

    targets = _classes(labels, embeddings, prototypes)
    return row_losses(loss, unit(embeddings), unit(prototypes), targets, temperature=temperature, **slabs)


@spoken(queries="embeddings", candidates="prototypes")
def arc_face(
    embeddings: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
    *,
    margin: float = 0.5,
    temperature: float = 1 / 64,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """Cross-entropy with `margin` radians added to the own class's angle (Deng 2019, arXiv 1801.07698). Rows are made unit; scale 64.

    Beyond the angle pi - margin, where the cosine would rise again, the cosine less margin x sin(margin) continues it.
    """
    temperature = fixed("temperature", temperature)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = slab.positive[:, None]
        cosine = (logits.gather(1, own) * temperature).clamp(-1 + 1e-7, 1 - 1e-7)
        turned = cosine * math.cos(margin) - (1 - cosine.square()).sqrt() * math.sin(margin)
        kept = torch.where(cosine > math.cos(math.pi - margin), turned, cosine - margin * math.sin(margin))
        shifted = logits.scatter(1, own, kept / temperature)
        return shifted.logsumexp(dim=1) - shifted.gather(1, own)[:, 0]

    targets = _classes(labels, embeddings, prototypes)
    return row_losses(loss, unit(embeddings), unit(prototypes), targets, temperature=temperature, **slabs)


@spoken(queries="embeddings", candidates="prototypes")
def proxy_nca(
    embeddings: Float[Tensor, "b d"],
    prototypes: Float[Tensor, "c d"],
    labels: Int[Tensor, " b"],
    *,
    temperature: float = 1.0,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """-log(exp(-d(own)) / sum over other classes of exp(-d)), d the squared distance of unit rows (Movshovitz-Attias 2017, arXiv 1703.07464).

    The own prototype is not below the line. d = 2 - 2 cosine, so this is the decoupled loss at half the temperature.
    """
    targets = _classes(labels, embeddings, prototypes)
    half = temperature / 2
    return decoupled(unit(embeddings), unit(prototypes), targets, temperature=half, **slabs)


def _classes(labels: Tensor, embeddings: Tensor, prototypes: Tensor) -> Targets:
    found = check_labels(labels, len(embeddings), embeddings.device)
    outside = ((found < 0) | (found >= len(prototypes))).nonzero()
    if len(outside):
        row = int(outside[0])
        raise BadInput(f"labels: row {row} has the class {int(found[row])}; there are {len(prototypes)} prototypes, from 0.")
    return Targets(found)
