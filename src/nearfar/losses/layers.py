"""Losses over several layers of one encoder: every layer is trained, and taught by the last.

Li 2024, "2D Matryoshka Sentence Embeddings" (arXiv 2402.14776). Layers are given first to last; the last is the one that is kept in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nearfar.errors import BadInput
from nearfar.losses.checks import above_zero
from nearfar.similarity.distances import refuse_bad_rows
from nearfar.types import Loss, Targets

Layers = Sequence[Float[Tensor, "b d"]]
"""The same rows out of several layers, first to last; a tensor [layers, b, d] is one too."""

LayersLoss = Callable[[Layers, Layers, Targets | None], Float[Tensor, " b"]]
"""(layers of the queries, layers of the candidates, targets) -> one loss per row."""


def layerwise(loss: Loss, factors: Sequence[float] | None = None) -> LayersLoss:
    """The sum over layers of factor x `loss` of that layer's rows (Li 2024, section 3.2).

    `factors`, one per layer, default to 1 for the last and 1 / (layers - 1) for each other: the last, and the mean of the others. With
    `matryoshka(loss, dims)` in the place of `loss` both layers and dimensions are nested. Raises `BadInput` where the counts differ.
    """

    def over(queries: Layers, candidates: Layers, targets: Targets | None = None) -> Float[Tensor, " b"]:
        depth = len(queries)
        if depth == 0 or len(candidates) != depth:
            raise BadInput(f"candidates: {len(candidates)} layers beside {depth} of the queries. Give the same layers of both.")
        scales = [*[1 / max(1, depth - 1)] * (depth - 1), 1.0] if factors is None else list(factors)
        if len(scales) != depth:
            raise BadInput(f"factors: found {len(scales)} for {depth} layers. Give one per layer, first to last.")
        first, *rest = [f * loss(q, c, targets) for f, q, c in zip(scales, queries, candidates, strict=True)]
        return sum(rest, first)

    return over


def layer_kl(layers: Layers, *, temperature: float | Tensor = 0.3) -> Float[Tensor, " b"]:
    """KL(last || layer) of the softmax over dimensions of each row, summed over the earlier layers, times temperature (Li 2024, section 3.3).

    The last layer teaches and gets no gradient. Raises `BadInput` for fewer than two layers, layers of different shapes, and rows that are
    not finite.
    """
    if len(layers) < 2:
        raise BadInput(f"layers: found {len(layers)}. The last teaches the earlier ones: give at least 2.")
    for place, rows in enumerate(layers):
        refuse_bad_rows(**{f"layers[{place}]": rows})
        if rows.shape != layers[0].shape:
            raise BadInput(
                f"layers[{place}]: {tuple(rows.shape)} beside {tuple(layers[0].shape)}. Give the same rows of every layer."
            )
    knob = above_zero("temperature", temperature)
    teacher = (layers[-1] / knob).detach().log_softmax(dim=1)
    each = [(teacher.exp() * (teacher - (rows / knob).log_softmax(dim=1))).sum(dim=1) for rows in layers[:-1]]
    return torch.stack(each).sum(dim=0) * knob
