"""Relatives of InfoNCE: what stands below the line, and with what weight, is another; each a plain function of one slab."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import fixed, spoken
from nearfar.losses.labels import LabelOptions, Pairs, label_losses
from nearfar.similarity.slabs import SlabOptions, row_losses
from nearfar.types import SlabTargets, Targets


@spoken()
def decoupled(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.1,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """InfoNCE without the positive below the line (Yeh 2022, "Decoupled Contrastive Learning", arXiv 2110.06848)."""

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = _own(slab, logits)
        return _kept(logits, slab).scatter(1, own, -torch.inf).logsumexp(dim=1) - logits.gather(1, own)[:, 0]

    return row_losses(loss, queries, candidates, targets, temperature=temperature, **slabs)


@spoken()
def debiased(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float = 0.5,
    positive_prior: float = 0.1,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """InfoNCE corrected for negatives that are positives with probability `positive_prior` (Chuang 2020, arXiv 2007.00224, eq. 8, M = 1).

    The estimate of the negatives' part is bounded below by n exp(-1 / temperature), its least value for unit rows.
    """
    if not 0 <= positive_prior < 1:
        raise BadInput(f"positive_prior: expected a probability from 0 to below 1, found {positive_prior}.")
    temperature = fixed("temperature", temperature)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = _own(slab, logits)
        kept = _kept(logits, slab)
        positive = logits.gather(1, own)[:, 0]
        top = kept.amax(dim=1).detach()
        negatives = kept.scatter(1, own, -torch.inf)
        count = (negatives > -torch.inf).sum(dim=1).to(logits)  # an integer times a Python number would be float32
        # everything times exp(-top), so that nothing overflows
        above = (positive - top).exp()
        rest = ((negatives - top[:, None]).exp().sum(dim=1) - positive_prior * count * above) / (1 - positive_prior)
        least = count * (-1.0 / temperature - top).exp()
        return (above + torch.maximum(rest, least)).log() + top - positive

    return row_losses(loss, queries, candidates, targets, temperature=temperature, **slabs)


@spoken()
def hardness_weighted(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float = 0.05,
    strength: float = 9.0,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """InfoNCE whose negatives weigh exp(strength x similarity), the weight taken as a constant (Lan 2025, LLaVE, arXiv 2503.04812, eq. 5)."""

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = _own(slab, logits)
        extra = (logits.detach() * (strength * temperature)).scatter(1, own, 0.0)
        return _kept(logits + extra, slab).logsumexp(dim=1) - logits.gather(1, own)[:, 0]

    return row_losses(loss, queries, candidates, targets, temperature=temperature, **slabs)


@spoken()
def smoothed(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.05,
    smoothing: float = 0.1,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """InfoNCE with label smoothing: the target is 1 - e on the positive and e spread evenly over all kept columns (Szegedy 2016; ALIGN)."""
    if not 0 <= smoothing < 1:
        raise BadInput(f"smoothing: expected a share from 0 to below 1, found {smoothing}.")

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        valid = torch.ones_like(logits, dtype=torch.bool) if slab.valid is None else slab.valid
        mean = torch.where(valid, logits, 0.0).sum(dim=1) / valid.sum(dim=1)
        positive = logits.gather(1, _own(slab, logits))[:, 0]
        return _kept(logits, slab).logsumexp(dim=1) - (1 - smoothing) * positive - smoothing * mean

    return row_losses(loss, queries, candidates, targets, temperature=temperature, **slabs)


@spoken()
def positive_aware(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.05,
    share: float | None = 0.95,
    margin: float | None = None,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, " b"]:
    """InfoNCE less the negatives whose own similarity exceeds `share` x the positive's, or the positive's less `margin` (Moreira 2024).

    NV-Retriever, arXiv 2407.15831, section 3.1, TopK-PercPos and TopK-MarginPos, here on the batch itself and taken as a constant: a guide that costs nothing.
    `margin` replaces `share` where given. A row all of whose negatives are left out has loss 0 and no gradient:
    that is the model's doing, while it is yet untrained or the positive is wrong; see how many rows are exactly 0.
    """
    if margin is not None:
        share = None
    if share is not None and not 0 < share <= 1:
        raise BadInput(f"share: expected a share of the positive's similarity, above 0 to 1, found {share}.")
    if share is None and margin is None:
        raise BadInput("share, margin: found None for both. Give one.")
    knob = temperature.detach() if isinstance(temperature, Tensor) else torch.tensor(float(temperature))

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = _own(slab, logits)
        positive = logits.gather(1, own)
        limit = positive.detach() * (1.0 if share is None else share)
        if margin is not None:  # logits are similarities over the temperature
            here = knob if knob.numel() == 1 else knob[slab.start : slab.start + len(logits), None]
            limit = limit - margin / here.to(limit)
        above = (logits > limit).scatter(1, own, False)
        return _kept(logits, slab).masked_fill(above, -torch.inf).logsumexp(dim=1) - positive[:, 0]

    return row_losses(loss, queries, candidates, targets, temperature=temperature, **slabs)


@spoken()
def sup_con(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    *,
    temperature: float | Tensor = 0.1,
    form: Literal["out", "in"] = "out",
    **options: Unpack[LabelOptions],
) -> Float[Tensor, " b"]:
    """Supervised contrast: every other row of the same label is a positive, all other rows stand below the line (Khosla 2020).

    arXiv 2004.11362: form "out" is eq. 2 (the mean over positives outside the log), "in" is eq. 3. `labels` [b] are integers. Pass unit
    rows. `memory` and `memory_labels` add columns of earlier batches (XBM). Raises `BadInput` for a row whose label no other row has.
    """
    if form not in ("out", "in"):
        raise BadInput(f"form: found {form!r}. Choose out (eq. 2) or in (eq. 3).")

    def loss(logits: Tensor, pairs: Pairs) -> Tensor:
        below = logits.scatter(1, pairs.own[:, None], -torch.inf).logsumexp(dim=1)
        if form == "out":
            return below - pairs.positives(logits, 0.0).sum(dim=1) / pairs.positive_count()
        return below - pairs.positives(logits, -torch.inf).logsumexp(dim=1) + pairs.positive_count().to(logits).log()

    return label_losses(loss, embeddings, labels, temperature=temperature, needs_negative=False, **options)


def _own(slab: SlabTargets, logits: Tensor) -> Tensor:
    return slab.positive[:, None].to(logits.device)


def _kept(logits: Tensor, slab: SlabTargets) -> Tensor:
    return logits if slab.valid is None else logits.masked_fill(~slab.valid, -torch.inf)
