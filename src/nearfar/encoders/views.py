"""The view of a picture that an image tower sees in training: which augmentation, and where its chance comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nearfar.data.augment import Augmentation, views
from nearfar.encoders.dropout import next_seed

AugmentKind = Literal["none", "light", "cifar", "simclr"]
"""The picture itself; CLIP's light crop; SimCLR's views of small pictures, without blur; SimCLR's, with blur."""


@dataclass(frozen=True)
class View:
    """Pictures uint8 [n, 3, s, s] to one view of each, [n, 3, size, size] from 0 to 1.

    The draw is seeded from torch's global generator, as dropout's is: whoever replays that generator sees the same views.
    """

    augmentation: Augmentation

    def __call__(self, pictures: Tensor) -> Tensor:
        generator = torch.Generator(pictures.device).manual_seed(next_seed())
        return views(pictures, self.augmentation, generator)


def make_view(kind: AugmentKind, size: int, strength: float = 1.0) -> View | None:
    """The view of this kind for pictures of `size` pixels; `strength` is that of SimCLR's colours. None where it is the picture itself."""
    if kind == "none":
        return None
    if kind == "light":
        return View(Augmentation.light(size))
    return View(Augmentation.cifar(size) if kind == "cifar" else Augmentation.simclr(size, strength))
