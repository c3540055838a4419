"""Graded pairs put in order: a pair with the higher score should be the more similar one. These are one scalar by nature."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import above_zero, finite_numbers, spoken
from nearfar.similarity.distances import refuse_bad_rows, unit
from nearfar.similarity.slabs import SlabOptions, row_losses
from nearfar.types import SlabTargets


@spoken()
def cosent(
    a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], scores: Float[Tensor, " b"], *, temperature: float | Tensor = 0.05
) -> Float[Tensor, ""]:
    """log(1 + sum over score_i > score_j of exp((cos_j - cos_i) / temperature)): one scalar (Su 2022, CoSENT). Ties compare nothing.

    O(b log b): sorted by score, the partners of a pair are a suffix. Raises `BadInput` where all scores are equal: nothing is in order.
    """
    first, second = _unit_pairs(a, b)
    return _in_order((first * second).sum(dim=1), scores, temperature)


@spoken()
def angle(
    a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], scores: Float[Tensor, " b"], *, temperature: float | Tensor = 0.05
) -> Float[Tensor, ""]:
    """`cosent` of the angle between rows read as complex numbers, the first half real (Li and Li 2023, AnglE, arXiv 2309.12871).

    The similarity is |sum of the real and imaginary parts of a / b|, both of unit length; an odd dimension is filled with a zero.
    """
    first, second = _unit_pairs(a, b)
    if first.shape[1] % 2:
        first, second = (torch.cat([rows, rows.new_zeros(len(rows), 1)], dim=1) for rows in (first, second))
    (a_re, a_im), (b_re, b_im) = first.chunk(2, dim=1), second.chunk(2, dim=1)
    real = (a_re * b_re + a_im * b_im).sum(dim=1)
    imaginary = (a_im * b_re - a_re * b_im).sum(dim=1)
    return _in_order((real + imaginary).abs(), scores, temperature)


@spoken()
def pairwise_logistic(
    a: Float[Tensor, "b d"],
    b: Float[Tensor, "b d"],
    scores: Float[Tensor, " b"],
    *,
    temperature: float | Tensor = 0.05,
    **slabs: Unpack[SlabOptions],
) -> Float[Tensor, ""]:
    """Mean over score_i > score_j of log(1 + exp((cos_j - cos_i) / temperature)): one scalar (Burges 2005, RankNet, its cost at certainty).

    Over slabs: no b x b. Where `cosent` is ruled by the worst pair, here every pair counts. Raises `BadInput` as `cosent`.
    """
    first, second = _unit_pairs(a, b)
    similarities = (first * second).sum(dim=1)
    temperature = _checked(similarities, scores, temperature)
    one = torch.ones_like(similarities)
    # the engine multiplies rows: (1, -cos_i) . (cos_j, 1) = cos_j - cos_i
    left, right = torch.stack([one, -similarities], dim=1), torch.stack([similarities, one], dim=1)

    def loss(logits: Tensor, slab: SlabTargets) -> Tensor:
        below = scores[slab.start : slab.start + len(logits), None] > scores
        return torch.where(below, F.softplus(logits), 0.0).sum(dim=1)

    _, counts = scores.unique(return_counts=True)
    pairs = (len(scores) ** 2 - int(counts.square().sum())) // 2
    return row_losses(loss, left, right, temperature=temperature, **slabs).sum() / pairs


def _unit_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    refuse_bad_rows(a=a, b=b)
    if len(a) != len(b):
        raise BadInput(f"b: expected {len(a)} rows, one per row of `a`, found {len(b)}.")
    return unit(a), unit(b)


def _checked(similarities: Tensor, scores: Tensor, temperature: float | Tensor) -> float | Tensor:
    finite_numbers("scores", scores, (len(similarities),), "pair")
    if bool((scores == scores[0]).all()):
        raise BadInput(
            f"scores: all {len(scores)} are equal, so no pair is above another. Use a larger batch, or another loss."
        )
    return above_zero("temperature", temperature)


def _in_order(similarities: Tensor, scores: Tensor, temperature: float | Tensor) -> Tensor:
    temperature = _checked(similarities, scores, temperature)
    ordered, order = scores.sort()
    logits = similarities[order] / temperature
    # suffix[k] = log sum over i >= k of exp(-logit_i); nothing lies beyond the end
    suffix = (-logits).flip(0).logcumsumexp(0).flip(0)
    above = torch.searchsorted(ordered.contiguous(), ordered.contiguous(), right=True)
    has = above < len(scores)
    terms = logits[has] + suffix[above[has]]
    return torch.cat([terms.new_zeros(1), terms]).logsumexp(0)
