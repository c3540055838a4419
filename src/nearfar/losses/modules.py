"""Modules where a loss has parameters of its own: each holds them and calls the function of its name.

Hand their parameters to the optimizer (without weight decay for temperature and bias), and call `temperature.clamp_()` after each step.
"""

from __future__ import annotations

from typing import Protocol, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.errors import BadInput
from nearfar.losses.info_nce import info_nce
from nearfar.losses.prototypes import softmax_classes
from nearfar.losses.temperature import Temperature
from nearfar.losses.two_views import clip, siglip
from nearfar.similarity.slabs import SlabOptions
from nearfar.types import Targets


class InfoNCE(nn.Module):
    """`info_nce` with a learned temperature (default: CLIP's start and bounds)."""

    def __init__(self, temperature: Temperature | None = None) -> None:
        super().__init__()
        self.temperature = temperature if temperature is not None else Temperature()

    def forward(
        self,
        queries: Float[Tensor, "b d"],
        candidates: Float[Tensor, "n d"],
        targets: Targets | None = None,
        *,
        memory: Float[Tensor, "m d"] | None = None,
        **slabs: Unpack[SlabOptions],
    ) -> Float[Tensor, " b"]:
        return info_nce(queries, candidates, targets, temperature=self.temperature(), memory=memory, **slabs)


class CLIP(nn.Module):
    """`clip` with a learned temperature, from 0.07, the scale at most 100 (Radford 2021, arXiv 2103.00020, section 2.5)."""

    def __init__(self, temperature: Temperature | None = None) -> None:
        super().__init__()
        self.temperature = temperature if temperature is not None else Temperature()

    def forward(
        self,
        a: Float[Tensor, "b d"],
        b: Float[Tensor, "b d"],
        targets: Targets | None = None,
        **slabs: Unpack[SlabOptions],
    ) -> Float[Tensor, " b"]:
        return clip(a, b, targets, temperature=self.temperature(), **slabs)


class SigLIP(nn.Module):
    """`siglip` with temperature and bias learned: t' = log 10 and b = -10 to begin with (Zhai 2023, arXiv 2303.15343, section 3.2)."""

    def __init__(self, temperature: Temperature | None = None, bias: float = -10.0) -> None:
        super().__init__()
        self.temperature = temperature if temperature is not None else Temperature(0.1)
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(
        self,
        a: Float[Tensor, "b d"],
        b: Float[Tensor, "n d"],
        targets: Targets | None = None,
        **slabs: Unpack[SlabOptions],
    ) -> Float[Tensor, " b"]:
        return siglip(a, b, targets, temperature=self.temperature(), bias=self.bias, **slabs)


class ClassLoss(Protocol):
    """A loss of rows against one prototype per class: `softmax_classes`, `cos_face`, `arc_face`, `proxy_nca`, or a partial of one."""

    def __call__(
        self, embeddings: Float[Tensor, "b d"], prototypes: Float[Tensor, "c d"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]: ...


class ClassPrototypes(nn.Module):
    """One learned prototype per class, unit rows drawn by `seed` to begin with, under a class loss; `functools.partial` sets its margin."""

    def __init__(self, classes: int, dim: int, loss: ClassLoss = softmax_classes, *, seed: int = 0) -> None:
        super().__init__()
        if classes < 2 or dim < 1:
            raise BadInput(f"classes, dim: expected at least 2 classes and 1 dimension, found {classes} and {dim}.")
        drawn = torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed))
        self.prototypes = nn.Parameter(F.normalize(drawn, dim=1))
        self.loss = loss

    def forward(self, embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        return self.loss(embeddings, self.prototypes, labels)
