"""Relatives of InfoNCE: what stands below the line, and with what weight, is another; each a plain function of one slab."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.similarity.slabs import row_losses
from nearfar.types import SlabTargets, Targets


def decoupled(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.1,
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """InfoNCE without the positive below the line (Yeh 2022, "Decoupled Contrastive Learning", arXiv 2110.06848)."""

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = _own(slab, logits)
        return _kept(logits, slab).scatter(1, own, -torch.inf).logsumexp(dim=1) - logits.gather(1, own)[:, 0]

    return row_losses(loss, queries, candidates, targets, temperature=temperature, rows_per_slab=rows_per_slab)


def debiased(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float = 0.5,
    positive_prior: float = 0.1,
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """InfoNCE corrected for negatives that are positives with probability `positive_prior` (Chuang 2020, arXiv 2007.00224, eq. 8, M = 1).

    The estimate of the negatives' part is bounded below by n exp(-1 / temperature), its least value for unit rows.
    """
    if not 0 <= positive_prior < 1:
        raise BadInput(f"positive_prior: expected a probability from 0 to below 1, found {positive_prior}.")

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

    return row_losses(loss, queries, candidates, targets, temperature=temperature, rows_per_slab=rows_per_slab)


def hardness_weighted(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float = 0.05,
    strength: float = 9.0,
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """InfoNCE whose negatives weigh exp(strength x similarity), the weight taken as a constant (Lan 2025, LLaVE, arXiv 2503.04812, eq. 5)."""

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        own = _own(slab, logits)
        extra = (logits.detach() * (strength * temperature)).scatter(1, own, 0.0)
        return _kept(logits + extra, slab).logsumexp(dim=1) - logits.gather(1, own)[:, 0]

    return row_losses(loss, queries, candidates, targets, temperature=temperature, rows_per_slab=rows_per_slab)


def smoothed(
    queries: Float[Tensor, "b d"],
    candidates: Float[Tensor, "n d"],
    targets: Targets | None = None,
    *,
    temperature: float | Tensor = 0.05,
    smoothing: float = 0.1,
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """InfoNCE with label smoothing: the target is 1 - e on the positive and e spread evenly over all kept columns (Szegedy 2016; ALIGN)."""
    if not 0 <= smoothing < 1:
        raise BadInput(f"smoothing: expected a share from 0 to below 1, found {smoothing}.")

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        valid = torch.ones_like(logits, dtype=torch.bool) if slab.valid is None else slab.valid
        mean = torch.where(valid, logits, 0.0).sum(dim=1) / valid.sum(dim=1)
        positive = logits.gather(1, _own(slab, logits))[:, 0]
        return _kept(logits, slab).logsumexp(dim=1) - (1 - smoothing) * positive - smoothing * mean

    return row_losses(loss, queries, candidates, targets, temperature=temperature, rows_per_slab=rows_per_slab)


def sup_con(
    embeddings: Float[Tensor, "b d"],
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    form: str = "out",
    rows_per_slab: int | None = None,
) -> Float[Tensor, " b"]:
    """Supervised contrast: every other row of the same label is a positive, all other rows stand below the line (Khosla 2020).

    arXiv 2004.11362: form "out" is eq. 2 (the mean over positives outside the log), "in" is eq. 3. `labels` [b] are integers. Pass unit
    rows. Raises `BadInput` for a row whose label no other row has.
    """
    if form not in ("out", "in"):
        raise BadInput(f"form: found {form!r}. Choose out (eq. 2) or in (eq. 3).")
    if labels.shape != (len(embeddings),) or labels.is_floating_point():
        raise BadInput(f"labels: expected {len(embeddings)} integers, found {tuple(labels.shape)} of {labels.dtype}.")
    columns = torch.arange(len(embeddings), device=embeddings.device)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        rows = columns[slab.start : slab.start + len(logits)]
        itself = rows[:, None] == columns
        positives = (labels[rows][:, None] == labels) & ~itself
        count = positives.sum(dim=1)
        if not bool(count.all()):
            row = slab.start + int((count == 0).nonzero()[0])
            raise BadInput(
                f"labels: row {row} has no positive: no other row has the label {int(labels[row])}. "
                "Sample at least two of each label, or leave the row out."
            )
        below = logits.masked_fill(itself, -torch.inf).logsumexp(dim=1)
        if form == "out":
            return below - torch.where(positives, logits, 0.0).sum(dim=1) / count
        return below - logits.masked_fill(~positives, -torch.inf).logsumexp(dim=1) + count.log()

    return row_losses(loss, embeddings, embeddings, temperature=temperature, rows_per_slab=rows_per_slab)


def _own(slab: SlabTargets, logits: Tensor) -> Tensor:
    return slab.positive[:, None].to(logits.device)


def _kept(logits: Tensor, slab: SlabTargets) -> Tensor:
    return logits if slab.valid is None else logits.masked_fill(~slab.valid, -torch.inf)
