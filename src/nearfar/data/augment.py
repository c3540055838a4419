"""Views of pictures: random crops, flips, colours and blur, drawn from one generator and applied to whole batches.

SimCLR: Chen 2020, arXiv 2002.05709, appendix A (crop, flip, colour distortion, blur) and B.9 (CIFAR-10); what the paper leaves open is as in its code, `tf2/data_util.py`.
One draw of `DRAWS` uniform numbers a picture decides everything, whatever is switched on, so a view depends on the generator and its place in the batch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from nearfar.data.distort import blur_, brightness_, contrast_, flip_, grey_, hue_, resize_boxes, saturation_, solarize_
from nearfar.errors import BadConfig, BadInput

TRIES = 10
"""Boxes drawn for a crop; where none fits, the largest in the middle of an allowed shape is taken."""
DRAWS = 2 * TRIES + 16
AT_ONCE = 1 << 18
"""Numbers of a float picture worked on together: what stays in the cache of a core."""


@dataclass(frozen=True)
class Augmentation:
    """How a view is drawn from a picture. Probabilities are 0..1, amounts 0 (nothing) and more; the order is that of the fields.

    Raises `BadConfig` for a value that is none. A view is [3, size, size], whatever the size of the picture.
    """

    size: int
    """Pixels of a side of the view."""
    area: tuple[float, float] = (1.0, 1.0)
    """The share of the picture's area that a crop keeps, uniform between these."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width to height of a crop, uniform in its logarithm between these."""
    flip: float = 0.0
    """Probability of being mirrored, left to right."""
    jitter: float = 0.0
    """Probability of the four colour changes, which come together and in random order."""
    brightness: float = 0.0
    """Times a factor from 1 less this (0 at least) to 1 more; likewise the next two."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Turned by up to so many turns, either way; 0.5 is every hue."""
    grey: float = 0.0
    """Probability of being made grey."""
    blur: float = 0.0
    """Probability of a Gaussian blur, over `size // 10` pixels (made odd)."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """The blur's standard deviation in pixels, uniform between these."""
    solarize: float = 0.0
    """Probability of turning what is light into its complement."""
    threshold: float = 0.5
    """What counts as light, from 0 (black) to 1."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadConfig(f"size {self.size}: a view has at least 1 pixel a side.")
        for name in ("flip", "jitter", "grey", "blur", "solarize", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadConfig(f"{name} {getattr(self, name)}: expected 0 to 1.")
        for name, top in (("brightness", math.inf), ("contrast", math.inf), ("saturation", math.inf), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= top:
                raise BadConfig(f"{name} {getattr(self, name)}: expected 0 to {top:g}.")
        for name, top in (("area", 1.0), ("ratio", math.inf), ("sigma", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= top:
                raise BadConfig(
                    f"{name} {low}, {high}: expected two numbers above 0, the smaller first"
                    + (", 1 at most." if top == 1 else ".")
                )

    @classmethod
    def none(cls, size: int) -> Self:
        """The picture itself, resized."""
        return cls(size)

    @classmethod
    def light(cls, size: int) -> Self:
        """What CLIP is trained with: a crop of nine tenths of the area and more, nothing that a caption may speak of (open_clip's default)."""
        return cls(size, area=(0.9, 1.0))

    @classmethod
    def simclr(cls, size: int, strength: float = 1.0) -> Self:
        """SimCLR on ImageNet (appendix A): crops of 8 % of the area and more, colours of this strength, grey, blur."""
        return cls(
            size,
            (0.08, 1.0),
            (3 / 4, 4 / 3),
            0.5,
            0.8,
            0.8 * strength,
            0.8 * strength,
            0.8 * strength,
            0.2 * strength,
            0.2,
            0.5,
        )

    @classmethod
    def cifar(cls, size: int = 32) -> Self:
        """SimCLR on CIFAR-10 (appendix B.9): colours of half the strength, no blur."""
        return cls(size, (0.08, 1.0), (3 / 4, 4 / 3), 0.5, 0.8, 0.4, 0.4, 0.4, 0.1, 0.2)

    @property
    def is_none(self) -> bool:
        """Whether every view is the picture itself."""
        chances = (self.flip, self.jitter, self.grey, self.blur, self.solarize)
        return self.area == (1.0, 1.0) and not any(chances)


class Drawn(NamedTuple):
    """What was drawn for n pictures."""

    boxes: Int[Tensor, "n 4"]
    """Top, left, height, width of each crop."""
    flip: Bool[Tensor, " n"]
    jitter: Bool[Tensor, " n"]
    amounts: Float[Tensor, "n 4"]
    """Factors of brightness, contrast and saturation, and the turn of the hue."""
    order: Int[Tensor, "n 4"]
    """The columns of `amounts` in the order in which they are applied."""
    grey: Bool[Tensor, " n"]
    blur: Bool[Tensor, " n"]
    sigma: Float[Tensor, " n"]
    solarize: Bool[Tensor, " n"]


_COLOURS: tuple[Callable[[Tensor, Tensor], None], ...] = (brightness_, contrast_, saturation_, hue_)


def views(
    pixels: UInt8[Tensor, "n 3 h w"], augmentation: Augmentation, generator: torch.Generator | None = None
) -> Float[Tensor, "n 3 s s"]:
    """One view of each picture, float32 in 0..1. Nothing is normalized: that is the encoder's affair.

    Numbers are drawn from `generator`, wherever it is (None: torch's global one of the CPU, so views are the same on every device). Memory beyond the views: a few MB.
    Raises `BadInput` for anything but uint8 [n, 3, h, w].
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3 or not min(pixels.shape[2:]):
        raise BadInput(f"pixels: {pixels.dtype} {list(pixels.shape)}, expected uint8 [n, 3, h, w].")
    drawn = draw(len(pixels), (pixels.shape[2], pixels.shape[3]), augmentation, generator)
    size = augmentation.size
    found = torch.empty(len(pixels), 3, size, size, device=pixels.device)
    step = max(1, AT_ONCE // (3 * size * size))
    for start in range(0, len(pixels), step):
        part = Drawn(*(value[start : start + step] for value in drawn))
        x = resize_boxes(pixels[start : start + step], part.boxes, size)
        _distort(x, part, augmentation)
        found[start : start + step] = x
    return found


def _distort(x: Tensor, drawn: Drawn, augmentation: Augmentation) -> None:
    flip_(x, drawn.flip)
    is_used = [bool(getattr(augmentation, name)) for name in ("brightness", "contrast", "saturation", "hue")]
    for turn in range(4):
        for column, change in enumerate(_COLOURS):
            if is_used[column]:
                _where(x, drawn.jitter & (drawn.order[:, turn] == column), change, drawn.amounts[:, column])
    _where(x, drawn.grey, lambda part, _: grey_(part), drawn.sigma)
    _where(x, drawn.blur, lambda part, sigma: blur_(part, sigma, augmentation.size // 10 // 2), drawn.sigma)
    _where(x, drawn.solarize, lambda part, _: solarize_(part, augmentation.threshold), drawn.sigma)


def _where(x: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], None], amount: Tensor) -> None:
    """Change the chosen pictures of x [n, ...], each by its amount [n]."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == len(x):
        change(x, amount)
    elif len(rows):
        part = x[rows]
        change(part, amount[rows])
        x[rows] = part


def draw(n: int, shape: tuple[int, int], augmentation: Augmentation, generator: torch.Generator | None = None) -> Drawn:
    """What is done to each of n pictures of this height and width."""
    device = "cpu" if generator is None else generator.device
    numbers = torch.rand(n, DRAWS, generator=generator, device=device).cpu()
    areas, ratios, rest = numbers[:, :TRIES], numbers[:, TRIES : 2 * TRIES], numbers[:, 2 * TRIES :]
    jitters = torch.tensor([augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue])
    middle = torch.tensor([1.0, 1.0, 1.0, 0.0])
    low, high = middle - jitters, middle + jitters
    low[:3].clamp_(min=0)
    amounts = low + (high - low) * rest[:, 4:8]
    low_sigma, high_sigma = augmentation.sigma
    return Drawn(
        _boxes(shape, augmentation, areas, ratios, rest[:, :2]),
        rest[:, 2] < augmentation.flip,
        rest[:, 3] < augmentation.jitter,
        amounts,
        rest[:, 8:12].argsort(dim=1),
        rest[:, 12] < augmentation.grey,
        rest[:, 13] < augmentation.blur,
        low_sigma + (high_sigma - low_sigma) * rest[:, 14],
        rest[:, 15] < augmentation.solarize,
    )


def _boxes(
    shape: tuple[int, int], augmentation: Augmentation, areas: Tensor, ratios: Tensor, places: Tensor
) -> Int[Tensor, "n 4"]:
    """The first box of each row that fits in the picture; [n, 4]."""
    height, width = shape
    if augmentation.area == (1.0, 1.0):  # nothing to draw: the picture as it is
        return torch.tensor([[0, 0, height, width]]).repeat(len(places), 1)
    low, high = augmentation.area
    area = height * width * (low + (high - low) * areas)
    least, most = (math.log(value) for value in augmentation.ratio)
    ratio = torch.exp(least + (most - least) * ratios)
    wide, tall = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    wide, tall, some = wide.gather(1, first)[:, 0], tall.gather(1, first)[:, 0], fits.any(dim=1)
    # none fits: the whole picture, cut to the nearest shape that is allowed
    whole = min(max(width / height, augmentation.ratio[0]), augmentation.ratio[1])
    wide = torch.where(some, wide, max(1, min(width, round(height * whole))))
    tall = torch.where(some, tall, max(1, min(height, round(width / whole))))
    top = torch.where(some, (places[:, 0] * (height - tall + 1)).long(), (height - tall) // 2)
    left = torch.where(some, (places[:, 1] * (width - wide + 1)).long(), (width - wide) // 2)
    return torch.stack([top.clamp(max=height - 1), left.clamp(max=width - 1), tall, wide], dim=1)
