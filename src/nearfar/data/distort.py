"""What can be done to the pixels of many pictures at once, each by its own amount: crops, colours, blur. In place where the name ends in `_`.

Pixels are float32 [n, 3, h, w] in 0..1, RGB; an amount is one number a picture, [n]. Brightness, contrast, saturation, grey and solarizing are pillow's (`ImageEnhance`,
`convert("L")`, `ImageOps.solarize`) and the resizing is its bicubic, without the rounding between steps; hue is turned in HSV, whose value and chroma stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nearfar.errors import BadInput

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey (ITU-R BT.601), as pillow and JPEG have them."""
_REACH = 6.0
"""Standard deviations beyond which a Gaussian adds nothing to a float32."""


def resize_boxes(pixels: Tensor, boxes: Int[Tensor, "n 4"], size: int) -> Float[Tensor, "n 3 s s"]:
    """Each picture's box (top, left, height, width) of uint8 [n, 3, h, w], resized by pillow's bicubic (a = -0.5, wider where it shrinks), as float in 0..1.

    Raises `BadInput` for a box that is empty or reaches beyond the picture.
    """
    n, _, height, width = pixels.shape
    top, left, tall, wide = boxes.unbind(1)
    if n and (int(boxes.min()) < 0 or int(torch.minimum(tall, wide).min()) < 1):
        raise BadInput(f"boxes: {boxes.tolist()[0]} ...: expected top, left >= 0 and height, width >= 1.")
    if n and (int((top + tall).max()) > height or int((left + wide).max()) > width):
        raise BadInput(f"boxes: one reaches beyond the pictures, which are {height} x {width} pixels.")
    found = torch.empty(n, 3, size, size, device=pixels.device)
    for row, (y, x, h, w) in enumerate(boxes.tolist()):
        part = pixels[row : row + 1, :, y : y + h, x : x + w].float()
        found[row] = part[0] if (h, w) == (size, size) else F.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]
    return found.mul_(1 / 255).clamp_(0, 1)  # bicubic overshoots


def flip_(x: Tensor, chosen: Bool[Tensor, " n"]) -> None:
    """Mirror the chosen pictures, left to right."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows):
        x[rows] = x[rows].flip(-1)


def _each(amount: Tensor, x: Tensor) -> Tensor:
    return amount.to(x)[:, None, None, None]


def _grey(x: Tensor) -> Float[Tensor, "n 1 h w"]:
    return (x[:, :1] * GREY[0]).add_(x[:, 1:2], alpha=GREY[1]).add_(x[:, 2:], alpha=GREY[2])


def grey_(x: Tensor) -> None:
    """All three channels become the picture's grey."""
    x.copy_(_grey(x).expand_as(x))


def brightness_(x: Tensor, factor: Float[Tensor, " n"]) -> None:
    """Times the factor: 0 is black, 1 changes nothing."""
    x.mul_(_each(factor, x)).clamp_(0, 1)


def contrast_(x: Tensor, factor: Float[Tensor, " n"]) -> None:
    """Away from the picture's mean grey: 0 is that grey all over, 1 changes nothing."""
    mean = x.mean((2, 3)) @ torch.tensor(GREY, device=x.device)
    x.mul_(_each(factor, x)).add_(_each(mean * (1 - factor.to(x)), x)).clamp_(0, 1)


def saturation_(x: Tensor, factor: Float[Tensor, " n"]) -> None:
    """Away from each pixel's grey: 0 is a grey picture, 1 changes nothing."""
    grey = _grey(x).mul_(_each(1 - factor, x))
    x.mul_(_each(factor, x)).add_(grey).clamp_(0, 1)


def hue_(x: Tensor, turns: Float[Tensor, " n"]) -> None:
    """Turn the hue by so many turns, -0.5 to 0.5 (a third takes red to green), HSV's value and saturation kept.

    A pixel stands on the hexagon of its value and chroma, at a place p of 0..6 along it (red 0, green 2, blue 4); each channel is the least of the three plus
    the chroma times 2 less its distance to p around the hexagon, held to 0..1 (Smith 1978, "Color gamut transform pairs"). So no HSV picture is made.
    """
    red, green, blue = x.unbind(1)
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - low
    is_red, is_green = red == high, green == high
    place = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    place.div_(chroma.clamp(min=1e-12))  # a grey has no hue and keeps none
    place.add_(torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))).add_((6 * turns.to(x))[:, None, None])
    for channel, corner in enumerate((0.0, 2.0, 4.0)):
        away = (place - corner).abs_()
        torch.minimum(away, (away - 6).abs_(), out=away)
        torch.addcmul(low, away.neg_().add_(2).clamp_(0, 1), chroma, out=x[:, channel])


def blur_(x: Tensor, sigma: Float[Tensor, " n"], radius: int) -> None:
    """Convolve with a Gaussian of `sigma` pixels, cut off at `radius` pixels either side and summing to 1; edges are mirrored.

    Taps that add nothing to a float32 are not taken: a narrow Gaussian costs less.
    """
    radius = min(radius, min(x.shape[2:]) - 1)
    if radius < 1:
        return
    away = torch.arange(radius + 1.0, device=x.device)
    weights = torch.exp(-0.5 * (away / sigma.to(x)[:, None]) ** 2)
    weights = weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
    reach = min(radius, max(1, int(torch.ceil(_REACH * sigma.max()))))
    for dim, pad in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        wide = F.pad(x, pad, mode="reflect")
        length = x.shape[dim]
        torch.mul(wide.narrow(dim, reach, length), weights[:, 0, None, None, None], out=x)
        for step in range(1, reach + 1):
            both = wide.narrow(dim, reach - step, length) + wide.narrow(dim, reach + step, length)
            x.addcmul_(both, weights[:, step, None, None, None])


def solarize_(x: Tensor, threshold: float) -> None:
    """Turn every value from the threshold on into its complement."""
    torch.where(x >= threshold, 1 - x, x, out=x)
